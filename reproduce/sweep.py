"""The engine of all tables that take trainings: resumable, several processes at a time, a table after every run."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from onespike.data.dataset import open_dataset
from onespike.errors import OnespikeError
from onespike.terminal import person
from onespike.training.loop import Diverged, complete
from onespike.training.run import Run
from reproduce.costs import audit_training, write_costs
from reproduce.ledger import Ledger, Row, key, make_row
from reproduce.outcome import write_outcomes
from reproduce.plan import Sweep, Training, plan, resolve


def run_sweep(
    sweep: Sweep,
    overrides: Mapping[str, Any],
    seeds: int = 3,
    out: Path = Path("results"),
    work: Path = Path("runs/paper"),
    part: tuple[int, int] = (1, 1),
) -> None:
    """Train what is missing of a sweep, and write its table after every run.

    Args:
        sweep: What to train and compare.
        overrides: What to change in its base recipe, such as `{"train.epochs": 30}`.
        seeds: Number of seeds.
        out: Folder for NAME.runs.csv, from which a sweep goes on, NAME.csv, NAME.md and NAME.png.
        work: Folder for the run folders; a training that was interrupted goes on in its own.
        part: (k, n): train every n-th run only, beginning with the k-th, so that n processes share the work.

    Raises:
        OnespikeError: An option is out of its range, `out` holds runs of another budget, or a data set is not there.
            Nothing is written then.
        Stopped: Somebody stopped it; call it again to go on.
        KeyboardInterrupt: Likewise, by Ctrl-C in a test, or twice.
    """
    if not 1 <= part[0] <= part[1]:
        raise OnespikeError(f"part: expected K/N with 1 <= K <= N, got {part[0]}/{part[1]}")
    planned = resolve(sweep, overrides)
    trainings = plan(planned, seeds)
    own = trainings[part[0] - 1 :: part[1]]
    ledger, console = Ledger(out / f"{sweep.name}.runs.csv"), person()
    ledger.check(trainings)

    def write(row: Row | None = None) -> None:
        with ledger.locked():
            if row:
                ledger.add(row)
            (write_costs if sweep.audited else write_outcomes)(sweep, planned, seeds, ledger.rows(), out)

    # No table is begun whose images are not there.
    needed = [one.recipe.data for one in _missing(own, ledger.rows())]
    for number, data in enumerate(needed):
        if data not in needed[:number]:
            open_dataset(data)
    write()
    for training in own:
        rows = ledger.rows()
        if training not in (missing := _missing(own, rows)):  # done before, or by another process
            continue
        console.print(_announcement(training, len(own), missing, rows))
        run = Run(work / sweep.name / training.folder)
        try:
            complete(training.recipe, run, training.setting.start)
            if sweep.audited:
                audit_training(training, run, out / f"{sweep.name}.audit.csv")
            row = make_row(training, run)
        except Diverged as error:
            console.print(f"diverged: {error}")
            row = make_row(training, run, diverged=True)
        write(row)
        shutil.rmtree(run.last, ignore_errors=True)  # there is nothing left to go on with
    console.print(
        f"{sweep.name}: all {len(own)} runs{f' of part {part[0]}/{part[1]}' if part[1] > 1 else ''} are done; "
        f"the table is {out / sweep.name}.md"
    )


def _missing(trainings: Sequence[Training], rows: Sequence[Row]) -> list[Training]:
    done = {key(row) for row in rows}
    return [one for one in trainings if one.key not in done]


def _announcement(training: Training, count: int, missing: Sequence[Training], rows: Sequence[Row]) -> str:
    left = _time_left(missing, rows)
    estimate = f", about {_duration(left)} left" if left is not None else ""
    state = f"{count - len(missing)} runs done, {len(missing)} to do{estimate}"
    return f"\n{state}; now: {training.setting.name}, seed {training.seed}"


def _time_left(missing: Sequence[Training], rows: Sequence[Row]) -> float | None:
    """Seconds for the missing runs, by other seeds of the same setting or else by all runs; None if there are none."""
    timed = [row for row in rows if row["seconds"]]
    if not timed:
        return None
    overall = mean(row["seconds"] for row in timed)
    own = {one.digest: [row["seconds"] for row in timed if row["digest"] == one.digest] for one in missing}
    return sum(mean(own[one.digest]) if own[one.digest] else overall for one in missing)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"
