"""Saving a run while it trains: checkpoints, `metrics.csv`, the curves."""

import io
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onespike.durable import write_whole
from onespike.training.callbacks import Callback, Step
from onespike.training.progress import best_row
from onespike.training.run import Run

if TYPE_CHECKING:
    from onespike.training.trainer import Trainer

#: Seconds between two drawings of the curves while training goes on.
REDRAW = 30.0


class Saving(Callback):
    """Saves the last checkpoint every few minutes, at a stop and after each epoch, and the best, in one process."""

    def __init__(self, run: Run) -> None:
        self.run, self._saved, self._drawn = run, time.monotonic(), -math.inf

    def start(self, trainer: "Trainer") -> None:
        """Start counting the minutes; write the table and the curves that an ended session may have owed to its end."""
        self._saved = time.monotonic()
        if trainer.progress.history:
            self._report(trainer)

    def after_step(self, trainer: "Trainer", step: Step) -> None:  # noqa: ARG002
        """Save if it is time, or if training stops here."""
        due = time.monotonic() - self._saved > 60 * trainer.config.save_minutes
        if trainer.stop or due:
            trainer.checkpoint().save(self.run.last)
            self._saved = time.monotonic()

    def after_epoch(self, trainer: "Trainer", row: dict[str, Any]) -> None:  # noqa: ARG002
        """Save, and draw the curves now and then."""
        if trainer.progress.is_best:
            trainer.checkpoint().save(self.run.best)
        trainer.checkpoint().save(self.run.last)
        self._saved = time.monotonic()
        self._report(trainer)

    def _report(self, trainer: "Trainer") -> None:
        run, progress = self.run, trainer.progress
        run.write_metrics(progress.history)
        if time.monotonic() - self._drawn > REDRAW or progress.enough or progress.epoch == trainer.config.epochs:
            draw_curves(progress.history, run.folder / "curves.png")
            self._drawn = time.monotonic()


def draw_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Draw the history of a run, as in `metrics.csv`: loss, accuracy, learning rate, firing rates of all neurons.

    Accuracy is drawn over the FLOPs spent, if they are counted, so that runs on different machines can be compared. The
    two losses have an axis each: the training loss is of augmented images and smoothed labels, without penalties.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    epochs, best = [row["epoch"] for row in history], best_row(history)
    marker = "o" if len(epochs) < 3 else None
    counted = all(row.get("pflop") is not None for row in history)
    spent = ("pflop", "PFLOP of training") if counted else ("epoch", "epoch")
    lines = (
        (axes[0, 0], "loss", ("epoch", "epoch"), {"train_loss": "training, as it is trained (left)"}),
        (axes[0, 1], "top-1 accuracy, %", spent, {"train_top1": "training (augmented)", "valid_top1": "held out"}),
        (axes[1, 0], "learning rate", ("epoch", "epoch"), {"lr": "learning rate"}),
    )
    for axis, title, (across, label_across), keys in lines:
        for key, label in keys.items():
            points = [(row[across], row[key]) for row in history if row[key] is not None]
            if points:
                axis.plot(*zip(*points, strict=True), label=label, marker=marker)
        axis.set(title=title, xlabel=label_across)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=across == "epoch"))
        axis.axvline(best[across], color="black", linestyle=":", label=f"best epoch, {best['epoch']}")
        if axis is axes[0, 0] and any(row["valid_loss"] is not None for row in history):
            points = [(row["epoch"], row["valid_loss"]) for row in history if row["valid_loss"] is not None]
            other = axis.twinx()
            axis.plot([], [], "C1", label="held out, plain cross-entropy (right)")
            other.plot(*zip(*points, strict=True), "C1", marker=marker)
            other.tick_params(axis="y", colors="C1")
            axis.tick_params(axis="y", colors="C0")
        axis.legend()
    rates = [key for key in history[0] if key.endswith("_firing_rate")]
    colours = colormaps["viridis"].resampled(max(2, len(rates)))
    for number, key in enumerate(rates):
        axes[1, 1].plot(epochs, [row[key] for row in history], color=colours(number), marker=marker)
    axes[1, 1].axvline(best["epoch"], color="black", linestyle=":")
    axes[1, 1].set(title="firing rates of the layers (dark: first, light: last)", xlabel="epoch", ylim=(0, None))
    axes[1, 1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    write_whole(path, content.getvalue())
