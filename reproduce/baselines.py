"""Standard spiking networks that are too large to be trained here, by what was published of them."""

from dataclasses import dataclass, replace

import torch

from onespike.counting.operations import Operations, count_operations
from onespike.counting.products import Product
from onespike.models import create_model


@dataclass(frozen=True)
class Published:
    """A standard network by its published top-1 on CIFAR-10 and an assumed firing rate: nothing was measured here."""

    name: str
    time_steps: int
    accuracy: float
    firing_rate: float
    source: str

    def operations(self) -> Operations:
        """Count one CIFAR-10 image: dense numbers by running the network, accumulates by the assumed rate."""
        torch.manual_seed(0)
        network = create_model("spiking-resnet19", time_steps=self.time_steps)
        counted = count_operations(network, [torch.rand(1, 3, 32, 32)])
        layers = [replace(layer, products=tuple(map(self._at_rate, layer.products))) for layer in counted.layers]
        return replace(counted, layers=tuple(layers), neurons=())

    def _at_rate(self, product: Product) -> Product:
        if product.arrives == "real":
            return product
        done = self.firing_rate * product.reached
        return replace(product, rate=self.firing_rate, operations=done, nonzero=done)


_SOURCE = (
    "accuracy: Deng et al., Temporal Efficient Training of Spiking Neural Network via Gradient Re-weighting, ICLR 2022 "
    "(arXiv:2202.11946); architecture: Zheng et al., AAAI 2021; firing rate: ASSUMED, a range: none is published there"
)
#: Whether a claim holds may hang on the rate.
RESNET19 = tuple(
    Published(f"ResNet-19, T = {steps}, rate {rate}", steps, accuracy, rate, _SOURCE)
    for steps, accuracy in ((4, 94.44), (6, 94.50))
    for rate in (0.1, 0.2, 0.3)
)
