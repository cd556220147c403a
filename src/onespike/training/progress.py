"""How far a run has come."""

import time
from dataclasses import dataclass, field
from typing import Any

#: An epoch keeps the energy budget up to this multiple of it: the ascent of the penalty's weight hovers around it.
WITHIN = 1.03


@dataclass
class Progress:
    """All of a run's state that is not a tensor, saved with every checkpoint."""

    epoch: int = 0  # epochs that are complete
    epochs_before: int = 0  # epochs that the weights it started from had been trained for, in other runs
    flops: float | None = None  # FLOPs spent on training, over all sessions; None where they are not counted
    flops_before: float | None = 0  # likewise, on the weights it started from, in other runs
    step: int = 0  # steps of the current epoch that are complete
    loss: float = 0.0  # sum of the loss over the images of the current epoch so far
    hits: float = 0.0  # of these images, how many were classified correctly
    images: int = 0  # number of these images
    epoch_seconds: float = 0.0  # time spent on them
    seconds: float = 0.0  # time spent on the run, over all its sessions
    best: float = -1.0  # highest quality so far: accuracy on the held-out images or, without any, the epoch
    enough: bool = False  # whether a callback has asked to end with the current epoch, and to test
    enough_of: int | None = None  # the recipe's epochs when it asked; a run of an older version does not know
    is_best: bool = False  # whether the weights of the last complete epoch are the best so far
    history: list[dict[str, Any]] = field(default_factory=list)  # a row for each complete epoch

    def start_clock(self) -> None:
        """Begin a session."""
        self._looked = time.monotonic()

    def tick(self) -> float:
        """Add the time since the last look at the clock to `seconds`, and return it."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        self.seconds += passed
        return passed

    def finish_epoch(self, row: dict[str, Any]) -> None:
        """Add an epoch's row to the history and begin the next; of equals, common on small sets, the later is best."""
        self.is_best = quality(row) >= self.best
        self.best = max(self.best, quality(row))
        self.history.append(row)
        self.epoch += 1
        self.step = self.images = 0
        self.loss = self.hits = self.epoch_seconds = 0.0
        self.tick()

    def compare_with(self, budget: float) -> None:
        """Compare all epochs with an energy budget in µJ, 0 for none; it may be another than they were trained by."""
        if not self.history:
            return
        saved = self.best_row()
        for row in self.history:
            if budget:
                energy = row.get("energy_uj")
                row["energy_of_budget"] = energy and energy / budget  # None where it is not known
            else:
                row.pop("energy_of_budget", None)
        self.best = quality(saved)

    def best_row(self) -> dict[str, Any]:
        """The row of the epoch whose weights are the best checkpoint."""
        # After another budget than it was chosen by, others may have a higher quality.
        return max(self.history, key=lambda row: (quality(row) == self.best, quality(row), row["epoch"]))


def counted(flops: float) -> float:
    """FLOPs as a checkpoint can hold them: from 2^63 on no whole number, but a float, which is good to 16 digits."""
    return flops if flops < 2**63 else float(flops)


def quality(row: dict[str, Any]) -> float:
    """Quality by which the best checkpoint is chosen: accuracy on the held-out images; without any, the epoch."""
    energy = row.get("energy_of_budget", 0.0)
    if energy is None:  # there is a budget, and of this epoch the energy is not known
        return -1.0
    if energy > WITHIN:  # below all that keep the energy budget: the nearer the better, from -1 to 0
        return 1 / energy - 1
    return row["epoch"] if row["valid_top1"] is None else row["valid_top1"]
