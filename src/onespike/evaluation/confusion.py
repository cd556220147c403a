"""The confusion matrix as a picture."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from torch import Tensor

#: Up to so many classes numbers fit into the cells, and names beside them.
NUMBERS, NAMES = 20, 250
#: Letters of the longest class name that is printed whole.
LETTERS = 20


def draw_confusion(confusion: Tensor, classes: Sequence[str], title: str) -> Figure:
    """Draw which classes are taken for which.

    Colours are shares of a row, that is of the images of one class. Right guesses and confusions have a scale each, so
    that a confusion of two percent can be seen beside a diagonal of ninety.

    Args:
        confusion: Images by true class (row) and guess (column), (K, K).
        classes: Class names, K of them.
        title: What stands above.

    Returns:
        The figure.
    """
    counts = confusion.numpy().astype(float)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.zeros_like(counts), where=totals > 0)
    diagonal = np.eye(len(classes), dtype=bool)
    wrong = np.ma.masked_where(diagonal | (counts == 0), shares)
    worst = float(wrong.max()) if wrong.count() else 100.0

    # All lengths are in inches: cells, and letters as large as the cells admit.
    side = max(2.5, 0.5 * len(classes)) if len(classes) <= NUMBERS else min(24, 6 + 0.09 * len(classes))
    size = min(10.0, 72 * 0.65 * side / len(classes))
    names = [name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…" for name in classes]
    figure = Figure(figsize=(side + 2, side))
    axis = figure.add_axes((0, 0, side / (side + 2), 1))  # names stand outside, the saved picture is made to fit them
    # The reds begin above white, so that a single confusion among many images is still seen.
    scales = (
        ("right", np.ma.masked_where(~diagonal | (totals == 0), shares), "Blues", Normalize(0, 100)),
        ("taken for another", wrong, "Reds", Normalize(-0.2 * worst, worst)),
    )
    for number, (label, values, colours, norm) in enumerate(scales):
        bar = figure.add_axes(((side + 0.15 + number) / (side + 2), 0, 0.2 / (side + 2), 1))
        figure.colorbar(axis.imshow(values, cmap=colours, norm=norm), cax=bar, label=f"{label}, % of the class")
        bar.set_ylim(0, None)
    axis.set_title(title, parse_math=False)
    axis.set(xlabel="guess", ylabel="true class")
    if len(classes) <= NAMES:
        axis.set_xticks(
            range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0, fontsize=size, parse_math=False
        )
        axis.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
        axis.tick_params(length=0)
    if len(classes) <= NUMBERS:
        _write_numbers(axis, shares, worst)
    else:
        _rule(axis, len(classes))
    return figure


def _write_numbers(axis: Axes, shares: np.ndarray, worst: float) -> None:
    """Write the shares into their cells, in percent; a cell without an image stays empty."""
    for (row, column), share in np.ndenumerate(shares):
        if share:
            dark = share > (60 if row == column else 0.6 * worst)
            text = f"{share:.0f}" if share >= 9.95 else f"{share:.1f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")


def _rule(axis: Axes, count: int) -> None:
    """Rule a line behind every tenth class, to find one's way in a large matrix."""
    for position in np.arange(9.5, count - 1, 10):
        axis.axhline(position, color="black", alpha=0.15, linewidth=0.5)
        axis.axvline(position, color="black", alpha=0.15, linewidth=0.5)
