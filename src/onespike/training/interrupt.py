"""What stops a training: signals; the current step, or the test, ends first."""

import signal
import threading
import time
from typing import Any

from onespike.durable import is_full
from onespike.errors import OnespikeError, warn

#: Seconds in which signals count as one: what a scheduler sends to every process, a launcher passes on once more.
PATIENCE = 2.0


class Stopped(Exception):  # noqa: N818 - it is no error
    """The run was stopped by Ctrl-C, SIGTERM or SIGHUP; a checkpoint was saved first."""


def is_requested() -> bool:
    """Whether a training of this process was asked to stop, and is not over yet; any thread may ask."""
    handler = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return isinstance(handler, Interrupt) and handler.requested


class Interrupt:
    """Ctrl-C, SIGTERM, SIGHUP: the first stops the loop after its step, which raises `Stopped`.

    If no step comes any more, as in the test, it takes effect when the loop has ended: whoever called the loop would go
    on otherwise. A second one that comes more than `PATIENCE` later stops the loop at once and saves nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since, self._number = 0.0, 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            numbers = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores SIGHUP
                numbers.append(signal.SIGHUP)
            self._before = {one: signal.signal(one, self._handle) for one in numbers}
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # An error of the system, such as a full disk, ends the process as well, and says why nothing was saved.
        of_system = isinstance(error, OSError) or is_full(getattr(error, "__cause__", None))
        if self.requested and not (of_system or isinstance(error, Stopped | KeyboardInterrupt)):
            if isinstance(error, OnespikeError):
                warn(str(error))  # the signal takes its place
            signal.raise_signal(self._number)

    def _handle(self, number: int, _: object) -> None:
        if not self.requested:
            self.requested, self._since, self._number = True, time.monotonic(), number
        elif time.monotonic() - self._since > PATIENCE:
            raise KeyboardInterrupt
