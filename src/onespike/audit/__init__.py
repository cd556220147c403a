"""What a network costs: operations, energy, memory and latency, counted on real images."""

from onespike.audit.audit import audit, audit_model, audit_run
from onespike.audit.report import Comparison, compare, save_report
from onespike.audit.result import Audit, read_spikes
from onespike.counting import CONVENTIONS, VARIANTS, Energy, EnergyTable, Layer, Operations, Product, count_operations

__all__ = ["CONVENTIONS", "VARIANTS", "Energy", "EnergyTable", "Layer", "Operations", "Product", "count_operations"]
__all__ += ["Audit", "Comparison", "audit", "audit_model", "audit_run", "compare", "read_spikes", "save_report"]
