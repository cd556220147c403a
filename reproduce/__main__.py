"""`python -m reproduce`: the paper's tables and figures."""

import functools
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import getdoc, signature
from pathlib import Path
from typing import Any, NoReturn

from onespike.cli.command import Overrides, call
from onespike.cli.main import Ended, exit_with
from onespike.durable import expect_writable
from onespike.errors import OnespikeError, unknown
from onespike.terminal import person
from onespike.training.loop import Stopped
from reproduce.plan import OWN, Sweep
from reproduce.registry import PAPER
from reproduce.sweep import run_sweep

INTERRUPTED = 130


def run(arguments: Sequence[str]) -> int:
    """Compute the table or figure that the command line behind `python -m reproduce` names; returns the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m reproduce NAME [options]\n\nnames:")
        for name, entry in PAPER.items():
            about = entry.title if isinstance(entry, Sweep) else _first_line(entry)
            print(f"  {name:<12}{about}")
        print("\npython -m reproduce NAME --help lists a name's options")
        return 0
    name, *options = arguments
    if name not in PAPER:
        raise unknown("table or figure", name, PAPER)
    entry, usage = PAPER[name], f"python -m reproduce {name}"
    try:
        if isinstance(entry, Sweep):
            return call(_sweep(entry), options, usage, ("data", "model", "train", "loss"))
        return call(_table(name, entry), options, usage)
    except (Stopped, KeyboardInterrupt, Ended) as stop:
        keeps = isinstance(entry, Sweep) or "work" in signature(entry).parameters
        again = f"; what is done is kept: go on with: python -m reproduce {shlex.join(arguments)}"
        print(f"\nstopped{again if keeps else ''}", file=sys.stderr)
        return 128 + stop.args[0] if isinstance(stop, Ended) else INTERRUPTED


def _table(name: str, function: Callable[..., str | None]) -> Callable[..., int]:
    """A command that calls a table's function, whose arguments are its options."""

    @functools.wraps(function)
    def command(**values: Any) -> int:
        expect_writable(folder=values["out"])
        out, files = values["out"], function(**values) or name
        table, beside = out / f"{files}.md", [f"{files}.csv", f"{files}.png"]
        complete = all((out / one).is_file() for one in beside)
        more = f", with {' and '.join(beside)} beside it" if complete else ""
        person().print(f"the table is {table}{more}" if table.is_file() else f"the pictures are in {out}")
        return 0

    return command


def _first_line(function: Callable[..., object]) -> str:
    return (getdoc(function) or "").splitlines()[0].rstrip(".")


def _sweep(sweep: Sweep) -> Callable[..., int]:
    """A command that trains what is missing of a sweep."""

    def command(
        overrides: Overrides,
        epochs: int = sweep.epochs,
        limit: int = sweep.limit,
        seeds: int = 3,
        channels: tuple[int, ...] | None = None,
        precision: str = sweep.precision,
        out: Path = Path("results"),
        work: Path = Path("runs/paper"),
        part: str = "1/1",
        recipe: str = sweep.recipe,
    ) -> int:
        """Train what is missing.

        Args:
            overrides: Values of the recipe.
            epochs: Epochs of each run, if no row sets its own; warm-up is a tenth of them.
            limit: Training images of each run, likewise; 0 takes all.
            seeds: Runs of each setting.
            channels: Channels of the stages; half the width: [24,48,96,192].
            precision: Arithmetic, as --train.precision.
            out: Folder for the table, and for the list of runs.
            work: Folder for the run folders.
            part: K/N: train every N-th run, for N processes at a time.
            recipe: What the settings change.
        """
        for key in overrides:
            if key in OWN:
                raise OnespikeError(f"--{key}: {sweep.name} has an option of its own for it: --{OWN[key]}")
        given: dict[str, Any] = dict(overrides)
        given |= {"train.epochs": epochs, "data.limit": limit, "train.precision": precision}
        if channels is not None:
            given["model.channels"] = channels
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", part)
        if not found:
            raise OnespikeError(f"part: expected K/N, such as 1/2, got {part}")
        run_sweep(replace(sweep, recipe=recipe), given, seeds, out, work, (int(found[1]), int(found[2])))
        return 0

    command.__doc__ = (command.__doc__ or "").replace(
        "Train what is missing.",
        f"{sweep.about}\n\n        Trains what is missing, and writes the table after every run; the same command "
        "goes on where it was stopped. All options of a recipe may be given that the rows do not set, such as "
        "--data.root FOLDER; a folder that holds a folder for each data set will do.",
    )
    return command


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run and exit, as the package's own commands do."""
    exit_with(run, arguments)


if __name__ == "__main__":
    main()
