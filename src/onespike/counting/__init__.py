"""Count what a network does with images, and what that costs: one counter for audit, penalty, benchmarks, tables."""

from onespike.counting.energy import CONVENTIONS, VARIANTS, Energy, EnergyTable
from onespike.counting.operations import Layer, Operations, count_operations
from onespike.counting.products import Product
from onespike.counting.watching import Neurons

__all__ = ["CONVENTIONS", "VARIANTS", "Energy", "EnergyTable", "Layer", "Operations", "Product", "count_operations"]
__all__ += ["Neurons"]
