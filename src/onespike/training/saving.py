"""Saving a run while it trains: checkpoints, `metrics.csv`, the curves."""

import io
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from onespike.durable import write_whole
from onespike.training.callbacks import Callback, Step
from onespike.training.progress import Progress
from onespike.training.run import Run
from onespike.training.trainer import Trainer

#: Seconds between two drawings of the curves while training goes on.
REDRAW = 30.0


class Saving(Callback):
    """Saves the last checkpoint every few minutes, at a stop and after each epoch, and the best, in one process."""

    def __init__(self, run: Run) -> None:
        self.run, self._saved, self._drawn = run, time.monotonic(), -math.inf

    def start(self, trainer: Trainer) -> None:
        """Start counting the minutes; write the table and the curves that a session may have owed to its last epoch."""
        self._saved = time.monotonic()
        if trainer.progress.history and _is_at_the_end(trainer):
            self._report(trainer)

    def after_step(self, trainer: Trainer, step: Step) -> None:  # noqa: ARG002
        """Save if it is time, or if training stops here."""
        if trainer.stop or time.monotonic() - self._saved > 60 * trainer.config.save_minutes:
            trainer.checkpoint().save(self.run.last)
            self._saved = time.monotonic()

    def after_epoch(self, trainer: Trainer, row: dict[str, Any]) -> None:  # noqa: ARG002
        """Save, and draw the curves now and then."""
        checkpoint = trainer.checkpoint()
        if trainer.progress.is_best:
            checkpoint.save(self.run.best)
        checkpoint.save(self.run.last)
        self._saved = time.monotonic()
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        self.run.write_metrics(trainer.progress.history)
        if time.monotonic() - self._drawn > REDRAW or _is_at_the_end(trainer):
            draw_curves(trainer.progress, self.run.folder / "curves.png")
            self._drawn = time.monotonic()


def _is_at_the_end(trainer: Trainer) -> bool:
    """Whether no epoch follows that would write the table and the curves."""
    return trainer.enough or trainer.progress.epoch == trainer.config.epochs


def draw_curves(progress: Progress, path: Path) -> None:
    """Draw the history of a run, as in `metrics.csv`: loss, accuracy, learning rate, firing rates of all neurons.

    Accuracy is drawn over the FLOPs spent, if they are counted, so that runs on different machines can be compared. The
    two losses have an axis each: the training loss is of augmented images and smoothed labels, without penalties.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    def draw(axis: Any, across: str, key: str, **style: Any) -> None:
        values = [row.get(key) for row in history]  # None leaves a gap
        if any(value is not None for value in values) or axis is firing:  # each layer takes its colour
            axis.plot([row[across] for row in history], values, marker="o" if len(history) < 3 else None, **style)

    history, best = progress.history, progress.best_row()
    figure = Figure(figsize=(11, 7), layout="constrained")
    loss, accuracy, rate, firing = figure.subplots(2, 2).flat
    rates = [key for key in history[0] if key.endswith("_firing_rate")]
    firing.set_prop_cycle(color=colormaps["viridis"](np.linspace(0, 1, max(2, len(rates)))))
    spent = "pflop" if all(row.get("pflop") is not None for row in history) else "epoch"
    for axis, title, across, labels in (
        (loss, "loss", "epoch", {"train_loss": "training, as it is trained (left)"}),
        (accuracy, "top-1 accuracy, %", spent, {"train_top1": "training (augmented)", "valid_top1": "held out"}),
        (rate, "learning rate", "epoch", {"lr": "learning rate"}),
        (firing, "firing rates of the layers (dark: first, light: last)", "epoch", dict.fromkeys(rates)),
    ):
        for key, label in labels.items():
            draw(axis, across, key, label=label)
        axis.axvline(best[across], color="black", linestyle=":", label=f"best epoch, {best['epoch']}")
        axis.set(title=title, xlabel="PFLOP of training" if across == "pflop" else across)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=across == "epoch"))
        axis.grid(alpha=0.3)
    firing.set_ylim(0, 1.05 * firing.get_ylim()[1])  # room above the highest
    if any(row["valid_loss"] is not None for row in history):
        loss.plot([], [], "C1", label="held out, plain cross-entropy (right)")
        right = loss.twinx()
        draw(right, "epoch", "valid_loss", color="C1")
        for axis, colour in ((loss, "C0"), (right, "C1")):
            axis.tick_params(axis="y", colors=colour)
    for axis in (loss, accuracy, rate):
        axis.legend()
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    write_whole(path, content.getvalue())
