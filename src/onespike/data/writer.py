"""From decoded images to numpy files, one part of a source at a time, in constant memory."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from onespike.data.sources.base import Sample, Source
from onespike.data.sources.image import fit
from onespike.errors import OnespikeError

_CHUNK_BYTES = 1 << 22


@dataclass
class PartWriter:
    """Writes the parts of one source; all images must be square and have the first one's shape.

    Attributes:
        source: Where the images come from.
        folder: Where the files are written.
        image_size: Side in pixels to which the images are resized; None leaves them as they are.
        advance: Called after each image.
        first: The first image, once there is one.
    """

    source: Source
    folder: Path
    image_size: int | None
    advance: Callable[[], None]
    first: Sample | None = None

    def write(self, part: str, count: int) -> None:
        """Write <part>-images.npy, (count, H, W, C) uint8, and <part>-labels.npy, (count,) int64.

        Args:
            part: A part of the source.
            count: Its number of images.

        Raises:
            OnespikeError: An image has another size or a label that is out of range, or their number is another.
            OSError: The disk is full.
        """
        labels: list[int] = []
        # Written from front to back rather than through a writable memory map: where the disk is full, the system
        # kills a process that touches the map, whereas `write` reports it.
        with (self.folder / f"{part}-images.npy").open("wb") as file:
            for sample in self.source.samples(part):
                pixels = self._checked(sample)
                if not labels:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *pixels.shape)}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(pixels).data)
                labels.append(sample.label)
                self.advance()
        if len(labels) != count:
            raise OnespikeError(
                f"{self.source.origin}: {len(labels):,} images in the {part} part; expected the {count:,} that it "
                "announces; restore or download it again"
            )
        np.save(self.folder / f"{part}-labels.npy", np.array(labels, np.int64))

    def _checked(self, sample: Sample) -> np.ndarray:
        """Resize an image; complain of its label and shape."""
        if not 0 <= sample.label < self._classes:
            raise OnespikeError(
                f"{sample.origin}: label {sample.label}; expected 0 to {self._classes - 1}; correct or restore it"
            )
        if self.image_size is not None:
            sample = sample._replace(pixels=fit(sample.pixels, self.image_size))
        height, width, _ = sample.pixels.shape
        if height != width:
            raise OnespikeError(
                f"{sample.origin}: {width}x{height} pixels; expected a square image; pass --data.image_size to cut a "
                "square out of each"
            )
        self.first = self.first or sample
        if sample.pixels.shape != self.first.pixels.shape:
            side = self.first.pixels.shape[0]
            raise OnespikeError(
                f"{sample.origin}: {width}x{height} pixels; expected {side}x{side} as in {self.first.origin}; pass "
                "--data.image_size to resize all"
            )
        return sample.pixels

    @cached_property
    def _classes(self) -> int:
        return len(self.source.classes)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, from exact sums.

    Args:
        images: (N, H, W, C) uint8; read in chunks, so it may be a memory map of any size.

    Returns:
        Means and (population) standard deviations in units of 0..1, C of each; a deviation of 0 is given as 1.
    """
    channels = images.shape[3]
    histogram = np.zeros((channels, 256), np.int64)
    step = max(1, _CHUNK_BYTES // images[0].size)
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        for channel in range(channels):
            histogram[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    values = np.arange(256)
    means, deviations = [], []
    for counts in histogram:
        # Python's integers: n * squares - total ** 2 does not fit into 64 bits.
        n, total, squares = int(counts.sum()), int(counts @ values), int(counts @ values**2)
        means.append(total / (255 * n))
        deviations.append(math.sqrt(n * squares - total**2) / (255 * n) or 1.0)
    return tuple(means), tuple(deviations)
