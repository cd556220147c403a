"""Proof that a network is strictly spiking: on real images, every weight layer behind the stem reads spikes alone."""

from typing import NamedTuple

from onespike.counting.operations import Operations
from onespike.counting.products import Product


class Reading(NamedTuple):
    """What one product of a layer read.

    Attributes:
        path: Where the layer is.
        product: What was multiplied, and what arrived there.
        stem: Whether it belongs to the first layer, which reads the image.
    """

    path: str
    product: Product
    stem: bool

    @property
    def holds(self) -> bool:
        """Whether spikes of one size arrived, nothing else; of the stem nothing is asked."""
        return self.stem or self.product.arrives == "binary"


def read_spikes(operations: Operations) -> list[Reading]:
    """Say of every weight layer, and of every product of two activations, what arrived there.

    Args:
        operations: What a network did on real images, from `count_operations`, `audit` or `audit_run`.

    Returns:
        One entry for each product, in the order of the network.
    """
    products = [(layer.path, product) for layer in operations.layers for product in layer.products]
    return [Reading(path, product, path == products[0][0]) for path, product in products]
