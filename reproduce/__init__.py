"""The paper's tables and figures, computed anew: our numbers beside the published ones."""

import os

os.environ.pop("MPLBACKEND", None)  # figures go into files; a name that matplotlib does not know stops its import

from onespike.environment import commit
from reproduce.plan import Setting, Sweep
from reproduce.registry import PAPER
from reproduce.sweep import run_sweep

commit()  # of the code that is loaded now

__all__ = ["PAPER", "Setting", "Sweep", "run_sweep"]
