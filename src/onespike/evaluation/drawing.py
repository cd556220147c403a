"""Drawings of evaluations and inspections. This module imports matplotlib: import it only where something is drawn.

An inspection is one picture: the image, its windows, the answer; below, the spikes and potentials of each block.
"""

import io
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator
from torch import Tensor

from onespike.durable import save_text
from onespike.errors import printable
from onespike.evaluation.views import Inspection, View
from onespike.training.monitor import SUPPORT

#: Most classes with numbers in the cells, and with names beside them; most letters of a name printed whole.
NUMBERS, NAMES, LETTERS = 20, 250, 20
#: Percent of a class taken for another that get the darkest red, unless a confusion is worse.
DEEP = 20.0


def draw_confusion(confusion: Tensor, classes: Sequence[str], title: str) -> Figure:
    """Draw which classes are taken for which, from images by true class (row) and guess (column), (K, K).

    Colours are shares of a row, that is of the images of one class. Right guesses and confusions have a scale each, so
    that a confusion of two percent can be seen beside a diagonal of ninety. The scale of confusions reaches `DEEP`
    percent at least, so that a single mistake is not painted as a disaster.
    """
    counts = confusion.numpy().astype(float)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.zeros_like(counts), where=totals > 0)
    diagonal = np.eye(len(classes), dtype=bool)
    wrong = np.ma.masked_where(diagonal | (counts == 0), shares)
    worst = max(DEEP, float(wrong.max())) if wrong.count() else 100.0
    # All lengths are in inches. Letters are as large as the cells allow.
    side = max(2.5, 0.5 * len(classes)) if len(classes) <= NUMBERS else min(24, 6 + 0.09 * len(classes))
    size = min(10.0, 72 * 0.65 * side / len(classes))
    names = [name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…" for name in map(printable, classes)]
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
        turned = 90 if max(map(len, names)) > 2 else 0
        axis.set_xticks(range(len(names)), names, rotation=turned, fontsize=size, parse_math=False)
        axis.set_yticks(range(len(names)), names, fontsize=size, parse_math=False)
        axis.tick_params(length=0)
    if len(classes) <= NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if share or (row == column and totals[row]):
                dark = share > (60 if row == column else 0.6 * worst)
                text = f"{share:.0f}" if share >= 9.95 or not share else f"{share:.1f}"
                axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    else:  # a line behind every tenth class, to find one's way
        for position in np.arange(9.5, len(classes) - 1, 10):
            axis.axhline(position, color="black", alpha=0.15, linewidth=0.5)
            axis.axvline(position, color="black", alpha=0.15, linewidth=0.5)
    return figure


#: Sizes in inches: a block's map and histogram, what is between two blocks, and the pictures at the top.
MAP, HISTOGRAM, GAP, TOP = 1.5, 2.2, 0.35, 2.6
#: Height for titles and axis labels between two rows, in inches; share of a histogram's height that its legend leaves.
LINE, CURVES = 0.62, 0.74
#: Low rates are what there is to see in a spiking network: the colours rise with the root of the rate.
SPIKES: dict[str, Any] = {"cmap": "magma", "norm": PowerNorm(0.5, 0, 1)}


def draw_inspection(view: Inspection) -> Figure:
    """Draw what a network does with one image."""
    columns = max(3, math.ceil(math.sqrt(len(view.blocks))))
    rows = math.ceil(len(view.blocks) / columns)
    cell = MAP + 0.15 + HISTOGRAM
    width, height = columns * (cell + GAP) - GAP, TOP + LINE + rows * (MAP + LINE)
    figure = Figure(figsize=(width, height))

    def place(left: float, top: float, wide: float, high: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))

    title = "{}: {}, {:.1%}".format(view.path.name, *view.guesses(1)[0])
    title = printable(title if view.label is None else f"{title}; true class: {view.label}")
    figure.text(0, 1 + 0.6 / height, title, va="bottom", fontsize=14, parse_math=False)
    figure.text(0, 1 + 0.35 / height, _remarks(view), va="bottom", fontsize=10, color="dimgray")
    _image(place(0, 0, TOP, TOP), view.pixels, "the image as the network sees it")
    kinds = {block.window_kind: block for block in reversed(view.blocks) if block.windows}  # the first of either kind
    for number, kind in enumerate(("average", "dilated"), 1):
        if block := kinds.get(kind):
            _windows(place(number * (TOP + GAP), 0, TOP, TOP), view.pixels, block)
    left = 3 * (TOP + GAP) + 1.2  # room for the class names
    _probabilities(place(left, 0, min(6.0, width - left), TOP), view)
    for position, block in enumerate(view.blocks):
        row, column = divmod(position, columns)
        left, top = column * (cell + GAP), TOP + LINE + row * (MAP + LINE)
        _spike_map(place(left, top, MAP, MAP), block)
        histogram = place(left + MAP + 0.15, top, HISTOGRAM, MAP)
        _potentials(histogram, block, lowest=position + columns >= len(view.blocks))
    if view.blocks:
        scale = place(width + 0.2, TOP + LINE, 0.15, rows * (MAP + LINE) - LINE)
        figure.colorbar(ScalarMappable(**SPIKES), cax=scale, label="firing rate, mean over channels")
    return figure


def _remarks(view: Inspection) -> str:
    """Notes that a reader of the picture needs."""
    remarks = [f"the image was {view.note}"] if view.note else []
    if view.encoding:
        remarks.append(f"one draw of the {view.encoding} encoding, seed {view.seed}")
    if view.time_steps > 1:
        remarks.append(f"spikes are means over {view.time_steps} time steps, potentials are pooled over them")
    return "; ".join(remarks)


