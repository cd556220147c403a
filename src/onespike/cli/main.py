"""Entry point: picks the command, turns users' errors into one line and exit code 2."""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn

from onespike._version import __version__
from onespike.allocator import keep_freed_memory
from onespike.errors import OnespikeError, unknown

#: Commands and what they do. Each is a module of this package with `run(arguments)`, imported only when it is called.
COMMANDS = {
    "train": "train a network; leaves a run folder",
    "evaluate": "accuracy of a run, by class, with its confusion matrix",
    "inspect": "draw what a run's network makes of one image",
    "audit": "what a network costs: operations, energy, memory, latency",
    "optimise": "make an engine of a run for fast inference on CPUs",
    "convert": "turn a run's artificial network into a spiking one",
    "prune-time": "train at T time steps, then from those weights at T - 1, … down to one",
    "check-spikes": "prove that every weight layer behind the stem reads spikes alone",
    "models": "list the registered models, or one model's presets and options",
    "cite": "print the references of what is implemented here",
}

#: What a shell expects of a program that Ctrl-C ended.
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 the user's to mend, 130 interrupted; a bug of ours keeps its traceback."""
    exit_with(_dispatch, sys.argv[1:] if arguments is None else arguments)


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
        sys.exit(INTERRUPTED)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: onespike COMMAND [options]\n\ncommands:")
        for name, help_ in COMMANDS.items():
            print(f"  {name:<14}{help_}")
        print("\nonespike COMMAND --help lists a command's options; onespike --version prints the version")
        return 0
    if arguments[0] == "--version":
        print(f"onespike {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        raise unknown("command", arguments[0], COMMANDS)
    keep_freed_memory()
    return import_module(f"onespike.cli.{arguments[0].replace('-', '_')}").run(arguments[1:])


def _leave_group() -> None:
    """Leave the group of processes, if there is one: its threads must not outlive the interpreter."""
    distributed = sys.modules.get("torch.distributed")  # a command that never imported torch is in no group
    if distributed and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
