"""Images a second that the data path alone delivers: gather, crop, flip, normalise, at 32x32.

    python benchmarks/data_path.py [--batch-size 128] [--threads 2] [--rounds 7]

Real images are not needed: the time does not depend on what they show. They lie in a memory map, as the cache does.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset, ImageSet
from onespike.data.loader import TrainLoader
from onespike.training.run import environment


def main() -> None:
    """Measure, and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8))
        images = ImageSet(np.load(path, mmap_mode="r"), np.zeros(50_000, np.int64), np.arange(50_000))
        data = Dataset("made", ("a",), images, images, images, (0.5,) * 3, (0.25,) * 3)
        loader = TrainLoader(data, DataConfig(), options.batch_size, seed=0)
        rates = []
        for epoch in range(options.rounds + 1):
            started = time.perf_counter()
            count = sum(len(labels) for _, labels in loader.epoch(epoch))
            rates.append(count / (time.perf_counter() - started))
    measured = rates[1:]  # the first round warms up
    machine = {key: environment()[key] for key in ("processor", "cores", "commit")}
    result = {
        "images_per_second": round(statistics.median(measured)),
        "slowest": round(min(measured)),
        "fastest": round(max(measured)),
        "batch": options.batch_size,
        "threads": options.threads,
    }
    print(json.dumps(result | machine))


if __name__ == "__main__":
    main()
