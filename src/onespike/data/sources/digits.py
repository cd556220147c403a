"""The 1,797 handwritten digits that scikit-learn ships: real images that need neither a download nor a folder."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from onespike.data.sources.base import Sample

_SIDE = 32
_TEST_SHARE = 0.2


@dataclass(frozen=True)
class Digits:
    """Digits 0 to 9, 8x8 pixels of 17 greys, enlarged to 32x32; a fixed fifth of each class is the test set."""

    name: str = "digits"
    origin: str = "embedded in scikit-learn"
    classes: tuple[str, ...] = tuple("0123456789")

    def key(self) -> str:
        """Hash of pixels and labels as scikit-learn ships them."""
        return hashlib.sha256(self._pixels.tobytes() + self._labels.tobytes()).hexdigest()

    def count(self, part: str) -> int:
        """1,437 for training, 360 for the test."""
        return len(self._split.get(part, ()))

    def samples(self, part: str) -> Iterator[Sample]:
        """Enlarge the images of a part, bicubically."""
        for index in self._split[part]:
            enlarged = Image.fromarray(self._pixels[index]).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
            yield Sample(np.asarray(enlarged)[:, :, None], int(self._labels[index]), f"digits: image {index}")

    @cached_property
    def _pixels(self) -> np.ndarray:
        """(1797, 8, 8) uint8, scikit-learn's 0..16 spread over 0..255."""
        return np.rint(load_digits().images * (255 / 16)).astype(np.uint8)

    @cached_property
    def _labels(self) -> np.ndarray:
        return load_digits().target.astype(np.int64)

    @cached_property
    def _split(self) -> dict[str, np.ndarray]:
        indices = np.arange(len(self._labels))
        train, test = train_test_split(indices, test_size=_TEST_SHARE, stratify=self._labels, random_state=0)
        return {"train": np.sort(train), "test": np.sort(test)}
