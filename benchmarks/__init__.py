"""Side-by-side timings, and the plain implementation that they and the tests compare with."""

import os

os.environ.pop("MPLBACKEND", None)  # figures go into files; a name that matplotlib does not know stops its import

from onespike.environment import commit

commit()  # of the code that is loaded now
