"""The artificial twin of a spiking neuron: its output is its potential where that is positive, else 0."""

from typing import final

from torch import Tensor

from onespike.errors import OnespikeError
from onespike.neurons.base import Neuron, NeuronConfig


@final
class ReLU(Neuron):
    """Rectified potentials: no spikes, no threshold, no reset.

        V = alpha * P + I          out = max(V, 0)

    Arguments, shapes and P are those of `LIF`.
    """

    spiking = False

    @classmethod
    def check(cls, config: NeuronConfig) -> None:
        """Refuse a learnable threshold, and a reset."""
        if config.learnable_threshold != "none" or config.reset != "none":
            raise OnespikeError("neuron relu: it has no threshold to learn and nothing to reset")

    def fire(self, potential: Tensor) -> Tensor:
        """Return max(V, 0)."""
        return potential.relu()

    def kept(self, potential: Tensor, spikes: Tensor) -> Tensor:  # noqa: ARG002
        """Keep the whole potential over time: nothing resets it."""
        return potential
