"""Ternary neurons: spikes with a sign."""

from typing import final

from torch import Tensor

from onespike.neurons.base import Neuron, step


@final
class Ternary(Neuron):
    """Leaky neurons that fire both ways; a reset by subtraction goes towards 0.

        V = alpha * P + I          S = 1 where V > threshold, -1 where V < -threshold, else 0

    Arguments, shapes and P are those of `LIF`. The surrogate acts around both thresholds.
    """

    signed = True

    def fire(self, potential: Tensor) -> Tensor:
        """S = 1 where V > threshold, -1 where V < -threshold, else 0."""
        threshold = self.threshold
        potential = potential if potential.dtype.is_signed else potential.float()  # else there is no -V
        return step(potential, threshold, self.surrogate) - step(-potential, threshold, self.surrogate)

    def fired_at(self, potential: Tensor, spikes: Tensor) -> Tensor:
        """|S|, with both surrogates: the derivative of an absolute value would be 0 where S is."""
        if not spikes.requires_grad:
            return self.fired(spikes)
        threshold = self.threshold
        return step(potential, threshold, self.surrogate) + step(-potential, threshold, self.surrogate)
