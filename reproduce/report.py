"""What every table or figure leaves: NAME.csv, NAME.md and NAME.png, with command, commit and machine."""

import csv
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from onespike.configs import expect_keys, read_json
from onespike.durable import csv_text, read_whole, save_text
from onespike.environment import environment
from onespike.errors import OnespikeError
from onespike.evaluation.drawing import save_figure
from onespike.training.run import Run

DPI = 120
#: Columns by name: the format of their numbers, as in `Table`, and what finds an item's cell.
Columns = dict[str, tuple[str, Callable[[Any], Any]]]


@dataclass(frozen=True, eq=False)
class Table:
    """Rows under named columns.

    Attributes:
        columns: Name of each column, and the format of its numbers in Markdown, such as ".2f"; "" leaves them as they
            are.
        rows: As many cells as columns; None where there is nothing.
    """

    columns: Mapping[str, str]
    rows: Sequence[Sequence[Any]]

    @classmethod
    def of(cls, items: Iterable[Any], columns: Columns) -> "Table":
        """A row for each item."""
        rows = [[find(one) for _, find in columns.values()] for one in items]
        return cls({name: spec for name, (spec, _) in columns.items()}, rows)

    def csv(self) -> str:
        """All digits."""
        return csv_text(list(self.columns), self.rows)

    def markdown(self) -> str:
        """For a reader; numbers stand to the right."""
        formats = list(self.columns.values())
        body = [[_cell(value, spec) for value, spec in zip(row, formats, strict=True)] for row in self.rows]
        rule = ["---:" if spec else "---" for spec in formats]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in [list(self.columns), rule, *body])


def write_report(out: Path, name: str, title: str, data: Table, parts: Sequence[str | Table], figure: Figure) -> None:
    """Write NAME.csv with the data, NAME.md with paragraphs and tables below its title, and NAME.png."""
    made = provenance()  # before a file of the repository changes
    save_text(data.csv(), out / f"{name}.csv")
    save_figure(figure, out / f"{name}.png", DPI)
    body = [part if isinstance(part, str) else part.markdown() for part in parts]
    save_text("\n\n".join([f"# {title}", *body, f"![{title}]({name}.png)", made]) + "\n", out / f"{name}.md")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table that was written, by the names of its columns."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def facts_of(run: Run) -> dict[str, Any]:
    """What a run was trained with, as `environment` says it; an `OnespikeError` if its file is gone or damaged."""
    path = run.folder / "environment.json"
    try:
        facts: dict[str, Any] = read_json(read_whole(path), path)
    except OSError as error:
        raise OnespikeError(f"{path} cannot be read ({error.strerror}): put it back, or train the run again") from error
    kinds = {"commit": str | None, "processor": str, "threads": int, "accelerators": list[str]}
    expect_keys(facts, {**kinds, "packages": dict[str, str | None]}, str(path))
    return facts


def expect_apart(runs: Iterable[Path]) -> None:
    """Raise an `OnespikeError` if two runs have one name: what is written of a run is called by it."""
    (name, count), *_ = Counter(run.name for run in runs).most_common(1)
    if count > 1:
        raise OnespikeError(f"runs: expected a name for each, got {count} called {name}: rename their folders")


def provenance() -> str:
    """Say by which command, from which commit and on which machine something was made."""
    facts = environment()
    return (
        f"- Command: `{shlex.join(portable(facts['command']))}`\n"
        f"- Commit: {facts['commit'] or 'unknown'}, onespike {facts['onespike']}\n"
        f"- Machine: {', '.join(facts['accelerators']) or facts['processor']}, {facts['cores']} cores, "
        f"{facts['threads']} threads, Python {facts['python']}, torch {facts['packages']['torch']}"
    )


def portable(command: Sequence[str]) -> list[str]:
    """Take out of a command line what is of no use elsewhere: folders of this machine, the part of a sweep."""
    program, *arguments = command
    if "--part" in arguments:
        position = arguments.index("--part")
        del arguments[position : position + 2]
    arguments = [argument for argument in arguments if not argument.startswith("--part=")]
    path, name = Path(program), [Path(program).name]
    if path.name == "__main__.py":
        name = ["python", "-m", path.parent.name]
    elif (path.parent / "__init__.py").is_file():  # a module of a package, which is no script
        name = ["python", "-m", f"{path.parent.name}.{path.stem}"]
    return [*name, *map(_without_folders, arguments)]


def _without_folders(argument: str) -> str:
    """Keep of every absolute path in an argument its last name, as also in `--option=PATH` and `[PATH,PATH]`."""

    def shorter(found: re.Match[str]) -> str:
        path = Path(found.group())
        inside = path.is_relative_to(Path.cwd())
        return str(path.relative_to(Path.cwd())) if inside else f"…/{path.name}"

    return re.sub(r"(?<![^=\[, ])/[^,\]]+", shorter, argument)


def _cell(value: Any, spec: str) -> str:
    if value is None:
        return "-"
    return format(value, spec) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
