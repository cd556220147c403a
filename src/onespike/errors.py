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
    """Build the error for a name that does not exist; it names the nearest one that does, and all of them if few.

    Args:
        what: What kind of thing was named, such as "model".
        name: The name that came.
        known: All names that exist.

    Returns:
        The error, to be raised.
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else ""
    listing = f"known: {', '.join(known)}" if len(known) <= 12 else ""
    return OnespikeError(f"unknown {what} {str(name)!r}: " + ("; ".join(filter(None, [hint, listing])) or "see --help"))


def check_choices(config: Any) -> None:
    """Check that every field of a dataclass that is declared as a `Literal` holds one of its values.

    The command line's parser has checked it already; a call from Python has not.

    Args:
        config: An instance of a dataclass.

    Raises:
        OnespikeError: A field holds something else.
    """
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            raise unknown(name, getattr(config, name), get_args(kind))
