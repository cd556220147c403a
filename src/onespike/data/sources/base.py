"""What every source of images offers to the cache."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from onespike.errors import OnespikeError

#: The parts a source may have, in the order in which they are cached. `validation` is the only one that may be empty.
PARTS = ("train", "validation", "test")


class Sample(NamedTuple):
    """One decoded image.

    Attributes:
        pixels: (H, W, C) uint8; C is 1 (grey) or 3 (red, green, blue) and the same throughout a source.
        label: Index of the image's class; the cache checks that it is in range.
        origin: Where the image lies, for an error's first words: its path, or its file and row, or archive and member.
    """

    pixels: np.ndarray
    label: int
    origin: str


class Source(Protocol):
    """A data set as its owner ships it; to add one, write a class like this and enter its opener in the registry.

    Only `key` is called when the decoded images are cached already, so it must not decode anything. All members raise
    OnespikeError where the files are missing, damaged or of another form than expected.
    """

    @property
    def name(self) -> str:
        """The data set's name, the first part of its cache folder's name."""

    @property
    def origin(self) -> str:
        """Where the images come from, for a person to read: a path, a Hub repository or "embedded"."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; a label is an index into them."""

    def key(self) -> str:
        """Hash of the content, in hexadecimal: another content has another key."""

    def count(self, part: str) -> int:
        """Number of images in a part, one of `PARTS`; 0 if the source has no such part."""

    def samples(self, part: str) -> Iterator[Sample]:
        """Decode the images of a part one after the other, always in the same order, `count(part)` of them."""


class HubUnreachableError(OnespikeError):
    """The Hugging Face Hub does not answer; images that were cached earlier can still be used."""
