"""Folders of images without any meaning."""

from pathlib import Path

import numpy as np
from PIL import Image

#: Classes of the image folder, with the number of test images of each; seven, so that top-5 is less than everything.
TEST_IMAGES = {"ant": 3, "bee": 5, "cat": 1, "dog": 4, "emu": 2, "fly": 6, "gnu": 4}


def write_images(folder: Path, counts: dict[str, int], seed: int, darken: int = 1, channels: int = 1) -> None:
    generator = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (16, 16, channels), dtype=np.uint8) // darken
            Image.fromarray(pixels.squeeze()).save(folder / name / f"{number}.png")
