"""What `python -m reproduce NAME` can make."""

from collections.abc import Callable

from reproduce.ablation import ABLATION
from reproduce.accuracy import ACCURACY
from reproduce.choices import CHOICES
from reproduce.complexity import complexity
from reproduce.conversion import conversion
from reproduce.energy import energy
from reproduce.exports import exports
from reproduce.figure1 import FIGURE1
from reproduce.fusion import fusion
from reproduce.gradients import gradients
from reproduce.operations import OPERATIONS
from reproduce.over_time import EVENTS, TIME
from reproduce.pictures import pictures
from reproduce.plan import Sweep
from reproduce.sizes import models
from reproduce.table1 import table1
from reproduce.table2 import TABLE2
from reproduce.taylor import taylor
from reproduce.windows import WINDOWS

#: Tables and figures by name. A `Sweep` trains networks, and takes a budget and a recipe's options; of a function, the
#: command line takes the arguments, and it returns what its table is called, if not like itself. To add one, write a
#: module, and add its function or its sweep to a line: it is called by its name.
PAPER: dict[str, Sweep | Callable[..., str | None]] = {
    **{one.__name__: one for one in (table1, fusion, taylor, complexity, models, gradients, conversion)},
    **{one.name: one for one in (TABLE2, FIGURE1, ABLATION, ACCURACY, CHOICES, WINDOWS, EVENTS, TIME, OPERATIONS)},
    **{one.__name__: one for one in (energy, exports, pictures)},
}
