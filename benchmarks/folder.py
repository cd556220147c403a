"""`python -m benchmarks.folder`: opening a folder of many images and classes, first and later; time and memory."""

import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe, expect_counts
from benchmarks.memory import peak_bytes
from onespike.cli.command import call
from onespike.cli.main import exit_with
from onespike.clock import watch_machine
from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
from onespike.durable import expect_writable, save_json
from onespike.errors import OnespikeError

#: Of ten images of a class this many are test images.
TEST = 1


def make_folder(root: Path, images: int, classes: int, side: int) -> None:
    """Write square JPEGs, all different, in the layout of `--data.name folder`."""
    draws = np.random.default_rng(0)
    for number in range(images):
        part = "test" if number // classes % 10 < TEST else "train"
        path = root / part / f"class-{number % classes:04}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draws.integers(0, 256, (8, 8, 3), np.uint8))
        coarse.resize((side, side)).save(path, quality=90)


def opened(root: Path, cache: Path) -> dict[str, Any]:
    """Open the folder, and say how long that took, and how much memory over that of opening another data set."""
    open_dataset(DataConfig("digits", cache=str(cache.with_name("digits"))))  # imports what it needs
    before = peak_bytes()
    began = time.perf_counter()
    with watch_machine() as machine:
        data = open_dataset(DataConfig("folder", str(root), cache=str(cache)))
    seconds = time.perf_counter() - began
    found = {"images": sum(map(len, (data.train, data.validation, data.test))), "classes": data.num_classes}
    measured = {"seconds": seconds, "cpu_seconds": machine.cpu * seconds, "peak_mb": (peak_bytes() - before) / 1e6}
    return found | measured | {"busy": machine.busy}


def folder(images: int = 20_000, classes: int = 1000, side: int = 64, json: str = "-") -> int:
    """Make a folder of images, open it twice, each time in a fresh process, and measure: decoding, then its cache.

    Args:
        images: Images, a tenth of them test images.
        classes: Classes.
        side: Side of the images, in pixels.
        json: A file for the numbers; - prints them.
    """
    expect_counts(side=side, classes=classes)
    expect_writable(json)
    if classes > images // 20:
        raise OnespikeError(f"classes: expected at most a twentieth of the images, {images // 20}, got {classes}")
    with tempfile.TemporaryDirectory() as place:
        root, cache = Path(place) / "images", Path(place) / "cache"
        make_folder(root, images, classes, side)
        found = {}
        for which in ("first", "later"):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found[which] = pool.submit(opened, root, cache).result()
        found["cache_mb"] = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e6
    save_json({"side": side, **found, "machine": describe()}, json)
    return 0


main = partial(call, folder, usage="python -m benchmarks.folder")


if __name__ == "__main__":
    exit_with(main)
