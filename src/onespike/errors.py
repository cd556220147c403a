"""Errors that are the user's to mend."""

import difflib
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints


class OnespikeError(Exception):
    """Something outside the program is wrong; the message says in one line what, what was expected and what to do.

    The command line prints the message alone and exits with code 2. Anything else that escapes is a bug of ours and
    keeps its traceback.
    """


def unknown(what: str, name: object, known: Iterable[str]) -> OnespikeError:
    """The error for the name of a `what`, such as "model", that is not known; it names the nearest, all if few."""
    known = sorted(known)

    def nearness(other: str) -> tuple[float, int]:  # of several that are as near, the one with more letters in place
        ratio = difflib.SequenceMatcher(None, other, str(name)).ratio()
        return ratio, sum(a == b for a, b in zip(other, str(name), strict=False))

    best = max(known, key=nearness, default="")
    hint = f"did you mean {best!r}?" if best and nearness(best)[0] >= 0.6 else ""
    listing = f"known: {', '.join(known)}" if len(known) <= 12 else ""
    return OnespikeError(f"unknown {what} {str(name)!r}: " + ("; ".join(filter(None, [hint, listing])) or "see --help"))


def check_choices(config: Any) -> None:
    """Expect in each field of a dataclass that is a `Literal` one of its values: calls from Python come unchecked."""
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            raise unknown(name, getattr(config, name), get_args(kind))
