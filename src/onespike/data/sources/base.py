"""What every source of images offers to the cache."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from onespike.errors import OnespikeError

#: The parts a source may have, in the order in which they are cached. `validation` is the only one that may be empty.
PARTS = ("train", "validation", "test")


class Sample(NamedTuple):
    """One decoded image.

    Attributes:
        pixels: (H, W, C) uint8; C is 1 (grey) or 3 (red, green, blue) and the same throughout a source.
        label: Index of the image's class; whoever stores the sample checks that it is in range.
        origin: Where the image lies, for an error's first words: its path, or its file and row, or archive and member.
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


@dataclass(frozen=True)
class Source:
    """A data set as its owner ships it; to add one, write a function that opens it and enter it in the registry.

    The functions raise OnespikeError where the files are missing, damaged or of another form than expected.

    Attributes:
        name: The data set's name, the first part of its cache folder's name.
        origin: Where the images come from, for a person to read: a path, a Hub repository or "embedded".
        key: Hash of the content, in hexadecimal: another content has another key. It is all that is called when the
            decoded images are cached already, so it must not decode anything.
        content: Reads what is needed for decoding.
    """

    name: str
    origin: str
    key: Callable[[], str]
    content: Callable[[], Content]


class HubUnreachableError(OnespikeError):
    """The Hugging Face Hub does not answer; images that were cached earlier can still be used."""
