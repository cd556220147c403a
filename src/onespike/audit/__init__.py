"""What a network costs: operations, energy, memory and latency, counted on real images."""

from onespike.audit.audit import audit, audit_model, audit_run
from onespike.audit.report import Comparison, compare, save_report
from onespike.audit.result import Audit, read_spikes
from onespike.counting.energy import CONVENTIONS, VARIANTS, Energy, EnergyTable
from onespike.counting.operations import Layer, Operations, count_operations
from onespike.counting.products import Product

__all__ = [
    "CONVENTIONS",
    "VARIANTS",
    "Audit",
    "Comparison",
    "Energy",
    "EnergyTable",
    "Layer",
    "Operations",
    "Product",
    "audit",
    "audit_model",
    "audit_run",
    "compare",
    "count_operations",
    "read_spikes",
    "save_report",
]
