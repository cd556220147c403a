"""The table of `python -m reproduce conversion`: rows, differences in pairs, which route won, the picture."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, ScalarFormatter
from scipy.stats import binomtest

from onespike.training.run import Run
from reproduce.report import Columns, Table, facts_of, write_report
from reproduce.statistics import paired

#: How rows of networks begin that were trained on at one time step.
TRAINED_ON = "trained on, "


@dataclass(frozen=True)
class Measurement:
    """What was found of one network, kept by its weights: after a change of the audit give another folder.

    Attributes:
        hits: For each test image "1" if it was classified correctly, else "0".
        microjoules: Energy for one image by the field's convention.
        memory_microjoules: Likewise with 8-bit arithmetic and memory traffic.
    """

    hits: str
    microjoules: float
    memory_microjoules: float

    @property
    def top1(self) -> float:
        """Accuracy, in percent."""
        return 100 * self.hits.count("1") / len(self.hits)

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95% interval (Wilson)."""
        found = binomtest(self.hits.count("1"), len(self.hits)).proportion_ci(method="wilson")
        return 100 * float(found.low), 100 * float(found.high)


@dataclass(frozen=True)
class Entry:
    """One row: a network, and what was found of it.

    Attributes:
        time_steps: T; 0 for an artificial network.
        population: Neurons for each activation; 0 for an artificial network.
        epochs: Epochs it was trained for, before and after conversion together.
        milliseconds: Time for one image.
    """

    network: str
    time_steps: int
    population: int
    epochs: int
    run: Run
    measured: Measurement
    milliseconds: float


def write(found: list[Entry], reference: Entry, measured: int, out: Path, name: str, busy: str | None = None) -> None:
    """Write the table, the picture, and which route won; the artificial network comes first.

    The rows are compared with `reference`. Time and energy were `measured` on so many images; `busy` says why the times
    cannot be trusted, if so.
    """
    card = found[0].run.checkpoint("best").card
    config, data = card.model, card.data
    branches = f" and {config.branches} branches" if hasattr(config, "branches") else ""

    def ahead(one: Entry, which: int) -> float | None:
        return None if one is reference else paired(one.measured.hits, reference.measured.hits)[which]

    columns: Columns = {
        "network": ("", lambda one: one.network),
        "T": ("d", lambda one: one.time_steps),
        "neurons": ("d", lambda one: one.population),
        "epochs": ("d", lambda one: one.epochs),
        "seed": ("d", lambda one: one.run.recipe.train.seed),
        "minutes": (".1f", lambda one: one.run.summary and one.run.summary["seconds"] / 60),
        "whole test set %": (".2f", lambda one: one.run.summary and one.run.summary["test_top1"]),
        "top-1 %": (".2f", lambda one: one.measured.top1),
        "from": (".2f", lambda one: one.measured.interval[0]),
        "to": (".2f", lambda one: one.measured.interval[1]),
        "points": ("+.2f", lambda one: ahead(one, 0)),
        "points from": ("+.2f", lambda one: ahead(one, 1)),
        "points to": ("+.2f", lambda one: ahead(one, 2)),
        "ms an image": (".2f", lambda one: one.milliseconds),
        "µJ, field": (".2f", lambda one: one.measured.microjoules),
        "µJ, memory": (".2f", lambda one: one.measured.memory_microjoules),
        "commit": ("", lambda one: facts_of(one.run)["commit"]),
    }
    table = Table.of(found, columns)
    images = len(reference.measured.hits)
    about = (
        f"{config.name} with {config.activation} activations{branches} on {data}, {images:,} test images. *from* and "
        f"*to* are the 95% interval of the accuracy (Wilson); *points* is the difference to the row "
        f"*{reference.network}*, with the 95% interval of pairs of answers to the same images. T = 0 marks an "
        f"artificial network; *neurons* is how many stand for one activation. *epochs* are those before and after "
        f"conversion together, *minutes* the run's own training, *whole test set* its accuracy on all test images at "
        f"its end, *commit* what it was trained or converted from. Time and energy are those of {measured} test images "
        f"in one batch: the time is the median, all networks timed in turns, the energy by `onespike audit`. Both grow "
        f"with T, and with the number of neurons.{f' The time is NOT TO BE TRUSTED: {busy}.' if busy else ''}"
    )
    parts: list[str | Table] = [about, *filter(None, [_winner(found, reference)]), table]
    write_report(out, name, f"Conversion: {config.name} on {data}", table, parts, _draw(found))


def _winner(found: list[Entry], reference: Entry) -> str:
    """Say how near the best comes, and whether it is ahead of the other routes; nothing where none was trained on.

    The intervals are over images: of each route there is one training, and another seed may turn it.
    """
    routes: dict[str, Entry] = {}  # of runs by the same route the best
    for one in sorted(found, key=lambda one: one.measured.top1):
        if one.network.startswith(TRAINED_ON):
            routes[one.network.removeprefix(TRAINED_ON)] = one
    if not routes:
        return ""
    (best, first), *others = sorted(routes.items(), key=lambda item: -item[1].measured.top1)
    said = [f"At one time step: trained on, {best}, {_points(first, reference)} to {reference.network}."]
    for name, other in others:
        low = paired(first.measured.hits, other.measured.hits)[1]
        verdict = "is ahead, on these images, of" if low > 0 else "is indistinguishable from"
        said.append(f"The {best} {verdict} the {name}: {_points(first, other)}.")
    if others:
        said.append("Of each route this is its best training, by these images; other seeds may differ by more.")
    return " ".join(said)


def _points(one: Entry, other: Entry) -> str:
    mean, low, high = paired(one.measured.hits, other.measured.hits)
    return f"{mean:+.2f} points [{low:+.2f}, {high:+.2f}]"


def _draw(found: list[Entry]) -> Figure:
    figure = Figure((9, 4), layout="constrained")
    axis = figure.subplots()
    ticks = sorted({max(one.time_steps, one.population) for one in found if one.time_steps})
    for number, network in enumerate(dict.fromkeys(one.network for one in found)):
        entries, color = [one for one in found if one.network == network], f"C{number}"
        if not entries[0].time_steps:
            axis.axhline(entries[0].measured.top1, color=color, linestyle="--", label=network)
            continue
        if network.startswith(TRAINED_ON):
            _line(axis, entries, "s", color, network)
            continue
        _line(axis, [one for one in entries if one.population == 1], "o-", color, network)
        if any(one.population > 1 for one in entries):
            at_one = [one for one in entries if one.time_steps == 1]
            _line(axis, at_one, "o:", color, f"{network}, several neurons")
    label = "time steps, or neurons for each activation at one time step"
    axis.set(xscale="log", xlabel=label, ylabel="top-1, %", xticks=ticks)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, fontsize="small")
    return figure


def _line(axis: Axes, entries: list[Entry], style: str, color: str, label: str) -> None:
    """Draw accuracies with their intervals over time steps, or neurons."""
    found, places = [one.measured for one in entries], [max(one.time_steps, one.population) for one in entries]
    middle = [one.top1 for one in found]
    error = [[one.top1 - one.interval[0] for one in found], [one.interval[1] - one.top1 for one in found]]
    axis.errorbar(places, middle, error, fmt=style, capsize=3, color=color, label=label)
