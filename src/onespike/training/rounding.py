"""Training with weights of 8 bits, so that an engine with integer weights computes what was trained.

The network computes with rounded weights, forwards and backwards; the optimiser moves exact ones, which are too fine to
be seen until they have moved to the next whole number (Jacob et al. 2018; the gradient of rounding is 1).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from onespike.functional import to_integers


class Rounding:
    """The convolutions and linear layers of a network, whose weights can be rounded for a while.

    Args:
        network: The network. Recurrent cells keep exact weights, as they do in the engine.
    """

    def __init__(self, network: nn.Module) -> None:
        self.weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Round the weights; put the exact ones back at the end."""
        exact = [weight.data for weight in self.weights]
        for weight in self.weights:
            integers, scale = to_integers(weight.data)
            weight.data = integers.mul_(scale)
        try:
            yield
        finally:
            for weight, data in zip(self.weights, exact, strict=True):
                weight.data = data
