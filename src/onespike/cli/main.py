"""Entry point: picks the command, turns users' errors into one line and exit code 2."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from onespike._version import __version__
from onespike.allocator import keep_freed_memory
from onespike.cli.command import call
from onespike.errors import OnespikeError, lacks_memory, printable, reason, unknown
from onespike.stdio import Stream


class Command(NamedTuple):
    """A command: a function of the same name in a module of the same name, imported only when it is called."""

    about: str
    arguments: str  # its arguments, as in the usage
    sections: tuple[str, ...] = ("data",)  # sections of a recipe whose values it takes


_TRAINING = ("data", "model", "train", "loss")
#: Packages whose errors are bugs of ours.
_OURS = ("__main__", "onespike", "reproduce", "benchmarks", "tests")
COMMANDS = {
    "train": Command("train a network; leaves a run folder", "", (*_TRAINING, "conversion")),
    "evaluate": Command("accuracy of a run, by class, with its confusion matrix", "RUN"),
    "inspect": Command("draw what a run's network makes of one image", "RUN --image FILE|--sample N"),
    "audit": Command("what a network costs: operations, energy, memory, latency", "RUN|MODEL", ("data", "model")),
    "optimise": Command("make an engine of a run for fast inference on CPUs", "RUN"),
    "export": Command("write a network as ONNX, pt2, NIR or C, and verify it", "RUN --out FOLDER"),
    "demo": Command("show a run's network in the browser, spikes and costs included", "[RUN]"),
    "push": Command(
        "a run's weights with a model card: into a folder, or to the Hub", "RUN --out FOLDER|--repo USER/NAME"
    ),
    "convert": Command(
        "turn a run's artificial network into a spiking one", "RUN --out RUN", ("data", "train", "calibration")
    ),
    "prune-time": Command(
        "train at T time steps, then at T - 1, … down to one",
        "--recipe RECIPE --from T --out FOLDER",
        _TRAINING,
    ),
    "search": Command(
        "search for a recipe's best values, by accuracy and energy",
        "--recipe RECIPE --space FILE --out FOLDER",
        _TRAINING,
    ),
    "check-spikes": Command("check that every weight layer behind the stem reads spikes alone", "RUN"),
    "cache": Command("verify the decoded images, byte for byte", "verify", ()),
    "models": Command("list the registered models, or one model's presets and options", "[NAME]", ()),
    "cite": Command("print the references of what is implemented here", "", ()),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0 done, 2 an error that the user can fix, 130 interrupted; bugs keep their traceback."""
    exit_with(dispatch, arguments)


class Ended(BaseException):
    """A signal asked this process to end."""


def exit_with(command: Callable[[list[str]], int], arguments: Sequence[str] | None = None) -> NoReturn:
    """Call a command line's function, by default with this process's arguments, and exit as `main` does.

    An error of the system is one that the user can fix, too. If the reader of our output goes away, nothing stops.
    """
    keep_freed_memory()
    backend = os.environ.pop("MPLBACKEND", None)  # commands draw into files; an unknown name stops matplotlib
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, _ = Stream(sys.stdout), Stream(sys.stderr)
    try:
        with _signals():
            try:
                _expect_folder()
                code: Any = command(list(sys.argv[1:] if arguments is None else arguments))
            except SystemExit as ended:  # of --help, whose output may be lost like any other
                code = ended.code
        distributed = sys.modules.get("torch.distributed")  # a command that never imported torch is in no group
        if distributed and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()  # its threads must not outlive the interpreter
        out.flush()
        if out.error is not None and not isinstance(out.error, BrokenPipeError):
            raise OnespikeError(f"the standard output: {out.error.strerror}; all files are written")
    except Exception as error:
        if (text := _advice(error)) is None:
            raise
        print(f"error: {text}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130  # what a shell expects of a program that Ctrl-C ended
    except Ended as ended:
        print("ended by a signal", file=sys.stderr)
        code = 128 + ended.args[0]
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    sys.exit(code)


def _advice(error: Exception) -> str | None:
    """What the user is told of an error; None of a bug, of which the traceback tells more."""
    if isinstance(error, OnespikeError):
        return str(error)
    if lacks_memory(error):
        return "there is not enough memory for this: choose a smaller network, images or batch"
    if package := _not_imported(error):
        state = f"{package} cannot be imported ({printable(reason(error), 300)})"
        return f"{state}: correct the environment variable that it complains of, or install it again"
    if isinstance(error, OSError):
        place = f"{printable(error.filename)}: " if error.filename is not None else ""
        return f"{place}{error.strerror or error}: expected a place that can be read and written"
    return None


def _expect_folder() -> None:
    """Raise an `OnespikeError` if the current folder is gone: there Intel's libraries end the process."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise OnespikeError("the current folder is gone: cd to another") from None


def _not_imported(error: Exception) -> str:
    """The package of others whose import raised an error, such as PyTorch where $TORCH_LOGS has an unknown name."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "<module>")
    names = [frame.f_globals.get("__name__", "").partition(".")[0] for frame in frames]
    return next((name for name in reversed(names) if name and name not in _OURS), "")


@contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP, unless they are ignored, end a command as Ctrl-C does, with half-done work cleaned up."""

    def end(number: int, _: object) -> NoReturn:
        raise Ended(number)

    def again(ignored: Any) -> None:
        # Python ignores what is raised in a destructor or a callback: such a signal is sent once more, after that.
        error = ignored.exc_value
        if not isinstance(error, Ended | KeyboardInterrupt):
            hook(ignored)
            return
        number = error.args[0] if isinstance(error, Ended) else signal.SIGINT
        lost[error] = threading.Timer(0.01, os.kill, (os.getpid(), number))
        lost[error].start()

    lost: dict[BaseException, threading.Timer] = {}
    numbers = [signal.SIGTERM, signal.SIGHUP] if threading.current_thread() is threading.main_thread() else []
    handlers = {one: signal.signal(one, end) for one in numbers if signal.getsignal(one) == signal.SIG_DFL}
    hook, sys.unraisablehook = sys.unraisablehook, again
    try:
        yield
        for error in [error for error, timer in lost.items() if timer.is_alive()]:
            raise error  # the command ended before
    finally:
        for timer in lost.values():
            timer.cancel()
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


def dispatch(arguments: list[str]) -> int:
    """Run the command that a command line names; returns its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: onespike COMMAND [options]\n\ncommands:")
        for name, command in COMMANDS.items():
            print(f"  {name:<14}{command.about}")
        print("\nonespike COMMAND --help lists its options; onespike --version prints the version")
        return 0
    if arguments[0] == "--version":
        print(f"onespike {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        raise unknown("command", arguments[0], COMMANDS)
    name, command = arguments[0].replace("-", "_"), COMMANDS[arguments[0]]
    function = getattr(import_module(f"onespike.cli.{name}"), name)
    return call(function, arguments[1:], f"onespike {arguments[0]} {command.arguments}".rstrip(), command.sections)
