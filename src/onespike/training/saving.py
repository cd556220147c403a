"""Saving a run while it trains: checkpoints, `metrics.csv`, the curves."""

import math
import time
from typing import TYPE_CHECKING, Any

from onespike.training.callbacks import Callback, Step

if TYPE_CHECKING:
    from onespike.training.trainer import Trainer

#: Seconds between two drawings of the curves while training goes on.
REDRAW = 30.0


class Saving(Callback):
    """Saves the last checkpoint every few minutes, when training stops and after each epoch, and the best one.

    Args:
        main: Whether this is the process that writes.
    """

    def __init__(self, main: bool) -> None:
        self.main, self._saved, self._drawn = main, time.monotonic(), -math.inf

    def start(self, trainer: "Trainer") -> None:  # noqa: ARG002
        """Let the minutes begin."""
        self._saved = time.monotonic()

    def after_step(self, trainer: "Trainer", step: Step) -> None:  # noqa: ARG002
        """Save if it is time, or if training stops here."""
        due = time.monotonic() - self._saved > 60 * trainer.config.save_minutes
        if self.main and trainer.run and (trainer.stop or due):
            trainer.checkpoint().save(trainer.run.last)
            self._saved = time.monotonic()

    def after_epoch(self, trainer: "Trainer", row: dict[str, Any]) -> None:  # noqa: ARG002
        """Save, and draw the curves now and then."""
        run, progress = trainer.run, trainer.progress
        if not self.main or run is None:
            return
        if progress.is_best:
            trainer.checkpoint().save(run.best)
        trainer.checkpoint().save(run.last)
        self._saved = time.monotonic()
        run.write_metrics(progress.history)
        if time.monotonic() - self._drawn > REDRAW or progress.epoch == trainer.config.epochs:
            from onespike.training.curves import draw_curves  # matplotlib takes a second to import

            draw_curves(progress.history, run.folder / "curves.png")
            self._drawn = time.monotonic()
