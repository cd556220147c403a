"""What `onespike paper NAME` can make."""

from collections.abc import Callable

from onespike.paper.ablation import ABLATION
from onespike.paper.complexity import complexity
from onespike.paper.conversion import conversion
from onespike.paper.energy import energy
from onespike.paper.figure1 import FIGURE1
from onespike.paper.fusion import fusion
from onespike.paper.gradients import gradients
from onespike.paper.pareto import PARETO
from onespike.paper.sweep import Sweep
from onespike.paper.table1 import table1
from onespike.paper.table2 import TABLE2
from onespike.paper.taylor import taylor

#: Tables and figures by name. A `Sweep` trains networks, and takes a budget and a recipe's options; of a function, the
#: command line takes the arguments, and it returns what its files are called, if not like itself. To add one, write a
#: module and add a line.
PAPER: dict[str, Sweep | Callable[..., str | None]] = {
    "table1": table1,
    "fusion": fusion,
    "taylor": taylor,
    "complexity": complexity,
    "gradients": gradients,
    "conversion": conversion,
    "table2": TABLE2,
    "figure1": FIGURE1,
    "ablation": ABLATION,
    "pareto": PARETO,
    "energy": energy,
}
