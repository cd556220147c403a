"""Entry point: picks the command, turns users' errors into one line and exit code 2."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

from onespike._version import __version__
from onespike.allocator import keep_freed_memory
from onespike.cli.command import call
from onespike.errors import OnespikeError, unknown


class Command(NamedTuple):
    """A command: a function of the same name in a module of the same name, imported only when it is called."""

    about: str
    arguments: str  # as its usage says
    sections: tuple[str, ...] = ()  # of a recipe, whose values it takes


COMMANDS = {
    "train": Command("train a network; leaves a run folder", "", ("data", "model", "train", "loss", "conversion")),
    "evaluate": Command("accuracy of a run, by class, with its confusion matrix", "RUN", ("data",)),
    "inspect": Command("draw what a run's network makes of one image", "RUN --image FILE"),
    "audit": Command("what a network costs: operations, energy, memory, latency", "RUN|MODEL", ("data", "model")),
    "optimise": Command("make an engine of a run for fast inference on CPUs", "RUN"),
    "export": Command("write a network as ONNX, pt2 or C, each with a proof of parity", "RUN --out FOLDER", ("data",)),
    "convert": Command(
        "turn a run's artificial network into a spiking one", "RUN --out RUN", ("data", "train", "calibration")
    ),
    "prune-time": Command(
        "train at T time steps, then from those weights at T - 1, … down to one",
        "--recipe RECIPE --from T --out FOLDER",
        ("data", "model", "train", "loss"),
    ),
    "check-spikes": Command("prove that every weight layer behind the stem reads spikes alone", "RUN", ("data",)),
    "models": Command("list the registered models, or one model's presets and options", "[NAME]"),
    "cite": Command("print the references of what is implemented here", ""),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 the user's to mend, 130 interrupted; a bug of ours keeps its traceback."""
    exit_with(dispatch, sys.argv[1:] if arguments is None else arguments)


def exit_with(command: Callable[[list[str]], int], arguments: Sequence[str]) -> NoReturn:
    """Call a command line's function and exit as `main` does."""
    try:
        code = command(list(arguments))
        _leave_group()
        sys.exit(code)
    except OnespikeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)  # what a shell expects of a program that Ctrl-C ended


def dispatch(arguments: list[str]) -> int:
    """Run the command that a command line names; gives its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: onespike COMMAND [options]\n\ncommands:")
        for name, command in COMMANDS.items():
            print(f"  {name:<14}{command.about}")
        print("\nonespike COMMAND --help lists a command's options; onespike --version prints the version")
        return 0
    if arguments[0] == "--version":
        print(f"onespike {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        raise unknown("command", arguments[0], COMMANDS)
    keep_freed_memory()
    name, command = arguments[0].replace("-", "_"), COMMANDS[arguments[0]]
    function = getattr(import_module(f"onespike.cli.{name}"), name)
    return call(function, arguments[1:], f"onespike {arguments[0]} {command.arguments}".rstrip(), command.sections)


def _leave_group() -> None:
    """Leave the group of processes, if there is one: its threads must not outlive the interpreter."""
    distributed = sys.modules.get("torch.distributed")  # a command that never imported torch is in no group
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
