"""The pictures of a search."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from onespike.errors import printable
from onespike.search.study import Tried

if TYPE_CHECKING:
    import optuna

TRAINED, BEST, PRUNED = "#4878a8", "#d1495b", "#9a9a9a"
HELD_OUT, ENERGY = "held out, top-1 %", "energy of an image, µJ"


def draw_history(found: Sequence[Tried]) -> Figure:
    """Draw the accuracy of each trial by its number, and the best so far."""
    figure, axis = plain_figure(8, 3.4)
    trained, pruned = _trained(found), [one for one in found if one.outcome == "pruned" and one.accuracy is not None]
    axis.plot(*_points(trained), "o", color=TRAINED, label="trained", markersize=5)
    if pruned:
        axis.plot(*_points(pruned), "x", color=PRUNED, label="pruned: its last epoch", markersize=5)
    best = [max(_points(trained[: number + 1])[1]) for number in range(len(trained))]
    axis.step([one.number for one in trained], best, where="post", color=BEST, linewidth=1.3, label="best so far")
    axis.set(xlabel="trial", ylabel=HELD_OUT)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend(loc="best", fontsize=9, framealpha=0.8)
    return figure


def draw_front(found: Sequence[Tried], energy: str) -> Figure:
    """Draw accuracy against energy, and the front: the best trials."""
    figure, axis = plain_figure(8, 4.4)
    trained = _trained(found)
    front = sorted((one for one in trained if one.best), key=lambda one: (one.energy, one.accuracy))
    places = {one.number: (one.energy or 0.0, one.accuracy or 0.0) for one in trained}
    others = [places[one.number] for one in trained if not one.best]
    if others:
        axis.plot(*zip(*others, strict=True), "o", color=TRAINED, label="trial")
    if front:
        line = [places[one.number] for one in front]
        axis.step(*zip(*line, strict=True), where="post", color=BEST, linewidth=1.2)
        axis.plot(*zip(*line, strict=True), "o", color=BEST, label="front")
    for one in front:
        offset: dict[str, Any] = {"xytext": (4, -11), "textcoords": "offset points", "fontsize": 8}
        axis.annotate(str(one.number), places[one.number], **offset)
    axis.set(xlabel=f"{ENERGY} ({energy}, held-out images)", ylabel=HELD_OUT)
    axis.legend(loc="best", fontsize=9, framealpha=0.8)
    return figure


def draw_slices(found: Sequence[Tried], study: "optuna.Study", energy: str) -> Figure:
    """Draw each trial's result over the value of each option, a panel for each option; late trials are dark."""
    trained = _trained(found)
    names = list(dict.fromkeys(name for one in trained for name in one.values))
    distributions = {key: one for trial in study.get_trials(deepcopy=False) for key, one in trial.distributions.items()}
    aims = {HELD_OUT: "accuracy", **({ENERGY: "energy"} if energy else {})}
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3 * columns + 0.6, 2.6 * rows * len(aims)), layout="constrained")
    grid = figure.subplots(rows * len(aims), columns, squeeze=False, sharey=False)
    for number, (label, key) in enumerate(aims.items()):
        for place, axis in enumerate(grid[number * rows : (number + 1) * rows].flat):
            if place >= len(names):
                axis.set_axis_off()
                continue
            _slice(axis, names[place], trained, key, distributions[names[place]])
            axis.set_ylabel(label if place % columns == 0 else "", fontsize=9)
    return figure


def _slice(axis: Axes, name: str, trained: Sequence[Tried], key: str, distribution: Any) -> None:
    chosen = [one for one in trained if name in one.values]
    values: list[Any] = [one.values[name] for one in chosen]
    if hasattr(distribution, "choices"):
        places = list(distribution.choices)
        values = [places.index(value) for value in values]
        labels = [printable(one, 14) for one in places]
        axis.set_xticks(range(len(places)), labels, rotation=30 if max(map(len, labels)) > 5 else 0, parse_math=False)
        axis.set_xlim(-0.5, len(places) - 0.5)
    elif distribution.log:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
    shades = [one.number for one in chosen]
    heights = [getattr(one, key) for one in chosen]
    axis.scatter(values, heights, c=shades, cmap="viridis_r", vmin=-len(trained) / 3, s=22)
    best = [place for place, one in enumerate(chosen) if one.best]
    rings: dict[str, Any] = {"s": 70, "facecolors": "none", "edgecolors": BEST}
    axis.scatter([values[place] for place in best], [getattr(chosen[place], key) for place in best], **rings)
    axis.set_title(printable(name, 40), fontsize=9, parse_math=False)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def draw_importances(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw how much each option matters for each objective."""
    names = sorted(
        {name for one in shares.values() for name in one}, key=lambda name: sum(one[name] for one in shares.values())
    )
    figure, axis = plain_figure(8, 1 + 0.4 * len(names))
    high = 0.8 / len(shares)
    for number, (objective, values) in enumerate(shares.items()):
        places = [place + 0.4 - high * (number + 0.5) for place in range(len(names))]
        bars = axis.barh(places, [values[name] for name in names], high, color=(TRAINED, BEST)[number], label=objective)
        axis.bar_label(bars, [f"{values[name]:.2f}" for name in names], padding=3, fontsize=8)
    axis.set_yticks(range(len(names)), [printable(name, 40) for name in names], fontsize=9, parse_math=False)
    axis.set(xlim=(0, 1.08), xlabel="share of the variance")
    axis.legend(loc="best", fontsize=9, framealpha=0.8)
    return figure


def plain_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of width x height inches with one pair of plain axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    make_plain(axis)
    return figure, axis


def make_plain(axis: Axes) -> None:
    """Give a pair of axes a faint grid, and no frame above and on the right."""
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _trained(found: Sequence[Tried]) -> list[Tried]:
    return [one for one in found if one.outcome == "trained"]


def _points(found: Sequence[Tried]) -> tuple[list[int], list[float]]:
    return [one.number for one in found], [one.accuracy or 0.0 for one in found]
