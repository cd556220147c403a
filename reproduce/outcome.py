"""What a sweep has found so far: the table, from whatever rows are there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onespike.training.recipe import Recipe
from reproduce.ledger import Row, budget, find
from reproduce.plan import Setting, Sweep, Training, digest
from reproduce.report import Table, write_report
from reproduce.statistics import Estimate, smallest_visible


@dataclass(frozen=True)
class Outcome:
    """What is known of one setting.

    Attributes:
        setting: Which.
        wanted: Seeds that it shall be trained with.
        rows: Those it was trained with.
        estimate: Test accuracy over the seeds that did not diverge, in percent; None as long as there is none.
        verdict: How it compares with the reference: "baseline" or "best" (it is the reference), "indistinguishable",
            "above", "below", or why nothing can be said.
        difference: By how many points it is ahead of the reference, seed by seed; None for the reference itself, and
            where the two share no seed.
    """

    setting: Setting
    wanted: int
    rows: Sequence[Row]
    estimate: Estimate | None
    verdict: str = ""
    difference: Estimate | None = None

    @property
    def diverged(self) -> int:
        """Seeds whose loss left the finite numbers."""
        return sum(row["outcome"] == "diverged" for row in self.rows)

    @property
    def accuracies(self) -> list[float]:
        """Test accuracy of each seed that did not diverge, in percent."""
        return list(self.by_seed.values())

    @property
    def by_seed(self) -> dict[int, float]:
        """Test accuracy by seed, of those that did not diverge, in percent."""
        return {row["seed"]: row["test_top1"] for row in self.rows if row["outcome"] == "trained"}


def outcomes(sweep: Sweep, recipes: Sequence[Recipe], seeds: int, rows: Sequence[Row]) -> list[Outcome]:
    """Summarise the rows, one outcome for each setting.

    Args:
        sweep: The sweep.
        recipes: Its recipes, one for each setting.
        seeds: How many seeds are wanted.
        rows: What is done.

    Returns:
        Outcomes in the order of the settings.
    """
    found = []
    for setting, recipe in zip(sweep.settings, recipes, strict=True):
        own = find(rows, digest(recipe, setting.start), seeds)
        values = [row["test_top1"] for row in own if row["outcome"] == "trained"]
        found.append(Outcome(setting, seeds, own, Estimate.over(values) if values else None))
    baseline = digest(recipes[0], sweep.settings[0].start)
    judged = []
    for outcome, recipe in zip(found, recipes, strict=True):
        if sweep.reference == "baseline":
            reference, is_reference = found[0], digest(recipe, outcome.setting.start) == baseline
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
    differences = [
        accuracy - reference.by_seed[seed] for seed, accuracy in outcome.by_seed.items() if seed in reference.by_seed
    ]
    difference = Estimate.over(differences) if differences and not is_reference else None
    return replace(outcome, verdict=verdict, difference=difference)


def write_outcomes(
    sweep: Sweep, recipes: Sequence[Recipe], trainings: Sequence[Training], seeds: int, rows: Sequence[Row], out: Path
) -> None:
    """Write NAME.csv, NAME.md and NAME.png from the rows that are there.

    Args:
        sweep: The sweep.
        recipes: Its recipes, one for each setting.
        trainings: What it trains.
        seeds: How many seeds are wanted.
        rows: What is done.
        out: The folder.
    """
    found = outcomes(sweep, recipes, seeds, rows)
    published = any(outcome.setting.published is not None for outcome in found)
    diverged = any(outcome.diverged for outcome in found)
    priced = any(row["pflop"] for outcome in found for row in outcome.rows)
    columns = {
        "group": "",
        "setting": "",
        "seeds": "d",
        **({"diverged": "d"} if diverged else {}),
        "pending": "d",
        "test top-1 %": ".2f",
        "std": ".2f",
        "95% from": ".2f",
        "to": ".2f",
        "held out %": ".2f",
        **({"PFLOP": ".4f"} if priced else {}),
        **({"published %": ".2f"} if published else {}),
        f"against the {sweep.reference}": "",
        "difference": "+.2f",
        "±": ".2f",
    }
    table = Table(columns, [_row(outcome, published, diverged, priced) for outcome in found])
    parts: list[str | Table] = [
        sweep.about,
        describe_budget(trainings, seeds, published),
        table,
        *filter(None, [_verdicts(found, sweep.reference)]),
        _state(trainings, seeds, rows, found, sweep.reference),
    ]
    write_report(out, sweep.name, sweep.title, table, parts, sweep.draw(found))


def _verdicts(found: Sequence[Outcome], reference: str) -> str:
    """Say in a sentence what can be told apart; nothing as long as nothing can be compared."""
    said = []
    for verdict in ("above", "below", "indistinguishable"):
        names = [f"{one.setting.group} {one.setting.label}" for one in found if one.verdict == verdict]
        if names:
            where = "indistinguishable from" if verdict == "indistinguishable" else verdict
            said.append(f"{where} the {reference}: {', '.join(names)}")
    names = [f"{one.setting.group} {one.setting.label}" for one in found if one.diverged]
    if names:
        said.append(f"diverged with some seed: {', '.join(names)}")
    lines = [f"What the data says: {'; '.join(said)}."] if said else []
    compared = [one for one in found if one.difference and one.difference.interval]
    seen = [
        f"{one.setting.group} {one.setting.label} ({one.difference.mean:+.2f})"
        for one in compared
        if one.verdict == "indistinguishable" and one.difference and not one.difference.reaches(0.0)
    ]
    if seen:
        lines.append(
            f"Seed by seed a difference to the {reference} shows for {', '.join(seen)}; {len(compared)} rows were "
            "compared, and of twenty such intervals one leaves out 0 by chance"
            f"{', more of them here: the best was picked by the same runs' if reference == 'best' else ''}."
        )
    return " ".join(lines)


def _row(outcome: Outcome, published: bool, diverged: bool, priced: bool) -> list:
    estimate, trained = outcome.estimate, [row for row in outcome.rows if row["outcome"] == "trained"]
    low, high = estimate.interval if estimate and estimate.interval else (None, None)
    ahead = outcome.difference
    costs = [row["pflop"] for row in trained if row["pflop"] is not None]
    valid = [row["valid_top1"] for row in trained if row["valid_top1"] is not None]
    return [
        outcome.setting.group,
        outcome.setting.label,
        len(trained),
        *([outcome.diverged] if diverged else []),
        outcome.wanted - len(outcome.rows),
        estimate.mean if estimate else None,
        estimate.std if estimate else None,
        low,
        high,
        sum(valid) / len(valid) if valid else None,
        *([sum(costs) / len(costs) if costs else None] if priced else []),
        *([outcome.setting.published] if published else []),
        outcome.verdict,
        ahead.mean if ahead else None,
        (ahead.interval[1] - ahead.mean) if ahead and ahead.interval else None,
    ]


def describe_budget(trainings: Sequence[Training], seeds: int, published: bool) -> str:
    """The table's head: what each run was given."""
    recipes, spent = [one.recipe for one in trainings], [budget(one) for one in trainings]
    epochs = sorted({one.train.epochs for one in recipes})
    span = f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else epochs[0]
    channels = {one["channels"] for one in spent} if all(hasattr(one.model, "channels") for one in recipes) else ()
    width = f"channels {', '.join(channels)}, " if len(channels) == 1 else ""
    return (
        f"**Budget** of each run: {_each(f'{one.data.limit:,}' if one.data.limit else 'all' for one in recipes)} "
        f"training images, of which {_each(f'{one.data.holdout:.0%}' for one in recipes)} are held out to choose the "
        f"epoch, {span} epochs, batches of {_each(one['batch_size'] for one in spent)}, "
        f"{width}{_each(one['precision'] for one in spent)}, "
        f"{_each(f'{one.train.optimizer} at {one.train.lr:g}' for one in recipes)} with "
        f"{_each(f'{one.train.warmup_epochs:g}' for one in recipes)} epochs of warm-up; seeds 0 to {seeds - 1}. "
        "Accuracies are of all test images, in percent."
        + (" The published numbers are of 300 epochs on all images at full width." if published else "")
    )


