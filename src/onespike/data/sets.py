"""Sets of images, and the data sets made of them."""

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from onespike.data.config import DataConfig
from onespike.errors import OnespikeError

Batch = tuple[Tensor, Tensor]
#: Images, evenly spread, by which a set is known again.
_KNOWN_BY = 64


def number_held_out(count: int, holdout: float) -> int:
    """How many of `count` images are held out as this share of them: none for 0, else one or more, and never all."""
    return min(max(1, round(holdout * count)), count - 1) if holdout else 0


def split(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose `count` of N images, stratified by labels (N,) if possible: their positions and the others', sorted.

    The single image of a class, which cannot be divided, goes with the largest class.
    """
    from sklearn.model_selection import train_test_split

    options = {"train_size": count, "random_state": 0}  # not a run's seed, so that runs stay comparable
    _, strata, counts = np.unique(labels, return_inverse=True, return_counts=True)
    strata[counts[strata] == 1] = counts.argmax()
    fits = min(count, len(labels) - count) >= len(counts)  # else a side has fewer images than there are classes
    chosen, others = train_test_split(np.arange(len(labels)), stratify=strata if fits else None, **options)
    return np.sort(chosen), np.sort(others)


def spread(total: int, count: int = _KNOWN_BY) -> np.ndarray:
    """At most `count` of `total` positions, evenly spread."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Some of M raw images: image k of the set is the one with the number indices[k], its label labels[indices[k]]."""

    # (M, H, W, C) uint8, or of events over T frames (M, H, W, T, C), in a memory map as a rule, which is never copied
    images: Any
    labels: np.ndarray  # (M,) int64; the labels of all
    indices: np.ndarray  # (N,) int64, ascending; which images belong to the set
    # (M,) uint32; CRC-32 of each image, compared when it is fetched; None where it need not be
    sums: np.ndarray | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        """Say how many images there are; the pixels would fill the screen."""
        return f"{type(self).__name__}({len(self):,} images, {self.shape})"

    @property
    def targets(self) -> np.ndarray:
        """The labels of the set, (N,) int64."""
        return self.labels[self.indices]

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of each image."""
        height, width, *_, channels = self.images.shape[1:]
        return channels, height, width

    @property
    def frames(self) -> int:
        """Frames T of each recording of events; 1 for images."""
        return self.images.shape[3] if getattr(self.images, "ndim", 0) == 5 else 1

    def select(self, positions: np.ndarray) -> Self:
        """Make a subset of the images at K positions, 0 <= position < N; nothing is copied."""
        return replace(self, indices=self.indices[positions])

    def spread(self, count: int) -> Self:
        """Make a subset of at most `count` images, evenly spread."""
        return self.select(spread(len(self), count))

    def look(self) -> bytes:
        """Bytes of some images, evenly spread, by which the set is known again."""
        images, _ = self.gather(spread(len(self)))
        return images.contiguous().view(torch.uint8).numpy().tobytes()  # NumPy has no bfloat16

    def __getitem__(self, position: int) -> tuple[Any, int]:
        """Image (H, W, C) uint8, a view of the map, and label."""
        index = self.indices[position]
        return self._whole(self.images[index, None], index)[0], int(self.labels[index])

    def gather(self, positions: np.ndarray) -> Batch:
        """Fetch images at (B,) positions as `BatchAugment` takes them, and their labels (B,), int64."""
        where = self.indices[positions]
        return torch.from_numpy(self._whole(self.images[where], where)), torch.from_numpy(self.labels[where])

    def _whole(self, images: Any, indices: np.ndarray) -> Any:
        """Return the images; an `OnespikeError` if one of them is not what was written."""
        if self.sums is not None:
            for image, index, expected in zip(images, np.atleast_1d(indices), self.sums[indices].flat, strict=True):
                if zlib.crc32(image) != expected:
                    file = Path(self.images.filename)
                    remedy = f"remove the folder {file.parent} to decode the images again"
                    raise OnespikeError(f"image {index} in {file.name} is not what was written: {remedy}")
        return images

    def __reduce__(self) -> tuple[Any, ...]:
        """Send a memory map to a worker process by its file's name, not by its content."""
        maps = {name: one for name, one in vars(self).items() if isinstance(one, np.memmap) and one.filename}
        names = {name: str(one.filename) for name, one in maps.items()}
        return _rebuilt, (type(self), {key: one for key, one in vars(self).items() if key not in maps}, names)


def _rebuilt(kind: type[ImageSet], values: dict[str, Any], maps: dict[str, str]) -> ImageSet:
    return kind(**values, **{name: np.load(file, mmap_mode="r") for name, file in maps.items()})


@dataclass(frozen=True, eq=False, repr=False)
class RecordingSet(ImageSet):
    """Recordings of events: their frames, `images`, and the events, of which new frames are made at each epoch."""

    events: Any  # (E,) of `onespike.data.events.stream.EVENT`, of all recordings one behind the other
    bounds: np.ndarray  # (M + 1,) int64: recording k is events[bounds[k]:bounds[k + 1]]
    augment: Any = None  # makes normalised frames of events, by draws from a seed: see `changed_frames`

    def drawn(self, position: int, seed: int) -> tuple[Tensor, int]:
        """Frames of changed events, float32 (C, H, W) or (T, C, H, W), by draws from a seed, and label."""
        index = self.indices[position]
        events = np.array(self.events[self.bounds[index] : self.bounds[index + 1]])
        return torch.from_numpy(self.augment(events, seed)), int(self.labels[index])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set, split and described.

    Attributes:
        name: The data set's name.
        classes: Class names; a label is an index into them.
        train: Images to train on.
        validation: Images to choose the best checkpoint by; may be empty.
        test: Images to test on, once.
        mean: Channel-wise mean, 0..1, of the source's whole training part, whatever is left out or held out of it; 0
            for images that are not raw.
        std: Channel-wise standard deviation, likewise; 1 for images that are not raw or never differ.
        note: What was decided for the user and matters when results are compared; often empty.
        opened: Of recordings of events: the configuration by which they became frames; None for images.
        recordings: Of recordings of events: SHA-256 of some of the test part's, as they were read; else empty.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str = ""
    opened: DataConfig | None = None
    recordings: str = ""

    @classmethod
    def of(cls, parts: Mapping[str, ImageSet], **described: Any) -> Self:
        """Put parts together, of which `validation` may be missing."""
        validation = parts.get("validation", parts["train"].select(np.arange(0)))
        return cls(train=parts["train"], validation=validation, test=parts["test"], **described)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.train.shape[0]

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return self.train.shape[1]

    @property
    def frames(self) -> int:
        """Frames T of each recording of events; 1 for images."""
        return self.train.frames

    @property
    def of_events(self) -> bool:
        """Whether the images are frames of recordings of events."""
        return self.opened is not None

    def blank(self, count: int, side: int | None = None, **options: Any) -> Tensor:
        """Zeros as a batch of `count` images: (B, C, H, W), or of several frames (T, B, C, H, W)."""
        *frames, channels, height, width = self.image
        return torch.zeros(*frames, count, channels, side or height, side or width, **options)

    @property
    def image(self) -> tuple[int, ...]:
        """The shape of one image, (C, H, W), or of the frames of a recording, (T, C, H, W)."""
        return (self.frames, *self.train.shape) if self.frames > 1 else self.train.shape

    def test_set(self, of_events: bool = False) -> str:
        """SHA-256 that tells this test set from others: of the class names, of all labels, and of some of the images.

        With `of_events`, recordings are told apart by their events, however these become frames.
        """
        digest = hashlib.sha256(json.dumps(self.classes).encode() + self.test.targets.tobytes())
        if of_events:
            digest.update(self.recordings.encode() + self.test.indices.tobytes())
        else:
            digest.update(self.test.look())
        return digest.hexdigest()

    def divided(self, holdout: float, limit: int) -> "Dataset":
        """Leave out training images above the limit, then hold some out unless there is a validation part."""
        train, validation = self.train, self.validation
        if 0 < limit < len(train):
            train = train.select(split(train.targets, limit)[0])
        if not len(validation) and holdout:
            if len(train) < 2:
                raise OnespikeError(f"data.holdout: {len(train)} training image cannot be split; pass --data.holdout 0")
            chosen, others = split(train.targets, number_held_out(len(train), holdout))
            train, validation = train.select(others), train.select(chosen)
        return replace(self, train=train, validation=validation)
