"""Errors that a user can fix."""

import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

#: Longest message, and longest value in it, in characters: beyond, the middle is left out.
LINE, VALUE = 1000, 80
#: PyTorch's words for too little memory.
_NO_MEMORY = re.compile("can't allocate memory|not enough memory|out of memory")


def printable(text: object, most: int = LINE) -> str:
    """Text from outside, for a terminal: one line, control characters escaped, its middle cut out if it is long."""
    line = str(text)
    if len(line) > most:
        line = f"{line[: most // 2]} … {line[-most // 2 :]}"
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)


def shown(value: object) -> str:
    """A value that was not expected, for a message."""
    try:
        text = str(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return "a number of thousands of digits"
    return printable(text if text.strip() else repr(text), VALUE)


def listed(names: Iterable[str], comma: str = ", ", most: int = 5) -> str:
    """Some names, each once, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return comma.join(names[:most]) + more


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine, or of a GPU, is too small."""
    return isinstance(error, MemoryError) or bool(isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)))


def reason(error: BaseException, first: bool = False) -> str:
    """What an error says, in one line; the name of its type if it says nothing.

    With `first`, its first paragraph alone: PyTorch's tracers say behind it where in the graph it was.
    """
    text = str(error).partition("\n\n")[0] if first else str(error)
    return " ".join(text.split()) or type(error).__name__


@contextmanager
def damage_named(origin: str, what: str, expected: str) -> Iterator[None]:
    """Turn anything that a library raises on damaged bytes, which is nearly anything, into an `OnespikeError`."""
    try:
        yield
    except BaseException as error:
        stops = not isinstance(error, Exception) and type(error).__name__ != "PanicException"  # Rust's
        if stops or isinstance(error, OnespikeError) or lacks_memory(error):
            raise
        raise OnespikeError(f"{origin}: {what} ({reason(error)}); expected {expected}") from error


@contextmanager
def requires(extra: str, what: str = "") -> Iterator[None]:
    """Import packages inside: a missing one is an `OnespikeError` that says which `extra` brings what `what` needs."""
    try:
        yield
    except ImportError as error:
        state = f"{error.name} is missing" if isinstance(error, ModuleNotFoundError) else reason(error)
        advice = f"{state}: pip install 'onespike[{extra}]'"
        raise OnespikeError(f"{what}: {advice}" if what else advice) from error


def warn(text: str) -> None:
    """Print a warning of something that does not stop the work."""
    print(f"warning: {printable(text)}", file=sys.stderr)


class OnespikeError(Exception):
    """Something outside the program is wrong; the message says in one line what, what was expected and what to do.

    The command line prints the message alone and exits with code 2. Anything else that escapes is a bug of ours and
    keeps its traceback.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def unknown(what: str, name: object, known: Iterable[str]) -> OnespikeError:
    """The error for an unknown name of a `what`, such as "model"; it names the nearest known one, and all if few."""
    known, name = sorted(filter(None, known)), printable(name, VALUE)  # a long text would take seconds below
    section = name[: name.rfind(".") + 1]  # that it is shared does not make the rest any nearer

    def nearness(other: str) -> tuple[float, int]:  # of equally near names, the one with more letters in place
        cut = len(section) if other.startswith(section) else 0
        ratio = difflib.SequenceMatcher(None, other[cut:], name[cut:]).ratio()
        return ratio, sum(a == b for a, b in zip(other, name, strict=False))

    best = max(known, key=nearness, default="")
    hint = f"did you mean {best!r}?" if best and nearness(best)[0] >= 0.6 else ""
    listing = f"known: {', '.join(known) or 'none'}" if len(known) <= 12 else ""
    return OnespikeError(f"unknown {what} '{name}': " + ("; ".join(filter(None, [hint, listing])) or "see --help"))


def unregistered(what: str, name: object, registry: Iterable[str]) -> OnespikeError:
    """As `unknown`, for a name that a user's module may register."""
    return OnespikeError(f"{unknown(what, name, registry)}; if a module of yours registers it, add --import MODULE")
