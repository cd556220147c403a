"""NAME.runs.csv: one row for each training that is done; what a sweep goes on from."""

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from onespike.durable import csv_text, save_text
from onespike.errors import OnespikeError
from onespike.training.run import Run
from reproduce.plan import Training
from reproduce.report import facts_of

#: The budget, by the words for it in the table.
BUDGET = ("limit", "epochs", "batch_size", "channels", "precision")
NUMBERS = ("test_top1", "valid_top1", "seconds", "images_per_second", "pflop")
COLUMNS = ("group", "setting", "seed", "outcome", *NUMBERS, *BUDGET, "digest", "commit", "machine", "torch")

Row = dict[str, Any]


class Ledger:
    """The rows of a sweep, in a CSV file to which several processes may add."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[Row]:
        """Read all rows; an `OnespikeError` if the file is not such a table."""
        if not self.path.is_file():
            return []
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file, strict=True)
                rows: list[Row] = list(reader)
                if tuple(reader.fieldnames or ()) != COLUMNS:
                    raise ValueError("its columns are others")
                for row in rows:
                    _read(row)
                if len({key(row) for row in rows}) < len(rows):
                    raise ValueError("one training is there twice")
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise OnespikeError(
                f"{self.path} cannot be read as the runs of a sweep: {error}; mend it, or choose another --out"
            ) from None
        return rows

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the file, and from the table made of it, inside this context."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
            lock.acquire()
        except OSError as error:
            raise OnespikeError(f"cannot write into {self.path.parent}: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def add(self, row: Row) -> None:
        """Add a row, unless a row of the same recipe and seed is there; call it `locked`."""
        rows = self.rows()
        if not any(key(other) == key(row) for other in rows):
            save_text(csv_text(COLUMNS, [[one[name] for name in COLUMNS] for one in [*rows, row]]), self.path)

    def check(self, trainings: Sequence[Training]) -> None:
        """Raise an `OnespikeError` if a row of these settings was trained by another recipe; it says what differs."""
        planned = {(one.setting.group, one.setting.label): one for one in trainings}
        for row in self.rows():
            training = planned.get((row["group"], row["setting"]))
            if training and row["digest"] != training.digest:
                now = budget(training)
                differences = [f"{name} was {row[name]}, now {now[name]}" for name in BUDGET if row[name] != now[name]]
                raise OnespikeError(
                    f"{self.path} holds runs of another budget: {row['group']} {row['setting']}: "
                    f"{'; '.join(differences) or 'another option of the recipe'}; give the same options, or choose "
                    "another --out"
                )


def _read(row: Row) -> None:
    """Make numbers of a row's text; a ValueError where it is no row of ours."""
    if set(row) != set(COLUMNS) or None in row.values() or row["outcome"] not in ("trained", "diverged"):
        raise ValueError(f"line {row}")
    row["seed"] = int(row["seed"])
    row.update({name: float(row[name]) if row[name] else None for name in NUMBERS})
    known = {name: row[name] for name in NUMBERS if row[name] is not None}
    if not all(0 <= one <= (100 if "top1" in name else math.inf) and one < math.inf for name, one in known.items()):
        raise ValueError(f"numbers out of their ranges: {known}")
    if row["seed"] < 0 or not row["digest"] or (row["outcome"] == "trained" and "test_top1" not in known):
        raise ValueError(f"seed {row['seed']}, digest {row['digest']!r}, numbers {known}")


def key(row: Row) -> tuple[str, int]:
    """Recipe and seed of a row, which a training's `key` has, too."""
    return row["digest"], row["seed"]


def budget(training: Training) -> dict[str, str]:
    """The budget of a training, as it stands in the table."""
    recipe, model = training.recipe, training.recipe.model
    return {
        "limit": str(recipe.data.limit),
        "epochs": str(recipe.train.epochs),
        "batch_size": str(recipe.train.batch_size),
        "channels": "-".join(map(str, model.channels)) if hasattr(model, "channels") else model.name,
        "precision": recipe.train.precision,
    }


def make_row(training: Training, run: Run, diverged: bool = False) -> Row:
    """Make the row of a training out of its run folder; one that diverged has no numbers."""
    facts = facts_of(run)
    summary = {} if diverged else run.summary
    on_accelerator = facts["accelerators"] and training.recipe.train.device == "auto"
    return {
        "group": training.setting.group,
        "setting": training.setting.label,
        "seed": training.seed,
        "outcome": "diverged" if diverged else "trained",
        **{name: summary.get(name) for name in NUMBERS},
        **budget(training),
        "digest": training.digest,
        "commit": facts["commit"],
        "machine": facts["accelerators"][0] if on_accelerator else facts["processor"],
        "torch": facts["packages"]["torch"],
    }
