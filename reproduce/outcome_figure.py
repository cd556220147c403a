"""Pictures of what a sweep has found so far."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from onespike.search.drawing import plain_figure
from reproduce.outcome import Outcome

#: Inches for a row, and for what is above a group.
ROW, TITLE = 0.27, 0.38
#: Colours, by what a row is.
COLOURS = {
    "baseline": "C0",
    "best": "C0",
    "indistinguishable": "k",
    "above": "C2",
    "below": "C1",
    "no verdict": "C7",
    "diverged with some seed": "C4",
}
ACCURACY = "test accuracy, %"
BARS = "test accuracy, %; bars: 95% intervals"


def draw_rows(outcomes: Sequence[Outcome]) -> Figure:
    """Draw every setting as a row under its group's name: each seed, the mean, its interval, the published number."""
    groups = list(dict.fromkeys(outcome.setting.group for outcome in outcomes))
    members = [[one for one in outcomes if one.setting.group == group] for group in groups]
    heights = [len(rows) * ROW + TITLE for rows in members]
    figure = Figure(figsize=(8, sum(heights) + 1.0), layout="constrained")
    axes = figure.subplots(len(groups), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    baseline = next((one for one in outcomes if one.verdict == "baseline" and one.estimate), None)
    for axis, group, rows in zip(axes, groups, members, strict=True):
        if baseline and baseline.estimate and baseline.estimate.interval:
            axis.axvspan(*baseline.estimate.interval, color="C0", alpha=0.12, linewidth=0)
        for position, outcome in enumerate(rows):
            _row(axis, position, outcome)
        axis.set_yticks(range(len(rows)), [outcome.setting.label for outcome in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_title(group, loc="left", fontsize=10, fontweight="bold")
        axis.grid(axis="x", alpha=0.25)
        axis.tick_params(axis="y", length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[-1].set_xlabel(BARS if any(one.estimate and one.estimate.interval for one in outcomes) else ACCURACY)
    spacing: dict[str, Any] = {"ncols": 5, "columnspacing": 1.2, "handletextpad": 0.4}
    figure.legend(handles=_legend(outcomes), loc="outside upper right", frameon=False, fontsize=8.5, **spacing)
    return figure


def _row(axis: Axes, position: int, outcome: Outcome) -> None:
    accuracies, estimate = [*outcome.accuracies.values()], outcome.estimate
    published = outcome.setting.published
    if published is not None:
        axis.plot(published, position, "x", color="C3", markersize=6, markeredgewidth=1.5)
    if estimate is None:
        # At the left, or beside the cross, which may be there.
        place, across = ((0.01, position), "axes fraction") if published is None else ((published, position), "data")
        style: dict[str, Any] = {"xycoords": (across, "data"), "va": "center", "fontsize": 8, "color": "grey"}
        axis.annotate(outcome.verdict, place, (7, 0), textcoords="offset points", **style)
        return
    colour = COLOURS[_kind(outcome)]
    if estimate.interval:
        axis.plot(estimate.interval, (position, position), color=colour, linewidth=1.5)
    axis.plot(accuracies, [position] * len(accuracies), "|", color=colour, markersize=7, alpha=0.6)
    axis.plot(estimate.mean, position, "o", color=colour, markersize=5)


def _kind(outcome: Outcome) -> str:
    """What a row that has an accuracy is, as the legend says it."""
    if outcome.diverged:
        return "diverged with some seed"
    return outcome.verdict if outcome.verdict in COLOURS else "no verdict"


def _legend(outcomes: Sequence[Outcome]) -> list[Line2D]:
    kinds = {_kind(outcome) for outcome in outcomes if outcome.estimate}
    dots = {name: colour for name, colour in COLOURS.items() if name in kinds}
    handles = [Line2D([], [], color=colour, marker="o", markersize=5, label=name) for name, colour in dots.items()]
    if any(outcome.setting.published is not None for outcome in outcomes):
        handles.append(Line2D([], [], color="C3", marker="x", linestyle="", label="published"))
    return handles


def draw_depths(outcomes: Sequence[Outcome]) -> Figure:
    """Draw accuracy over depth, a line for each unit: of settings whose label is a depth and whose group is a unit."""
    figure, axis = plain_figure(6, 4)
    groups = list(dict.fromkeys(outcome.setting.group for outcome in outcomes))
    for number, group in enumerate(groups):
        known = [one for one in outcomes if one.setting.group == group and one.estimate]
        shift = 0.25 * (number - (len(groups) - 1) / 2)  # so that intervals do not hide each other
        depths = [int(one.setting.label) + shift for one in known]
        estimates = [one.estimate for one in known if one.estimate]
        reach = [one.half or 0.0 for one in estimates]
        axis.errorbar(
            depths, [one.mean for one in estimates], reach, fmt="o-", capsize=3, color=f"C{number}", label=group
        )
    if pending := [one.setting.name for one in outcomes if not one.rows]:
        axis.set_title(f"pending: {', '.join(pending)}", loc="right", fontsize=9, color="grey")
    several = any(one.estimate and one.estimate.interval for one in outcomes)
    axis.set(xlabel="blocks", ylabel=BARS if several else ACCURACY)
    axis.set_xticks(sorted({int(one.setting.label) for one in outcomes}))
    axis.legend(frameon=False, title="unit")
    return figure
