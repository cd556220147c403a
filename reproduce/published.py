"""The paper's numbers, as printed. Nothing in here is computed."""

from typing import NamedTuple

#: Table 1 of the supplement, for th = 0.5: theta -> (S, grad D). It cuts off after two digits.
TABLE1 = {0.1: (0.05, -0.31), 0.3: (0.16, -0.21), 0.5: (0.22, -0.14), 0.7: (0.24, -0.13), 0.9: (0.20, -0.17)}

#: Test accuracy in percent after 300 epochs, by data set and unit: Table 2 of the supplement; LSTM and CNN from the
#: main text, the CNN's on CIFAR-10 from the released log. What is missing was not published.
ACCURACY = {
    "cifar10": {"mlp": 84.32, "rnn": 88.32, "birnn": 89.71, "gru": 91.66, "conv": 92.90},
    "cifar100": {"rnn": 64.33, "birnn": 64.17, "gru": 65.41, "lstm": 72.31, "conv": 72.41},
}


class Claim(NamedTuple):
    """What the paper says about energy.

    Attributes:
        text: In words.
        times: How many times the energy of this network the other one takes.
    """

    text: str
    times: float


#: By what the networks are held against: the ANN twin, a standard spiking network.
ENERGY = {
    "ann": Claim("energy 10x below the ANN's", 10.0),
    "snn": Claim("energy 3x below a standard SNN's", 3.0),
}
