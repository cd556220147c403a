"""The paper's tables and figures, computed anew: our numbers beside the published ones."""

from onespike.paper.registry import PAPER
from onespike.paper.sweep import Setting, Sweep, run_sweep

__all__ = ["PAPER", "Setting", "Sweep", "run_sweep"]
