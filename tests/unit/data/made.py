"""A source of random images. It imports little, for the sake of a process that is started to be killed."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from onespike.data.sources import Content, Sample


@dataclass
class Made:
    """A source of random images, which runs `before` ahead of each."""

    hash: str = "a"
    before: Callable[[int], object] = lambda _: None
    announced: int = 6
    name: str = "made"
    origin: str = "memory"
    classes: tuple = ("x", "y")
    decoded: list = field(default_factory=list)

    def key(self):
        return self.hash

    def content(self):
        return Content(self.classes, {"train": self.announced, "test": self.announced}, self.samples)

    def samples(self, part):
        rng = np.random.default_rng(len(part))
        for index in range(6):
            self.before(index)
            self.decoded.append(index)
            yield Sample(rng.integers(0, 256, (4, 4, 3), np.uint8), index % 2, f"image {index}")
