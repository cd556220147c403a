"""What tests of all folders share; the fixture `start` starts processes."""

import csv
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ONESPIKE = (sys.executable, "-m", "onespike")
#: No test waits for longer, in seconds, be the machine as busy as it may.
PATIENCE = 120


def wait_until(
    true: Callable[[], object], process: subprocess.Popen, patience: float = PATIENCE, every: float = 0.02
) -> None:
    """Wait until something is true, while a process runs that is to make it so; times are in seconds."""
    end, ended = time.monotonic() + patience, process.poll() is not None
    while not true():  # what a process did before it ended is seen
        assert not ended, (process.returncode, process.communicate(timeout=PATIENCE))
        assert time.monotonic() < end, f"it has not come true in {patience} s"
        time.sleep(every)
        ended = process.poll() is not None


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table that was written, by the names of its columns."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def raising(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    """A function that raises an error whatever it is given."""

    def act(*_: Any, **__: Any) -> Any:
        raise error

    return act


def thorough(cases: Sequence[Any], fast: int) -> list[Any]:
    """Cases for `parametrize`, of which all but the first are slow."""
    rest = (case if isinstance(case, tuple) else (case,) for case in cases[fast:])
    return [*cases[:fast], *(pytest.param(*case, marks=pytest.mark.slow) for case in rest)]
