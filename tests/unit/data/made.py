"""A source of random images. It imports little, for the sake of a process that is started to be killed."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from onespike.data.events.stream import EVENT
from onespike.data.sources import Content, Part


@dataclass
class Made:
    """A source of random images, which runs `before` ahead of each."""

    hash: str = "a"
    before: Callable[[int], object] = lambda _: None
    name: str = "made"
    origin: str = "memory"
    classes: tuple = ("x", "y")
    framing: object = None
    recorded: bool = False  # whether there are recordings of events, too
    decoded: list = field(default_factory=list)
    read: list = field(default_factory=list)  # whose events

    def key(self):
        return self.hash

    def content(self):
        return Content(self.classes, {name: self.part(seed) for seed, name in enumerate(("train", "test"))})

    def part(self, seed):
        def pixels(index):
            self.before(index)
            self.decoded.append(index)
            return np.random.default_rng((seed, index)).integers(0, 256, (4, 4, 3), np.uint8)

        def events(index):
            self.read.append(index)
            return np.array([(index, one, seed, one % 2) for one in range(3)], EVENT)

        images = np.arange(6) % 2, [f"image {i}" for i in range(6)], pixels
        return Part(*images, events if self.recorded else None)
