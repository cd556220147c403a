"""What tests of processes share; the fixture `start` starts them, and none outlives its test."""

import subprocess
import sys
import time
from collections.abc import Callable

ONESPIKE = (sys.executable, "-m", "onespike")
#: No test waits for longer, in seconds, be the machine as busy as it may.
PATIENCE = 120


def wait_until(true: Callable[[], object], process: subprocess.Popen) -> None:
    """Wait until something is true, while a process runs that is to make it so."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert process.poll() is None, (process.returncode, process.communicate(timeout=PATIENCE))
        assert time.monotonic() < end, f"it has not come true in {PATIENCE} s"
        time.sleep(0.02)
