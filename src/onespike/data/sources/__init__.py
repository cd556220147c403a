"""Where images come from: the data sets by name, and what each offers to the cache."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onespike.errors import OnespikeError, unknown

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
#: The parts a source may have, in the order in which they are cached; only `validation` may be missing.
PARTS = ("train", "validation", "test")


class Sample(NamedTuple):
    """One decoded image.

    Attributes:
        pixels: (H, W, C) uint8; C is 1 (grey) or 3 (red, green, blue), the same throughout a source.
        label: Index of the image's class; whoever stores the sample checks its range.
        origin: Where the image lies, for errors: its path, its file and row, or archive and member.
    """

    pixels: np.ndarray
    label: int
    origin: str


class Content(NamedTuple):
    """What is in a source.

    Attributes:
        classes: The class names; a label is an index into them.
        counts: Part, one of `PARTS` -> number of its images.
        samples: Decodes the images of a part one after the other, always in the same order.
        note: What was decided about it and matters to who compares results; often empty.
    """

    classes: tuple[str, ...]
    counts: dict[str, int]
    samples: Callable[[str], Iterable[Sample]]
    note: str = ""


class Source(NamedTuple):
    """A data set as its owner ships it. `key` and `content` raise OnespikeError where files are missing or damaged.

    Attributes:
        name: The data set's name, the first part of its cache folder's name.
        origin: Where the images come from, for a person to read: a path, a Hub repository or "embedded".
        key: Hash of the content, in hexadecimal. Where the images are cached nothing else is called, so it must not
            decode anything.
        content: Reads what is needed for decoding.
    """

    name: str
    origin: str
    key: Callable[[], str]
    content: Callable[[], Content]


class HubUnreachableError(OnespikeError):
    """The Hugging Face Hub does not answer; images that were cached earlier can still be used."""


def open_source(name: str, root: Path | None) -> AbstractContextManager[Source]:
    """Open one of `SOURCES` for reading; without a root, the embedded images or the Hub's.

    Raises:
        OnespikeError: There is no such data set, or (on entering) it cannot be read.
    """
    if name not in SOURCES:
        raise unknown("data set", name, SOURCES)
    module, function = SOURCES[name].split(".")
    opened: AbstractContextManager[Source] = getattr(import_module(f"{__name__}.{module}"), function)(root)
    return opened
