"""How far a run has come."""

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """All of a run's state that is not a tensor, saved with every checkpoint.

    Attributes:
        epoch: Epochs that are complete.
        epochs_before: Epochs that the weights it started from had been trained for, in other runs.
        step: Steps of the current epoch that are complete.
        loss: Sum of the loss over the images of the current epoch so far.
        hits: Of these images, how many were classified correctly.
        images: Number of these images.
        epoch_seconds: Time spent on them.
        seconds: Time spent on the run, over all its sittings.
        best: Highest quality so far: accuracy on the held-out images or, without any, the epoch.
        is_best: Whether the weights of the last complete epoch are the best so far.
        history: A row for each complete epoch.
    """

    epoch: int = 0
    epochs_before: int = 0
    step: int = 0
    loss: float = 0.0
    hits: float = 0.0
    images: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    best: float = -1.0
    is_best: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    def start_clock(self) -> None:
        """Begin a sitting."""
        self._looked = time.monotonic()

    def tick(self) -> float:
        """Add the time since the last look at the clock to `seconds`, and return it."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        self.seconds += passed
        return passed

    def finish_epoch(self, row: dict[str, Any], quality: float) -> None:
        """Put an epoch's row into the history and begin the next; of equals the later is best: small sets tie often."""
        self.is_best, self.best = quality >= self.best, max(self.best, quality)
        self.history.append(row)
        self.epoch += 1
        self.step = self.images = 0
        self.loss = self.hits = self.epoch_seconds = 0.0
        self.tick()
