"""The paper's tables and figures, computed anew: our numbers beside the published ones."""

from reproduce.registry import PAPER
from reproduce.sweep import Setting, Sweep, run_sweep

__all__ = ["PAPER", "Setting", "Sweep", "run_sweep"]
