"""The standard streams, whose readers may go away."""

import os
from typing import Any


class Stream:
    """A standard stream that never stops the work: after its first `error` it writes to nowhere.

    The reader of a pipe may have seen enough, a disk may be full, a terminal gone. Characters that cannot be encoded
    are escaped.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream if stream is not None else open(os.devnull, "w")  # noqa: SIM115, PTH123
        self.error: OSError | None = None
        if hasattr(self.stream, "reconfigure"):
            self.stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, to nowhere after an error."""
        self._attempt(lambda: self.stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, likewise."""
        self._attempt(self.stream.flush)

    def _attempt(self, act: Any) -> None:
        try:
            act()
        except OSError as error:
            self.error = self.error or error
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())  # or the interpreter complains at its end
            os.close(nowhere)
