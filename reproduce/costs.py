"""Sweeps whose networks are audited: what each run costs, kept beside its row; their table, and their picture."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from onespike.audit import CONVENTIONS, audit_run
from onespike.durable import csv_text, save_text
from onespike.errors import OnespikeError
from onespike.search.drawing import plain_figure
from onespike.training.run import Run
from reproduce.ledger import Ledger, Row, key
from reproduce.outcome import Outcome, describe_budget, describe_commands, describe_progress, outcomes
from reproduce.plan import Sweep, Training
from reproduce.report import Table, read_rows, write_report
from reproduce.statistics import Estimate

#: Test images that each network is audited on.
IMAGES = 512
#: What is kept of each audit: energy in microjoule by convention, and counts, all for one image; milliseconds for a
#: single image, and whether the machine was busy, 0 or 1.
FOUND = (*CONVENTIONS, "synaptic_operations", "macs", "real_macs", "milliseconds", "busy")

#: What is known of a setting, and over its seeds the mean of each of `FOUND`; empty where nothing was audited.
Point = tuple[Outcome, dict[str, Estimate]]


def audit_training(training: Training, run: Run, path: Path) -> None:
    """Audit the best weights of a run, and add what it found to the file of audits; do nothing if it is there."""
    if training.key in read_costs(path):
        return
    found = audit_run(run, images=IMAGES, device=training.recipe.train.device)
    energies = [1e6 * found.energy(convention).total for convention in CONVENTIONS]
    counts = [found.operations.synaptic_operations, found.operations.macs, found.operations.macs_of("real")]
    times = [1e3 * found.latency[0].median, float(found.latency[0].busy is not None)]
    with Ledger(path).locked():
        rows = read_costs(path) | {training.key: dict(zip(FOUND, (*energies, *counts, *times), strict=True))}
        text = csv_text(("digest", "seed", *FOUND), [[*which, *row.values()] for which, row in rows.items()])
        save_text(text, path)


def read_costs(path: Path) -> dict[tuple[str, int], dict[str, float]]:
    """Read the file of audits, which need not be there: by digest and seed, the numbers of `FOUND`.

    Raises:
        OnespikeError: It is no such file.
    """
    if not path.is_file():
        return {}
    try:
        rows = read_rows(path)
        return {(row["digest"], int(row["seed"])): {name: float(row[name]) for name in FOUND} for row in rows}
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise OnespikeError(f"{path} cannot be read as audits: {error}; mend it, or choose another --out") from None


def write_costs(sweep: Sweep, planned: Sequence[Training], seeds: int, rows: Sequence[Row], out: Path) -> None:
    """Write NAME.csv, NAME.md and NAME.png from what is there; see `reproduce.outcome.write_outcomes`."""
    audits = read_costs(out / f"{sweep.name}.audit.csv")
    points: list[Point] = []
    for outcome in outcomes(sweep, planned, seeds, rows):
        audited = [audits[key(row)] for row in outcome.trained if key(row) in audits]
        means = {name: Estimate.over([one[name] for one in audited]) for name in FOUND} if audited else {}
        points.append((outcome, means))
    columns = {"group": "", "setting": "", "T": "d", "seeds": "d", "test top-1 %": ".2f", "std": ".2f", "PFLOP": ".4f"}
    columns |= {"ms for one": ".2f", "field µJ": ".3f", "memory µJ": ".3f", "synaptic operations": ",.0f"}
    columns |= {"MACs": ",.0f", "state": ""}
    cells = [_row(*point) for point in points]
    if not any(row[-1] for row in cells):
        del columns["state"]
    table = Table(columns, [row[: len(columns)] for row in cells])
    busy = any(costs["busy"].mean > 0 for _, costs in points if costs)
    parts: list[str | Table] = [
        sweep.about,
        describe_budget(planned, seeds),
        table,
        "T is the number of time steps, PFLOP what one training cost, ms the time for a single sample"
        + (" (NOT TO BE TRUSTED: the machine was busy)" if busy else "")
        + ". Energy is for one test sample, by two conventions of `onespike audit`: the field's, and with memory.",
        f"{describe_progress(planned, seeds, rows)} std is the sample standard deviation over the seeds.",
        describe_commands(sweep, planned),
    ]
    write_report(out, sweep.name, sweep.title, table, parts, sweep.draw(points))


def _row(outcome: Outcome, costs: dict[str, Estimate]) -> list[Any]:
    setting, estimate = outcome.setting, outcome.estimate
    return [
        *(setting.group, setting.label, outcome.training.recipe.model.time_steps, len(outcome.trained)),
        *((estimate.mean, estimate.std) if estimate else (None, None)),
        outcome.mean("pflop"),
        *(costs[name].mean if costs else None for name in ("milliseconds", "field", "memory")),
        *(costs[name].mean if costs else None for name in ("synaptic_operations", "macs")),
        outcome.verdict if not outcome.rows or outcome.diverged else "",
    ]


def draw_costs(
    points: Sequence[Point],
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
