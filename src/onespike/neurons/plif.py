"""Parametric leaky integrate-and-fire neurons (Fang et al. 2021): the decay is learned, and weighs the current too."""

from dataclasses import replace
from typing import final

from torch import Tensor

from onespike.neurons.base import Neuron, NeuronConfig, State, along_channels, expect_config


@final
class PLIF(Neuron):
    """LIF neurons with a learned decay for each layer, or, by `learnable_decay`, for each channel.

        V = alpha * P + (1 - alpha) * I          S = 1 where V > threshold, else 0          alpha = sigmoid(w)

    Arguments, shapes and P are those of `LIF`. 1 - alpha is the 1 / tau of "Incorporating Learnable Membrane Time
    Constant to Enhance Learning of Spiking Neural Networks"; it weighs the current at each time step, even at a single
    one. (Every neuron has a learned decay that leaves the current unscaled: `learnable_decay`.) Called directly, these
    neurons take potentials and only fire.
    """

    def __init__(self, channels: int, config: NeuronConfig | None = None, integrates: bool = True) -> None:
        config = expect_config(config)
        if config.learnable_decay == "none":
            config = replace(config, learnable_decay="layer")
        super().__init__(channels, config, integrates)

    def driven(self, currents: Tensor, before: State | None) -> Tensor:
        """(1 - alpha) * I + alpha * V(t-1) * (1 - S(t-1))."""
        if self.raw_decay is not None:
            currents = (1 - along_channels(self.decay, currents)) * currents
        return super().driven(currents, before)
