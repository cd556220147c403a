"""Sets of images: some of those that something holds or makes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

Batch = tuple[Tensor, Tensor]

#: Which images are kept and held out depends on the data alone, not on a run's seed: runs stay comparable.
_SPLIT_SEED = 0


def split(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose `count` of N images, stratified if that can be; the same ones every time.

    Args:
        labels: (N,) integers.
        count: How many to choose, 0 < count < N.

    Returns:
        Positions of the chosen images and of the others, each ascending.
    """
    from sklearn.model_selection import train_test_split

    positions = np.arange(len(labels))
    try:
        chosen, others = train_test_split(positions, train_size=count, random_state=_SPLIT_SEED, stratify=labels)
    except ValueError:  # a class with a single image, or fewer images than classes on one of the two sides
        chosen, others = train_test_split(positions, train_size=count, random_state=_SPLIT_SEED)
    return np.sort(chosen), np.sort(others)


@dataclass(frozen=True, eq=False)
class ImageSet(ABC):
    """Some of M images. Image k of the set is the one with the number indices[k], its label is labels[indices[k]].

    Attributes:
        images: What holds or makes the M images.
        labels: (M,) int64; the labels of all.
        indices: (N,) int64, ascending; which images belong to the set.
    """

    images: Any
    labels: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def targets(self) -> np.ndarray:
        """The labels of the set, (N,) int64."""
        return self.labels[self.indices]

    def select(self, positions: np.ndarray) -> Self:
        """Make a subset of the images at K positions, 0 <= position < N; nothing is copied."""
        return replace(self, indices=self.indices[positions])

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""

    @abstractmethod
    def __getitem__(self, position: int) -> tuple[Any, int]:
        """Image and label."""

    @abstractmethod
    def gather(self, positions: np.ndarray) -> Batch:
        """Fetch images at (B,) positions, raw (B, H, W, C), uint8, or floats (B, C, H, W), and labels (B,), int64."""


@dataclass(frozen=True, eq=False)
class PixelSet(ImageSet):
    """Raw images, decoded: (M, H, W, C) uint8, in a memory map as a rule, which is never copied."""

    images: np.ndarray

    @property
    @override
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.images.shape[1:]
        return channels, height, width

    @override
    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        """Image (H, W, C) uint8, a view of the map, and label."""
        index = self.indices[position]
        return self.images[index], int(self.labels[index])

    @override
    def gather(self, positions: np.ndarray) -> Batch:
        where = self.indices[positions]
        return torch.from_numpy(self.images[where]), torch.from_numpy(self.labels[where])

    def __reduce__(self) -> tuple[Any, ...]:
        """Send a memory map to a worker process by its file's name, not by its content."""
        if isinstance(self.images, np.memmap) and self.images.filename is not None:
            return _reopened, (str(self.images.filename), self.labels, self.indices)
        return PixelSet, (self.images, self.labels, self.indices)


def _reopened(path: str, labels: np.ndarray, indices: np.ndarray) -> PixelSet:
    return PixelSet(np.load(path, mmap_mode="r"), labels, indices)
