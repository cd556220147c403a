"""Counting what a network does while it looks at images, and what that would cost: one counter for all who ask."""

from onespike.counting.energy import CONVENTIONS, VARIANTS, Energy, EnergyTable
from onespike.counting.operations import Layer, Neurons, Operations, count_operations
from onespike.counting.products import Product

__all__ = ["CONVENTIONS", "VARIANTS", "Energy", "EnergyTable", "Layer", "Operations", "Product", "count_operations"]
__all__ += ["Neurons"]
