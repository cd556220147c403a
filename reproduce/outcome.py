"""What a sweep has found so far: the table, from whatever rows are there."""

import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reproduce.ledger import Row, budget
from reproduce.plan import Setting, Sweep, Training
from reproduce.report import Columns, Table, write_report
from reproduce.statistics import Estimate, smallest_visible

#: Columns that are left out where no row has anything in them.
_OPTIONAL = ("diverged", "PFLOP", "published %")


@dataclass(frozen=True)
class Outcome:
    """What is known of one setting.

    Attributes:
        training: The setting, with seed 0.
        wanted: Seeds that it shall be trained with.
        rows: Those it was trained with.
        verdict: How it compares with the reference: "baseline" or "best" (it is the reference), "indistinguishable",
            "above", "below", or why nothing can be said.
        difference: By how many points it is ahead of the reference, seed by seed; None for the reference itself, and
            where the two share no seed.
    """

    training: Training
    wanted: int
    rows: Sequence[Row]
    verdict: str = ""
    difference: Estimate | None = None

    @property
    def setting(self) -> Setting:
        """Which."""
        return self.training.setting

    @property
    def trained(self) -> list[Row]:
        """The rows of the seeds that did not diverge."""
        return [row for row in self.rows if row["outcome"] == "trained"]

    @property
    def diverged(self) -> int:
        """How many seeds' loss left the finite numbers."""
        return len(self.rows) - len(self.trained)

    @property
    def accuracies(self) -> dict[int, float]:
        """Test accuracy by seed, in percent, of those that did not diverge."""
        return {row["seed"]: row["test_top1"] for row in self.trained}

    @cached_property
    def estimate(self) -> Estimate | None:
        """Test accuracy over these seeds; None as long as there is none."""
        return Estimate.over([*self.accuracies.values()]) if self.accuracies else None

    def mean(self, column: str) -> float | None:
        """The mean of a column over these seeds; None where nothing is in it."""
        known = [row[column] for row in self.trained if row[column] is not None]
        return sum(known) / len(known) if known else None


def outcomes(sweep: Sweep, planned: Sequence[Training], seeds: int, rows: Sequence[Row]) -> list[Outcome]:
    """Summarise the rows, one outcome for each setting, in order; `planned` is what `resolve` returned."""
    found = []
    for one in planned:
        own = [row for row in rows if row["digest"] == one.digest and row["seed"] < seeds]
        found.append(Outcome(one, seeds, sorted(own, key=lambda row: row["seed"])))
    judged = []
    for outcome in found:
        if sweep.reference == "baseline":
            reference, is_reference = found[0], outcome.training.digest == planned[0].digest
        else:
            group = [other for other in found if other.setting.group == outcome.setting.group]
            reference = max(group, key=lambda other: other.estimate.mean if other.estimate else -1.0)
            is_reference = outcome is reference
        judged.append(_judge(outcome, reference, sweep.reference, is_reference))
    return judged


def _judge(outcome: Outcome, reference: Outcome, name: str, is_reference: bool) -> Outcome:
    if not outcome.rows:
        verdict = "pending"
    elif outcome.diverged:
        verdict = f"diverged in {outcome.diverged} of {len(outcome.rows)}"
    elif is_reference:
        verdict = name
    elif outcome.estimate is None or reference.estimate is None:
        verdict = f"no {name} yet"
    else:
        verdict = outcome.estimate.against(reference.estimate)
    shared = outcome.accuracies.keys() & reference.accuracies.keys()
    differences = [outcome.accuracies[seed] - reference.accuracies[seed] for seed in sorted(shared)]
    difference = Estimate.over(differences) if differences and not is_reference else None
    return replace(outcome, verdict=verdict, difference=difference)


def write_outcomes(sweep: Sweep, planned: Sequence[Training], seeds: int, rows: Sequence[Row], out: Path) -> None:
    """Write NAME.csv, NAME.md and NAME.png from the rows that are there."""
    found = outcomes(sweep, planned, seeds, rows)
    columns: Columns = {
        "group": ("", lambda one: one.setting.group),
        "setting": ("", lambda one: one.setting.label),
        "seeds": ("d", lambda one: len(one.trained)),
        "diverged": ("d", lambda one: one.diverged),
        "pending": ("d", lambda one: one.wanted - len(one.rows)),
        "test top-1 %": (".2f", lambda one: one.estimate and one.estimate.mean),
        "std": (".2f", lambda one: one.estimate and one.estimate.std),
        "95% from": (".2f", lambda one: one.estimate and one.estimate.interval and one.estimate.interval[0]),
        "to": (".2f", lambda one: one.estimate and one.estimate.interval and one.estimate.interval[1]),
        "held out %": (".2f", lambda one: one.mean("valid_top1")),
        "PFLOP": (".4f", lambda one: one.mean("pflop")),
        "published %": (".2f", lambda one: one.setting.published),
        f"against the {sweep.reference}": ("", lambda one: one.verdict),
        "difference": ("+.2f", lambda one: one.difference and one.difference.mean),
        "±": (".2f", lambda one: one.difference and one.difference.half),
    }
    kept = {name: one for name, one in columns.items() if name not in _OPTIONAL or any(map(one[1], found))}
    table = Table.of(found, kept)
    parts: list[str | Table] = [
        sweep.about,
        describe_budget(planned, seeds),
        table,
        *filter(None, [_verdicts(found, sweep.reference)]),
        _state(found, planned, seeds, rows, sweep.reference),
        describe_commands(sweep, planned),
    ]
    write_report(out, sweep.name, sweep.title, table, parts, sweep.draw(found))