def _image(axis: Axes, pixels: np.ndarray, title: str, extent: tuple[float, float, float, float] | None = None) -> None:
    """Draw an image, or a part of it, without a frame."""
    grey = pixels.shape[2] == 1
    axis.imshow(pixels.squeeze(2) if grey else pixels, cmap="gray", vmin=0, vmax=255, extent=extent)
    axis.set_title(title, loc="left", fontsize=9.5)
    axis.set_axis_off()


def _windows(axis: Axes, pixels: np.ndarray, block: View) -> None:
    """Draw the four windows apart; dashed lines mark where they overlap."""
    size = pixels.shape[0]
    (_, _, side, _), (far, _, _, _), *_ = block.windows  # the second window begins at `far`, the first ends at `side`
    apart = side - far + 0.08 * size
    title = f"windows of block {block.number}, {block.window_kind}" + ("; dashed: overlap" if far < side else "")
    for number, (left, top, right, bottom) in enumerate(block.windows):
        if left == right or top == bottom:
            continue  # it holds nothing but the padding of a map of one pixel
        x, y = left + apart * (left > 0), top + apart * (top > 0)
        _image(axis, pixels[top:bottom, left:right], title, (x, x + right - left, y + bottom - top, y))
        colour = f"C{number}"
        style: dict[str, Any] = {"fill": False, "edgecolor": colour, "linewidth": 2.5, "clip_on": False}
        axis.add_patch(Rectangle((x, y), right - left, bottom - top, **style))
        label: dict[str, Any] = {"bbox": {"facecolor": colour, "edgecolor": "none", "pad": 2}, "color": "white"}
        axis.annotate(str(number + 1), (x, y), (3, -3), textcoords="offset points", va="top", fontsize=9, **label)
        if far < side:
            across, down = x + (side - left if left else far), y + (side - top if top else far)
            axis.vlines(across, y, y + bottom - top, colour, "--", linewidth=1)
            axis.hlines(down, x, x + right - left, colour, "--", linewidth=1)
    axis.set(xlim=(-0.5, size + apart + 0.5), ylim=(size + apart + 0.5, -0.5))


def _probabilities(axis: Axes, view: Inspection) -> None:
    guesses = view.guesses(10)
    names = [printable(name if len(name) <= 18 else f"{name[:17]}…") for name, _ in guesses]
    values = [probability for _, probability in guesses]
    bars = axis.barh(range(len(names)), values, color=["tab:blue"] + ["lightsteelblue"] * (len(names) - 1))
    axis.bar_label(bars, [f"{value:.1%}" for value in values], padding=3, fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)
    axis.set(xlim=(0, 1), ylim=(9.6, -0.6), xticks=[])
    axis.tick_params(length=0)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    first = f", the first {len(names)} of {len(view.classes)}" if len(names) < len(view.classes) else ""
    axis.set_title(f"class probabilities{first}", loc="left", fontsize=9.5)


def _spike_map(axis: Axes, block: View) -> None:
    high, wide = block.spike_map.shape
    kind = f"{block.window_kind}, " if block.window_kind else ""
    axis.imshow(block.spike_map.numpy(), aspect="equal" if high == wide else "auto", **SPIKES)
    axis.set(xticks=[], yticks=[])
    axis.set_title(f"{block.name}: {kind}{block.shape}, firing rate {block.firing_rate:.3f}", loc="left", fontsize=9.5)


def _potentials(axis: Axes, block: View, lowest: bool) -> None:
    """Draw how far the potentials of the unit's layers are beyond the threshold: right of the line, neurons fire."""
    pairs = [(one, one.distances.flatten().numpy()) for one in block.unit_layers if one.distances is not None]
    if not pairs:
        why = "no threshold" if block.unit_layers[0].potentials is not None else "potentials cannot be seen"
        axis.text(0.5, 0.5, why, ha="center", va="center", fontsize=8.5, color="dimgray")
        axis.set_axis_off()
        return
    edges, reach = np.histogram_bin_edges(np.concatenate([values for _, values in pairs]), bins=60).tolist(), 0.0
    for number, (layer, values) in enumerate(pairs):
        colour = f"C{number}"
        which = f"layer {number + 1}: " if len(block.unit_layers) > 1 else ""
        label = f"{which}{layer.spikes.ne(0).float().mean():.1%} fire"
        if number == 0:  # one area and, in front of it, lines: outlines of several areas could not be told apart
            axis.hist(values, edges, histtype="stepfilled", alpha=0.3, color=colour)
        axis.hist(values, edges, histtype="step", linewidth=1.3, color=colour, label=label)
        if layer.surrogate is not None:  # up to this distance from the threshold it lets a gradient pass
            far = layer.surrogate.width * torch.linspace(0, 10, 10001)
            reach = far[layer.surrogate.of_peak(far) > SUPPORT].max().item()
    if reach:
        axis.axvspan(-reach, reach, 0, CURVES, color="black", alpha=0.08, linewidth=0)
    axis.axvline(0, 0, CURVES, color="black", linewidth=1, linestyle="--")
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set(xlim=(min(edges[0], -0.1), max(edges[-1], 0.1)), ylim=(low, low * (high / low) ** (1 / CURVES)))
    axis.yaxis.set(major_locator=NullLocator(), minor_locator=NullLocator())
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=7.5, loc="upper right", frameon=False, handlelength=1, borderaxespad=0.2)
    if lowest:
        gradient = "; grey: has a gradient" if reach else ""
        axis.set_xlabel(f"potential minus threshold\n(neurons on a log scale{gradient})", fontsize=8.5)


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Save a figure as a PNG, cut to what is drawn, and make its folder; an `OnespikeError` if that fails."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # A class name in a script that matplotlib's font lacks is drawn as boxes; the names are in the other files.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(picture, dpi=dpi, format="png", bbox_inches="tight")
    save_text(picture.getvalue(), path)
