"""The 1,797 handwritten digits that scikit-learn ships: real images that need neither a download nor a folder."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from onespike.data.sets import split
from onespike.data.sources.base import Content, Sample, Source
from onespike.errors import OnespikeError

_SIDE = 32
_TRAINING = 1437


@contextmanager
def open_digits(root: Path | None) -> Iterator[Source]:
    """Open digits 0 to 9, 8x8 pixels of 17 greys, enlarged to 32x32; a fixed fifth of each class is the test set.

    Raises:
        OnespikeError: There is a root.
    """
    if root is not None:
        raise OnespikeError(f"{root}: digits comes with scikit-learn; expected no --data.root; leave it out")
    from sklearn.datasets import load_digits

    shipped = load_digits()
    pixels = np.rint(shipped.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8); 0..16 is spread over 0..255
    labels = shipped.target.astype(np.int64)

    def content() -> Content:
        parts = dict(zip(("train", "test"), split(labels, _TRAINING), strict=True))
        counts = {part: len(indices) for part, indices in parts.items()}
        return Content(tuple("0123456789"), counts, lambda part: map(sample, parts[part]))

    def sample(index: int) -> Sample:
        enlarged = Image.fromarray(pixels[index]).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        return Sample(np.asarray(enlarged)[:, :, None], int(labels[index]), f"digits: image {index}")

    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    yield Source("digits", "embedded in scikit-learn", lambda: digest, content)
