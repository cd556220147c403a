"""The input path against the step that it feeds: crop, flip, normalise."""

import itertools
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.case import Case
from benchmarks.compare import Record, records
from benchmarks.machine import Peak
from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset
from onespike.data.loader import Share, TrainLoader
from onespike.data.sets import ImageSet

#: Images in the memory map, as many as CIFAR has: too many for the processor's caches.
IMAGES = 50_000


def compare_data(
    step: Case, peaks: Mapping[str, Peak], rounds: int, images: int = IMAGES
) -> tuple[list[Record], dict[str, Peak]]:
    """Time the input path and the training step in turns: a record of each; see `benchmarks.compare.compare`.

    Real images are not needed: the time does not depend on what they show. They lie in a memory map, as the cache does.
    """
    shape = (images, step.image_size, step.image_size, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        part = ImageSet(np.load(path, mmap_mode="r"), np.zeros(images, np.int64), np.arange(images))
        data = Dataset("made", ("a",), part, part, part, (0.5,) * 3, (0.25,) * 3)
        loader = TrainLoader(data, DataConfig(), step.batch, 0, Share(step.device))
        batches = itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())
        path_case = replace(step, task="data", dtype="fp32")
        both = [(path_case, lambda: next(batches)), (step, step.build())]
        return records(both, peaks, rounds, [None, None])
