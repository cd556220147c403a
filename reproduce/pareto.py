"""Accuracy against energy: a sweep of the firing-rate penalty, and the twins."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import linspace

from onespike.audit import CONVENTIONS, EnergyTable, audit_run
from onespike.durable import csv_text, save_text
from onespike.errors import OnespikeError
from onespike.training.recipe import Recipe
from onespike.training.run import Run
from reproduce.ledger import Ledger, Row
from reproduce.outcome import Outcome, describe_budget, outcomes
from reproduce.plan import Setting, Sweep, Training, digest
from reproduce.report import Table, write_report
from reproduce.statistics import Estimate

#: Weights of the penalty.
PENALTIES = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)
TWINS = ("paper", "modern", "strict", "binary", "ann")
#: Test images that each network is audited on.
IMAGES = 512
#: What is kept of each audit: energy in microjoule by convention, and counts; all for one image.
FOUND = (*CONVENTIONS, "synaptic_operations", "macs", "real_macs")
#: What is kept where time is measured too: milliseconds for a single image, and whether the machine was busy, 0 or 1.
TIMES = ("milliseconds", "busy")
_KEY = ("digest", "seed")


def audit_training(training: Training, run: Run, out: Path, name: str = "pareto", latency: bool = False) -> None:
    """Audit the best weights of a run, and add what it found to NAME.audit.csv; do nothing if it is there."""
    file, columns = Ledger(out / f"{name}.audit.csv"), FOUND + TIMES if latency else FOUND
    if costs_of(training.digest, read_costs(file.path, columns)).get(training.seed):
        return
    found = audit_run(run, images=IMAGES, device=training.recipe.train.device, latency=latency)
    energies = [1e6 * found.energy(convention).total for convention in CONVENTIONS]
    counts = [found.operations.synaptic_operations, found.operations.macs, found.operations.macs_of("real")]
    times = [1e3 * found.latency[0].median, float(found.latency[0].busy is not None)] if latency else []
    own = training.digest, training.seed
    row = dict(zip((*_KEY, *columns), (*own, *energies, *counts, *times), strict=True))
    with file.locked():
        rows = [one for one in read_costs(file.path, columns) if (one["digest"], one["seed"]) != own]
        save_text(csv_text((*_KEY, *columns), [list(one.values()) for one in [*rows, row]]), file.path)


def read_costs(path: Path, columns: Sequence[str] = FOUND) -> list[dict[str, Any]]:
    """Read the file that `audit_training` writes.

    Args:
        path: The file; it need not be there.
        columns: Its numbers.

    Returns:
        A row for each network that was audited: "digest", "seed", and these numbers.

    Raises:
        OnespikeError: It is no such file.
    """
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                {"digest": row["digest"], "seed": int(row["seed"]), **{name: float(row[name]) for name in columns}}
                for row in csv.DictReader(file, strict=True)
            ]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise OnespikeError(f"{path} cannot be read as audits: {error}; mend it, or choose another --out") from None


def costs_of(digest: str, costs: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """By seed, what was found of a recipe."""
    return {row["seed"]: row for row in costs if row["digest"] == digest}


@dataclass(frozen=True)
class Point:
    """A setting in the picture.

    Attributes:
        outcome: Its accuracy.
        costs: What the audits of the same seeds found, by name, over the seeds; empty as long as there is none.
    """

    outcome: Outcome
    costs: dict[str, Estimate]

    @property
    def accuracy(self) -> float:
        """Mean test accuracy, in percent; -1 as long as there is none."""
        return self.outcome.estimate.mean if self.outcome.estimate else -1.0

    def is_on_front(self, points: Sequence["Point"], convention: str) -> bool:
        """Whether no other setting is at least as accurate for at most the energy, and better in one of the two."""
        own = (self.accuracy, -self.costs[convention].mean)
        others = [(one.accuracy, -one.costs[convention].mean) for one in points]
        return not any(a >= own[0] and e >= own[1] and (a, e) != own for a, e in others)


def write_pareto(
    sweep: Sweep, recipes: Sequence[Recipe], trainings: Sequence[Training], seeds: int, rows: Sequence[Row], out: Path
) -> None:
    """Write pareto.csv, pareto.md and pareto.png from what is there; see `reproduce.outcome.write_outcomes`."""
    found, costs = outcomes(sweep, recipes, seeds, rows), read_costs(out / "pareto.audit.csv")
    points = []
    for outcome, recipe in zip(found, recipes, strict=True):
        own = costs_of(digest(recipe), costs)
        trained = [row["seed"] for row in outcome.rows if row["outcome"] == "trained"]
        audited = [own[seed] for seed in trained if seed in own]
        means = {name: Estimate.over([row[name] for row in audited]) for name in FOUND} if audited else {}
        points.append(Point(outcome, means))
    known = [point for point in points if point.costs]
    finished = {(row["digest"], row["seed"]) for row in rows}
    done = sum((one.digest, one.seed) in finished for one in trainings)
    columns = {
        "group": "",
        "setting": "",
        "seeds": "d",
        "test top-1 %": ".2f",
        "std": ".2f",
        **{name: form for one in CONVENTIONS for name, form in ((f"{one} µJ", ".3f"), (f"{one} std", ".3f"))},
        "synaptic operations": ",.0f",
        "dense MACs": ",.0f",
        "real %": ".1f",
        "front": "",
    }
    table = Table(columns, [_row(point, known) for point in points])
    parts: list[str | Table] = [
        sweep.about,
        describe_budget(trainings, seeds, published=False),
        table,
        "Energy is for one test image, by the conventions of `onespike audit`: "
        + " ".join(f"*{one}*: {EnergyTable.load().titles[one]}." for one in CONVENTIONS)
        + " *front* "
        "names those by which no other setting is at least as accurate for at most the energy. Settings that come to "
        "the same recipe share their runs. A penalty lowers accumulates alone: what is real-valued costs the same.",
        f"{done} of {len(trainings)} runs are done; what is missing is marked pending. std is the sample standard "
        "deviation over the seeds, and so are the bars in the picture.",
    ]
    write_report(out, sweep.name, sweep.title, table, parts, sweep.draw(points))


def _row(point: Point, known: Sequence[Point]) -> list[Any]:
    outcome, costs = point.outcome, point.costs
    front = [one for one in CONVENTIONS if costs and point.is_on_front(known, one)]
    return [
        *(outcome.setting.group, outcome.setting.label, len(outcome.rows)),
        outcome.estimate.mean if outcome.estimate else None,
        outcome.estimate.std if outcome.estimate else None,
        *(number for one in CONVENTIONS for number in ((costs[one].mean, costs[one].std) if costs else (None, None))),
        costs["synaptic_operations"].mean if costs else None,
        costs["macs"].mean if costs else None,
        100 * costs["real_macs"].mean / costs["macs"].mean if costs else None,
        ", ".join(front) or ("-" if costs else "pending"),
    ]


def _draw(points: Sequence[Point]) -> Figure:
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    known = [point for point in points if point.costs and point.outcome.estimate]
    axes = figure.subplots(1, 2, sharey=True)
    for axis, convention, name in zip(
        axes, ("field", "memory"), ("the field's convention", "8 bits, with memory traffic"), strict=True
    ):
        _panel(axis, known, convention)
        axis.set_title(name, loc="left", fontsize=10)
        axis.set_xlabel("energy for one image, µJ")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("test accuracy, %")
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    else:
        axes[0].set_title("pending", loc="right", color="grey", fontsize=9)
    return figure


def _panel(axis: Axes, known: Sequence[Point], convention: str) -> None:
    """Draw all settings and the front; bars are standard deviations over the seeds."""
    front = sorted((point for point in known if point.is_on_front(known, convention)), key=lambda one: one.accuracy)
    line = [(point.costs[convention].mean, point.accuracy) for point in front]
    if line:
        axis.step(*zip(*line, strict=True), where="post", color="grey", linewidth=1, linestyle="--", label="front")
    groups: dict[str, list[Point]] = defaultdict(list)
    for point in known:
        groups[point.outcome.setting.group].append(point)
    for (group, members), marker, shades in zip(groups.items(), "os", ("viridis", "autumn"), strict=False):
        colors = colormaps[shades](linspace(0, 0.85, len(members)))
        for point, color in zip(members, colors, strict=True):
            estimate = point.outcome.estimate
            axis.errorbar(
                point.costs[convention].mean,
                point.accuracy,
                xerr=point.costs[convention].std or 0.0,
                yerr=(estimate.std if estimate else None) or 0.0,
                fmt=marker,
                markersize=5,
                capsize=2,
                color=color,
                label=f"{group} {point.outcome.setting.label}",
            )
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("{x:g}")
    axis.tick_params(axis="x", which="both", labelsize=8)
    axis.margins(0.12)


PARETO = Sweep(
    name="pareto",
    title="Accuracy against energy",
    about="The same network trained with growing weights of the penalty on synaptic operations (`train.rate_penalty`), "
    "and its twins: presets of the same network, of which *binary* hands no potentials on, *ann* has ReLU instead of "
    "spikes, and *strict* reads spikes alone behind its stem. Each run's best weights are audited on "
    f"{IMAGES} test images.",
    settings=[
        *(Setting("rate penalty", f"{weight:g}", {"train.rate_penalty": weight}) for weight in PENALTIES),
        *(Setting("preset", preset, {"model.preset": preset}) for preset in TWINS),
    ],
    reference="baseline",
    draw=_draw,
    recipe="digits",
    measure=audit_training,
    write=write_pareto,
)
