"""Sets of images: decoded ones in a memory map, and those that somebody's data set makes when they are asked for."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from onespike.data.items import TorchItems
from onespike.errors import OnespikeError

Batch = tuple[Tensor, Tensor]


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
        """Make a subset.

        Args:
            positions: (K,) integers, 0 <= position < N.

        Returns:
            The K images; nothing is copied.
        """
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
        """Fetch some images, (B,) positions, as `BatchAugment` takes them, and their labels, (B,) int64."""


@dataclass(frozen=True, eq=False)
class PixelSet(ImageSet):
    """Decoded images, raw.

    Attributes:
        images: (M, H, W, C) uint8; the whole map, never copied.
    """

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

    def __reduce__(self) -> tuple[Any, ...]:
        """Send a memory map to a worker process by its file's name, not by its content."""
        images = self.images
        if isinstance(images, np.memmap) and images.filename is not None:
            return _reopened, (str(images.filename), self.labels, self.indices)
        return PixelSet, (images, self.labels, self.indices)

    @override
    def gather(self, positions: np.ndarray) -> Batch:
        """Copy raw images (B, H, W, C), uint8, out of the memory map."""
        where = self.indices[positions]
        return torch.from_numpy(self.images[where]), torch.from_numpy(self.labels[where])


def _reopened(path: str, labels: np.ndarray, indices: np.ndarray) -> PixelSet:
    return PixelSet(np.load(path, mmap_mode="r"), labels, indices)


@dataclass(frozen=True, eq=False)
class TensorSet(ImageSet):
    """Images that a data set of somebody's gives as a network takes them: transformed by its owner, and floats.

    Attributes:
        images: The data set.
        first: The shape of its first image, (C, H, W), which all have.
    """

    images: TorchItems
    first: tuple[int, int, int]

    @property
    @override
    def shape(self) -> tuple[int, int, int]:
        return self.first

    @override
    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        """Image (C, H, W), by random draws that are always the same, and label."""
        return self.drawn(position)

    def drawn(self, position: int, seed: int | None = None) -> tuple[Tensor, int]:
        """Fetch one image.

        Args:
            position: 0 <= position < N.
            seed: What the owner's random transforms draw from; None is the image's number.

        Returns:
            Image (C, H, W) and label.

        Raises:
            OnespikeError: It has another type, shape or label than when the data set was opened.
        """
        index = int(self.indices[position])
        image, label = self.images.fetch(index, seed)
        tensor = as_floats(image)
        if tensor is None or tuple(tensor.shape) != self.first:
            kind, shape = getattr(image, "dtype", type(image).__name__), tuple(getattr(image, "shape", ()))
            raise OnespikeError(
                f"{self.images.origin(index)}: an image of {kind}, shape {shape}; expected floats of shape "
                f"{self.first} as in the first one; resize or convert all alike"
            )
        if label != self.labels[index]:
            raise OnespikeError(
                f"{self.images.origin(index)}: label {label}; expected {self.labels[index]} as when the data set was "
                "opened; give each item one label"
            )
        return tensor, label

    @override
    def gather(self, positions: np.ndarray) -> Batch:
        """Make images (B, C, H, W), floats."""
        images = [self[position][0] for position in positions]
        stacked = torch.stack(images) if images else torch.empty(0, *self.first)
        return stacked, torch.from_numpy(self.targets[positions])


def as_floats(image: Any) -> Tensor | None:
    """A tensor or array of floats as a tensor; None for anything else."""
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        image = torch.from_numpy(image)
    return image if isinstance(image, Tensor) and image.is_floating_point() else None
