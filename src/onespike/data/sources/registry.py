"""The data sets by name."""

import difflib
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path

from onespike.data.sources.base import Source
from onespike.errors import OnespikeError

#: Name -> module and function that opens it, given a root (None for the embedded images or the Hub). To add a data
#: set, add a line. Modules are imported when they are asked for: some bring heavy libraries along.
SOURCES = {
    "digits": "digits.open_digits",
    "cifar10": "cifar.open_cifar10",
    "cifar100": "cifar.open_cifar100",
    "tiny-imagenet": "folders.open_tiny_imagenet",
    "folder": "folders.open_folder",
    "hub": "hub.open_hub",
}


def open_source(name: str, root: Path | None) -> AbstractContextManager[Source]:
    """Open a data set for reading.

    Args:
        name: One of `SOURCES`.
        root: Where it lies; None for the embedded images or the Hub.

    Raises:
        OnespikeError: There is no such data set, or (on entering) it cannot be read.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1, cutoff=0.0)[0]
        raise OnespikeError(
            f"data.name: unknown data set {name!r}, did you mean {near!r}? Expected one of {', '.join(SOURCES)}"
        )
    module, _, function = SOURCES[name].partition(".")
    opened: AbstractContextManager[Source] = getattr(import_module(f"onespike.data.sources.{module}"), function)(root)
    return opened
