"""Accuracy, latency and energy against time steps: does time buy what the same compute does not buy at one step?"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from onespike.search.drawing import plain_figure
from onespike.training.recipe import Recipe
from reproduce.costs import FOUND, audit_training, costs_of, read_costs
from reproduce.ledger import Row
from reproduce.outcome import Outcome, describe_budget, describe_progress, outcomes
from reproduce.plan import FULL_SIZE, Setting, Sweep, Training, digest
from reproduce.report import Table, write_report
from reproduce.statistics import Estimate

STEPS = (1, 2, 4, 8)
#: The network of the windows' ablation, in which only they differ; see `reproduce.windows`.
WINDOWS: dict[str, Any] = {"model.depth": 3, "model.stem": "none", "model.population": 1}
#: The network that sees CIFAR-10 several times.
SMALL: dict[str, Any] = FULL_SIZE | {"model.name": "spiking-resnet-s"}
ALTERNATING = WINDOWS | {"model.windows": "alternating"}
ONE_FRAME: dict[str, Any] = {"data.frames": 1}


def _shown(steps: int) -> dict[str, Any]:
    """Images are shown several times, for as many epochs as give the cost of 8 at one step."""
    epochs = 8 // steps
    return SMALL | {"model.time_steps": steps, "train.epochs": epochs, "train.warmup_epochs": epochs / 10}


def write_over_time(
    sweep: Sweep, recipes: Sequence[Recipe], trainings: Sequence[Training], seeds: int, rows: Sequence[Row], out: Path
) -> None:
    """Write NAME.csv, NAME.md and NAME.png from what is there; see `reproduce.outcome.write_outcomes`."""
    found, costs = outcomes(sweep, recipes, seeds, rows), read_costs(out / f"{sweep.name}.audit.csv")
    points: list[tuple[Outcome, dict[str, Estimate]]] = []
    for outcome, recipe in zip(found, recipes, strict=True):
        own = costs_of(digest(recipe, outcome.setting.start), costs)
        audited = [own[row["seed"]] for row in outcome.rows if row["outcome"] == "trained" and row["seed"] in own]
        means = {name: Estimate.over([row[name] for row in audited]) for name in FOUND} if audited else {}
        points.append((outcome, means))
    names = {"group": "", "setting": "", "T": "d", "seeds": "d", "test top-1 %": ".2f", "std": ".2f", "PFLOP": ".4f"}
    names |= {"ms for one": ".2f", "field µJ": ".3f", "memory µJ": ".3f", "synaptic operations": ",.0f", "MACs": ",.0f"}
    unfinished = any(not outcome.rows or outcome.diverged for outcome in found)
    names |= {"state": ""} if unfinished else {}
    table = Table(names, [_row(*point, recipe, unfinished) for point, recipe in zip(points, recipes, strict=True)])
    busy = any(costs["busy"].mean > 0 for _, costs in points if costs)
    parts: list[str | Table] = [
        sweep.about,
        describe_budget(trainings, seeds, published=False),
        table,
        "T is the number of time steps, PFLOP what one training cost, ms the time for a single sample"
        + (" (NOT TO BE TRUSTED: the machine was busy)" if busy else "")
        + ". Energy is for one test sample, by two conventions of `onespike audit`: the field's, and with memory.",
        f"{describe_progress(trainings, rows)} std is the sample standard deviation over the seeds.",
    ]
    write_report(out, sweep.name, sweep.title, table, parts, sweep.draw(points))


def _row(outcome: Outcome, costs: dict[str, Estimate], recipe: Recipe, unfinished: bool) -> list[Any]:
    spent = [row["pflop"] for row in outcome.rows if row.get("pflop")]
    return [
        *(outcome.setting.group, outcome.setting.label, recipe.model.time_steps, len(outcome.accuracies)),
        outcome.estimate.mean if outcome.estimate else None,
        outcome.estimate.std if outcome.estimate else None,
        sum(spent) / len(spent) if spent else None,
        *(costs[name].mean if costs else None for name in ("milliseconds", "field", "memory")),
        *(costs[name].mean if costs else None for name in ("synaptic_operations", "macs")),
        *([outcome.verdict if not outcome.rows or outcome.diverged else ""] if unfinished else []),
    ]


def draw_costs(
    points: Sequence[tuple[Outcome, dict[str, Estimate]]],
    costs_summed: Sequence[str] = ("field",),
    label: str = "energy for one sample, µJ (the field's convention)",
) -> Figure:
    """Draw accuracies over a sum of what the audits found."""
    figure, axis = plain_figure(8, 4.2)
    for group in dict.fromkeys(outcome.setting.group for outcome, _ in points):
        known = [
            (sum(costs[name].mean for name in costs_summed), outcome.estimate, outcome.setting.label)
            for outcome, costs in points
            if outcome.setting.group == group and outcome.estimate and costs
        ]
        if known:
            spent, means = [cost for cost, _, _ in known], [estimate.mean for _, estimate, _ in known]
            bars = [estimate.std or 0.0 for _, estimate, _ in known]
            axis.errorbar(spent, means, yerr=bars, fmt="o", capsize=2, label=group)
            for cost, estimate, name in known:
                axis.annotate(name, (cost, estimate.mean), (4, 4), textcoords="offset points", fontsize=7)
    axis.set_xlabel(label)
    several = any(outcome.estimate and outcome.estimate.std for outcome, _ in points)
    axis.set_ylabel("test accuracy, %; bars: standard deviations" if several else "test accuracy, %")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_minor_formatter(NullFormatter())
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)
    else:
        axis.set_title("pending", loc="right", color="grey", fontsize=9)
    return figure


EVENTS = Sweep(
    name="events",
    title="Events: accuracy against time steps",
    about="Events made of scikit-learn's digits by a simulator of saccades, the same network throughout: all events of "
    "a recording in one frame, or in T frames. Longer trainings at one step spend what several steps cost. The rows of "
    "windows are the paper's ideas on one frame of events, in a network that differs by them alone.",
    settings=[
        *(Setting("frames, same epochs", f"T = {steps}", {"data.frames": steps}) for steps in STEPS),
        *(Setting("one frame, cost of T", f"of T = {n}", ONE_FRAME | {"train.epochs": 20 * n}) for n in STEPS[1:]),
        Setting("several frames", "T = 4, TET", {"data.frames": 4, "train.loss": "tet"}),
        Setting("several frames", "T = 4, learned decay", {"data.frames": 4, "model.neuron.learnable_decay": "layer"}),
        Setting("windows, one frame", "whole map", ONE_FRAME | WINDOWS),
        Setting("windows, one frame", "windows, nothing handed on", ONE_FRAME | ALTERNATING | {"model.fusion": "none"}),
        Setting("windows, one frame", "windows, potentials handed on", ONE_FRAME | ALTERNATING),
        Setting("windows, one frame", "conv-tiny, the paper's blocks", ONE_FRAME | {"model.name": "conv-tiny"}),
    ],
    reference="best",
    draw=draw_costs,
    recipe="events/digits",
    epochs=20,
    limit=0,
    measure=partial(audit_training, name="events"),
    write=write_over_time,
)


TIME = Sweep(
    name="time",
    title="CIFAR-10 shown T times",
    about="The recipe cifar10/fast as it was before images grew, with a small network, the image shown T times, for "
    "8/T epochs: the first five trainings see as many time steps; the last sees a quarter of them, for as many epochs "
    "as T = 4. The stem reads an image once, whatever T, but at each step where TET trains.",
    settings=[
        *(Setting("the same cost", f"T = {n}", _shown(n)) for n in STEPS),
        Setting("the same cost", "T = 4, TET", _shown(4) | {"train.loss": "tet"}),
        Setting("the same epochs", "T = 1, 2 epochs", _shown(4) | {"model.time_steps": 1}),
    ],
    reference="best",
    draw=draw_costs,
    recipe="cifar10/fast",
    epochs=8,
    limit=0,
    precision="bf16",
    measure=partial(audit_training, name="time"),
    write=write_over_time,
)
