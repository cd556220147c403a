"""The curves of a run, drawn: loss, accuracy, learning rate and the firing rate of every block."""

import io
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from onespike.durable import write_whole


def draw_curves(history: list[dict[str, Any]], path: Path) -> None:
    """Draw the history of a run.

    Args:
        history: One row for each epoch, as in `metrics.csv`.
        path: The PNG to write.
    """
    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 3 else None

    def curve(axis: Any, key: str, label: str) -> None:
        points = [(row["epoch"], row[key]) for row in history if row[key] is not None]
        if points:
            axis.plot(*zip(*points, strict=True), label=label, marker=marker)

    curve(axes[0, 0], "train_loss", "training")
    curve(axes[0, 0], "valid_loss", "held out")
    axes[0, 0].set(title="loss", xlabel="epoch")
    curve(axes[0, 1], "train_top1", "training (augmented)")
    curve(axes[0, 1], "valid_top1", "held out")
    axes[0, 1].set(title="top-1 accuracy", xlabel="epoch", ylabel="%")
    curve(axes[1, 0], "lr", "learning rate")
    axes[1, 0].set(title="learning rate", xlabel="epoch")

    rates = [key for key in history[0] if key.endswith("_firing_rate")]
    colours = colormaps["viridis"].resampled(max(2, len(rates)))
    for number, key in enumerate(rates):
        axes[1, 1].plot(epochs, [row[key] for row in history], color=colours(number), marker=marker, label=key[:7])
    axes[1, 1].set(title="firing rate by block (dark: first, light: last)", xlabel="epoch", ylim=(0, None))

    for axis in axes.flat:
        axis.grid(alpha=0.3)
    for axis in axes[0]:
        axis.legend()
    content = io.BytesIO()
    figure.savefig(content, dpi=110, format="png")
    write_whole(path, content.getvalue())