def describe_progress(trainings: Sequence[Training], rows: Sequence[Row]) -> str:
    """Say how many runs are done, and where, with what and at which commit they were trained."""
    done = [row for one in trainings for row in rows if (row["digest"], row["seed"]) == (one.digest, one.seed)]
    pending = "" if len(done) == len(trainings) else "; what is missing is marked pending"
    where = [
        f"{label} {', '.join(sorted({str(row[name]) for row in done if row[name]}))}"
        for name, label in (("machine", "on"), ("torch", "with torch"), ("commit", "at commit"))
    ]
    trained = f" Trained {'; '.join(where)}." if done else ""
    planned, digests = {(one.digest, one.seed) for one in trainings}, {one.digest for one in trainings}
    others = [row for row in rows if row["digest"] in digests and (row["digest"], row["seed"]) not in planned]
    further = f" The file of runs has {len(others)} more, of further seeds." if others else ""
    return f"{len(done)} of {len(trainings)} runs are done{pending}.{further}{trained}"


def _each(values: Iterable[str]) -> str:
    """Name each value once."""
    return " or ".join(dict.fromkeys(values))


def _state(
    trainings: Sequence[Training], seeds: int, rows: Sequence[Row], found: Sequence[Outcome], reference: str
) -> str:
    lines = [describe_progress(trainings, rows)]
    if seeds == 1 or any(len(outcome.accuracies) == 1 for outcome in found):
        lines.append("Of one seed there is no interval, and so no verdict.")
    lines.append(
        "std is the sample standard deviation over the seeds; the interval is Student's 95% interval of the mean; "
        "indistinguishable means that two such intervals overlap: the difference is not resolved, not that there is "
        f"none. The last two columns are the difference to the {reference}, seed by seed, and half of its own 95% "
        "interval."
    )
    visible = smallest_visible([outcome.estimate for outcome in found if outcome.estimate])
    if visible:
        lines.append(f"With the spread seen here intervals part from some {visible:.1f} points on.")
    return " ".join(lines)
