"""The data sets by name."""

import difflib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from onespike.data.sources.base import Source
from onespike.data.sources.cifar import CIFAR10, CIFAR100, open_cifar
from onespike.data.sources.digits import Digits
from onespike.data.sources.folder import open_folder
from onespike.data.sources.tiny_imagenet import open_tiny_imagenet
from onespike.errors import OnespikeError


@contextmanager
def _open_digits(root: Path | None) -> Iterator[Source]:
    if root is not None:
        raise OnespikeError(f"{root}: digits comes with scikit-learn; expected no --data.root; leave it out")
    yield Digits()


#: Name -> what opens it, given a root (None for the embedded images or the Hub). To add a data set, add a line.
SOURCES: dict[str, Callable[[Path | None], AbstractContextManager[Source]]] = {
    "digits": _open_digits,
    "cifar10": partial(open_cifar, CIFAR10),
    "cifar100": partial(open_cifar, CIFAR100),
    "tiny-imagenet": open_tiny_imagenet,
    "folder": open_folder,
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
    return SOURCES[name](root)
