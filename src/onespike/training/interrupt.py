"""What stops a training: signals, which let the current step end first."""

import signal
import threading
import time
from typing import Any

#: Seconds in which signals count as one: what a scheduler sends to every process, a launcher passes on once more.
PATIENCE = 2.0


class Interrupt:
    """Ctrl-C, SIGTERM, SIGHUP: the first stops the loop after its step.

    One that comes more than `PATIENCE` later stops it at once and saves nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            numbers = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores SIGHUP
                numbers.append(signal.SIGHUP)
            self._before = {one: signal.signal(one, self._handle) for one in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, *_: object) -> None:
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
        elif time.monotonic() - self._since > PATIENCE:
            raise KeyboardInterrupt
