"""Neurons by name."""

from onespike.neurons.adaptive import AdaptiveLIF
from onespike.neurons.base import Neuron, NeuronConfig, expect_config
from onespike.neurons.lif import LIF
from onespike.neurons.plif import PLIF
from onespike.neurons.relu import ReLU
from onespike.neurons.ternary import Ternary

#: Kinds of neurons. To add one, add an entry: `NEURONS["mine"] = Mine`.
NEURONS: dict[str, type[Neuron]] = {"lif": LIF, "plif": PLIF, "adaptive": AdaptiveLIF, "ternary": Ternary, "relu": ReLU}


def make_neuron(channels: int, config: NeuronConfig | None = None, integrates: bool = True) -> Neuron:
    """Make a layer of neurons of the kind that its config names; `integrates` as for `Neuron`."""
    config = expect_config(config)
    return config.neuron(channels, config, integrates, **config.options)
