"""The 1,797 handwritten digits that scikit-learn ships: real images that need neither a download nor a folder."""

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from onespike.data.sets import split
from onespike.data.sources import Content, Part, Source
from onespike.errors import OnespikeError


def open_digits(root: Path | None) -> Iterator[Source]:
    """Open digits 0 to 9, 8x8 pixels of 17 greys, enlarged to 32x32; a fixed fifth of each class is the test set."""
    if root is not None:
        raise OnespikeError(f"{root}: digits comes with scikit-learn; expected no --data.root; leave it out")
    pixels, labels = _shipped()

    def part(indices: np.ndarray) -> Part:
        return Part(labels[indices], [f"digits: image {i}" for i in indices], lambda i: enlarged(indices[i]))

    def enlarged(index: int) -> np.ndarray:
        return np.asarray(Image.fromarray(pixels[index]).resize((32, 32), Image.Resampling.BICUBIC))[:, :, None]

    content = Content(tuple("0123456789"), dict(zip(("train", "test"), map(part, split(labels, 1437)), strict=True)))
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    yield Source("digits", "embedded in scikit-learn", lambda: digest, lambda: content)


@functools.cache
def _shipped() -> tuple[np.ndarray, np.ndarray]:
    """Pixels (1797, 8, 8), 17 greys spread over 0..255, and labels; they come as text, which is slow to read."""
    from sklearn.datasets import load_digits

    shipped = load_digits()
    return np.rint(shipped.images * (255 / 16)).astype(np.uint8), shipped.target.astype(np.int64)