def _verdicts(found: Sequence[Outcome], reference: str) -> str:
    """Say in a sentence what can be told apart; nothing as long as nothing can be compared."""
    said = []
    for verdict in ("above", "below", "indistinguishable"):
        if names := [one.setting.name for one in found if one.verdict == verdict]:
            where = "indistinguishable from" if verdict == "indistinguishable" else verdict
            said.append(f"{where} the {reference}: {', '.join(names)}")
    if names := [one.setting.name for one in found if one.diverged]:
        said.append(f"diverged with some seed: {', '.join(names)}")
    lines = [f"What the data says: {'; '.join(said)}."] if said else []
    compared = [(one, one.difference) for one in found if one.difference and one.difference.interval]
    seen = [
        f"{one.setting.name} ({difference.mean:+.2f})"
        for one, difference in compared
        if one.verdict == "indistinguishable" and not difference.reaches(0.0)
    ]
    if seen:
        lines.append(
            f"Seed by seed a difference to the {reference} shows for {', '.join(seen)}; {len(compared)} rows were "
            "compared, and of twenty such intervals one leaves out 0 by chance"
            f"{', more of them here: the best was picked by the same runs' if reference == 'best' else ''}."
        )
    return " ".join(lines)


def describe_commands(sweep: Sweep, planned: Sequence[Training]) -> str:
    """By which command each row can be trained alone; what all have in common is said once."""
    written = [[_option(key, value) for key, value in one.options.items()] for one in planned]
    shared = [option for option in written[0] if all(option in options for options in written)]
    recipe = Path(sweep.recipe)
    name = f"{recipe.parent.name}/{recipe.name}" if recipe.is_absolute() else sweep.recipe
    command = f"onespike train --recipe {name} {' '.join(shared)}".rstrip()
    lines = [f"A row alone is trained by `{command} --train.seed 0 --out RUN` and the options of its own:", ""]
    for one, options in zip(planned, written, strict=True):
        own = " ".join(option for option in options if option not in shared)
        lines.append(f"- {one.setting.name}: {f'`{own}`' if own else 'none'}")
    return "\n".join(lines)


def _option(key: str, value: Any) -> str:
    return f"--{key} {shlex.quote(value if isinstance(value, str) else json.dumps(value))}"


def describe_budget(planned: Sequence[Training], seeds: int) -> str:
    """The table's head: what each run was given."""
    recipes, spent = [one.recipe for one in planned], [budget(one) for one in planned]
    epochs = sorted({one.train.epochs for one in recipes})
    span = f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else f"{epochs[0]}"
    channels = {one["channels"] for one in spent} if all(hasattr(one.model, "channels") for one in recipes) else ()
    width = f"channels {', '.join(channels)}, " if len(channels) == 1 else ""
    published = any(one.setting.published is not None for one in planned)
    return (
        f"**Budget** of each run: {_each(f'{one.data.limit:,}' if one.data.limit else 'all' for one in recipes)} "
        f"training images, of which {_each(f'{one.data.holdout:.0%}' for one in recipes)} are held out to choose the "
        f"epoch, {_epochs(span)}, batches of {_each(one['batch_size'] for one in spent)}, "
        f"{width}{_each(one['precision'] for one in spent)}, "
        f"{_each(f'{one.train.optimizer} at {one.train.lr:g}' for one in recipes)} with "
        f"{_epochs(_each(f'{one.train.warmup_epochs:g}' for one in recipes))} of warm-up; "
        f"{f'seeds 0 to {seeds - 1}' if seeds > 1 else 'seed 0'}. Accuracies are of all test images, in percent."
        + (" The published numbers are of 300 epochs on all images at full width." if published else "")
    )


def describe_progress(planned: Sequence[Training], seeds: int, rows: Sequence[Row]) -> str:
    """Say how many runs are done, and where, with what and at which commit they were trained."""
    digests = {one.digest for one in planned}
    known = [row for row in rows if row["digest"] in digests]
    done = [row for row in known if row["seed"] < seeds]
    pending = "" if len(done) == seeds * len(digests) else "; what is missing is marked pending"
    where = [
        f"{label} {', '.join(sorted({str(row[name]) for row in done if row[name]}))}"
        for name, label in (("machine", "on"), ("torch", "with torch"), ("commit", "at commit"))
    ]
    trained = f" Trained {'; '.join(where)}." if done else ""
    others = len(known) - len(done)
    further = f" The file of runs has {others} more, of further seeds." if others else ""
    return f"{len(done)} of {seeds * len(digests)} runs are done{pending}.{further}{trained}"


def _each(values: Iterable[str]) -> str:
    """Name each value once."""
    return " or ".join(dict.fromkeys(values))


def _epochs(number: str) -> str:
    return f"{number} epoch{'' if number == '1' else 's'}"


def _state(found: Sequence[Outcome], planned: Sequence[Training], seeds: int, rows: Sequence[Row], name: str) -> str:
    lines = [describe_progress(planned, seeds, rows)]
    if seeds == 1 or any(len(outcome.accuracies) == 1 for outcome in found):
        lines.append("Of one seed there is no interval, and so no verdict.")
    lines.append(
        "std is the sample standard deviation over the seeds; the interval is Student's 95% interval of the mean; "
        "indistinguishable means that two such intervals overlap: the difference is not resolved, not that there is "
        f"none. The last two columns are the difference to the {name}, seed by seed, and half of its own 95% interval."
    )
    visible = smallest_visible([outcome.estimate for outcome in found if outcome.estimate])
    if visible:
        lines.append(f"With the spread seen here intervals part from some {visible:.1f} points on.")
    return " ".join(lines)
