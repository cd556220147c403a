"""`python -m reproduce`."""

import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import getdoc
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from onespike.allocator import keep_freed_memory
from onespike.cli.main import exit_with
from onespike.errors import OnespikeError, unknown
from onespike.training.loop import Stopped
from onespike.training.recipe import SECTIONS, option_value, parse, recipe_path
from reproduce.registry import PAPER
from reproduce.sweep import Sweep, run_sweep

#: Values of the recipe that a sweep has an option of its own for.
OWN = {
    "train.epochs": "epochs",
    "data.limit": "limit",
    "model.channels": "channels",
    "train.precision": "precision",
    "train.seed": "seeds",
}
INTERRUPTED = 130


def run(arguments: Sequence[str]) -> int:
    """Compute one of the paper's tables or figures.

    Args:
        arguments: The command line behind `python -m reproduce`.

    Returns:
        The exit code.
    """
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
    entry = PAPER[name]
    try:
        with _sigterm_like_ctrl_c():
            if isinstance(entry, Sweep):
                _sweep(entry, options)
            else:
                _call(name, entry, options)
    except (Stopped, KeyboardInterrupt):
        print(
            f"\nstopped; what is done is kept: go on with: python -m reproduce {shlex.join(arguments)}", file=sys.stderr
        )
        return INTERRUPTED
    return 0


def _call(name: str, function: Callable[..., str | None], options: Sequence[str]) -> None:
    """Call a table's function with options named and explained as its arguments are."""
    parser = ArgumentParser(prog=f"python -m reproduce {name}", description=_first_line(function), exit_on_error=False)
    parser.add_function_arguments(function)
    values = parse(parser, options, sections=()).as_dict()
    files = function(**values) or name
    print(f"the table is {values['out'] / files}.md, with {files}.csv and {files}.png beside it")


def _first_line(function: Callable[..., object]) -> str:
    return (getdoc(function) or "").splitlines()[0].rstrip(".")


def _sweep(sweep: Sweep, options: Sequence[str]) -> None:
    parser = ArgumentParser(
        prog=f"python -m reproduce {sweep.name}",
        description=f"{sweep.about} Trains what is missing, and writes the table after every run; the same command "
        "goes on where it was stopped. All options of a recipe may be given, such as --data.root FOLDER; a folder that "
        "holds a folder for each data set will do.",
        exit_on_error=False,
    )
    parser.add_argument("--epochs", type=int, default=30, help="epochs of each run; a tenth of them is warm-up")
    parser.add_argument("--limit", type=int, default=10_000, help="training images of each run; 0 takes all")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each setting")
    parser.add_argument(
        "--channels", type=tuple[int, ...] | None, help="channels of the stages; half the width: [24,48,96,192]"
    )
    parser.add_argument("--precision", type=str, default="fp32", help="arithmetic, as --train.precision")
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder for the table, and for the list of runs"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/paper"), help="folder for the run folders")
    parser.add_argument("--part", type=str, default="1/1", help="K/N: train every N-th run, for N processes at a time")
    parser.add_argument("--recipe", type=str, default=sweep.recipe, help="what the settings change")
    given = _given(options)
    for key in given:
        if key in OWN:
            raise OnespikeError(f"--{key}: {sweep.name} has an option of its own for it: --{OWN[key]}")
    values = parse(parser, options, recipe_path(option_value(options, "--recipe") or sweep.recipe))
    overrides: dict[str, Any] = {key: values[key] for key in given}
    overrides |= {"train.epochs": values.epochs, "data.limit": values.limit, "train.precision": values.precision}
    if values.channels:
        overrides["model.channels"] = values.channels
    part = re.fullmatch(r"(\d+)/(\d+)", values.part)
    if not part:
        raise OnespikeError(f"part: expected K/N, such as 1/2, got {values.part}")
    run_sweep(
        replace(sweep, recipe=values.recipe),
        overrides,
        values.seeds,
        values.out,
        values.work,
        (int(part[1]), int(part[2])),
    )


def _given(options: Sequence[str]) -> list[str]:
    """Keys of the recipe that a command line sets, such as "data.root"."""
    names = [option.split("=")[0].removeprefix("--") for option in options if option.startswith("--")]
    return [name for name in names if name.split(".")[0] in SECTIONS and "." in name]


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM stop the command as Ctrl-C does; while a network trains, the training loop takes both."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python admits no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run and exit, as the package's own commands do."""
    keep_freed_memory()
    exit_with(run, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    main()
