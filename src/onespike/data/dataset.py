"""A data set ready for use: training, validation and test images, as views of one memory map each."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from onespike.data.cache import Part, open_cache
from onespike.data.config import DataConfig
from onespike.data.sources.registry import open_source
from onespike.errors import OnespikeError

#: Which images are kept and held out depends on the data alone, not on a run's seed: runs stay comparable.
_SPLIT_SEED = 0


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Some of the images of a memory map. Image k of the set is images[indices[k]], its label labels[indices[k]].

    Attributes:
        images: (M, H, W, C) uint8; the whole map, never copied.
        labels: (M,) int64; the labels of the whole map.
        indices: (N,) int64, ascending; which images belong to the set.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        """Image (H, W, C) uint8, a view of the map, and label."""
        index = self.indices[position]
        return self.images[index], int(self.labels[index])

    def __reduce__(self) -> tuple[Any, ...]:
        """Send a memory map to a worker process by its file's name, not by its content."""
        images = self.images
        if isinstance(images, np.memmap) and images.filename is not None:
            return _reopened, (str(images.filename), self.labels, self.indices)
        return ImageSet, (images, self.labels, self.indices)

    def select(self, positions: np.ndarray) -> "ImageSet":
        """Make a subset.

        Args:
            positions: (K,) integers, 0 <= position < N.

        Returns:
            The K images, on the same memory map.
        """
        return ImageSet(self.images, self.labels, self.indices[positions])


def _reopened(path: str, labels: np.ndarray, indices: np.ndarray) -> ImageSet:
    return ImageSet(np.load(path, mmap_mode="r"), labels, indices)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, split and described.

    Attributes:
        name: The data set's name.
        classes: Class names; a label is an index into them.
        train: Images to train on.
        validation: Images to choose the best checkpoint by; may be empty.
        test: Images to test on, once.
        mean: Channel-wise mean, 0..1, of the source's whole training part, whatever is left out or held out of it.
        std: Channel-wise standard deviation, likewise.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        """Channels of the images: 1 (grey) or 3."""
        return self.train.images.shape[3]

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return self.train.images.shape[1]


def open_dataset(config: DataConfig) -> Dataset:
    """Open a data set; the first time, its images are decoded into the cache.

    Args:
        config: Which data set, from where, how much of it.

    Returns:
        The data set; the same configuration gives the same split every time.

    Raises:
        OnespikeError: The data set is unknown, missing or damaged, or the cache cannot be written.
    """
    root = Path(config.root).expanduser() if config.root is not None else None
    with open_source(config.name, root) as source:
        entry = open_cache(source, _cache_directory(config), config.image_size)
    train = _whole(entry.parts["train"])
    if 0 < config.limit < len(train):
        train, _ = _split(train, config.limit)
    if "validation" in entry.parts:
        validation = _whole(entry.parts["validation"])
    elif config.holdout:
        if len(train) < 2:
            raise OnespikeError(
                f"data.holdout: {len(train)} training image cannot be split; expected 2 or more; pass --data.holdout 0"
            )
        held_out = min(max(1, round(config.holdout * len(train))), len(train) - 1)
        validation, train = _split(train, held_out)
    else:
        validation = train.select(np.arange(0))
    return Dataset(config.name, entry.classes, train, validation, _whole(entry.parts["test"]), entry.mean, entry.std)


def _cache_directory(config: DataConfig) -> Path:
    return Path(config.cache or os.environ.get("ONESPIKE_CACHE") or "~/.cache/onespike").expanduser()


def _whole(part: Part) -> ImageSet:
    return ImageSet(part.images, part.labels, np.arange(len(part.labels)))


def _split(images: ImageSet, count: int) -> tuple[ImageSet, ImageSet]:
    """Split off `count` images, with the same share of each class if that can be, and give these and the others."""
    positions = np.arange(len(images))
    try:
        chosen, others = train_test_split(
            positions, train_size=count, random_state=_SPLIT_SEED, stratify=images.labels[images.indices]
        )
    except ValueError:  # a class with a single image, or fewer images than classes on one of the two sides
        chosen, others = train_test_split(positions, train_size=count, random_state=_SPLIT_SEED)
    return images.select(np.sort(chosen)), images.select(np.sort(others))
