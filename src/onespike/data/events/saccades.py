"""digits-saccades: events that a camera would see of scikit-learn's 1,797 real digits, by a documented simulator.

A digit, 8x8 pixels of 17 greys, is enlarged to 24x24 and lies in the middle of a black 32x32 field of view. As for
N-MNIST (Orchard et al. 2015), the camera makes three saccades of 100 ms along the sides of a triangle, 4 pixels wide.
Every 4 ms each pixel compares the logarithm of its brightness, ln(0.1 + I) with I in 0..1 and linear between pixels,
with that at its last event. For each threshold in between it gives an event, with the polarity of the change, at the
time when the brightness, linear between the steps, crossed that threshold. Thresholds are drawn once for each pixel of
each sample, N(0.4, 0.04). Noise adds an event for each pixel every 3 seconds, on average. All draws of sample i are
from seed i.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from onespike.data.config import DataConfig
from onespike.data.events.layouts import source
from onespike.data.events.stream import EVENT, Sensor
from onespike.data.sets import split
from onespike.data.sources import Content, Part, Source
from onespike.errors import OnespikeError

SENSOR = Sensor(32, 32)
#: Increase it whenever the same digits would give other events.
_VERSION = 1
_DIGIT, _REACH, _SACCADE, _STEP = 24, 4.0, 100_000, 4_000  # pixels, pixels, microseconds, microseconds
_THRESHOLD, _MISMATCH, _DARK, _NOISE = 0.4, 0.04, 0.1, 1 / 3  # log brightness, its deviation, brightness, events/s
#: Samples that are simulated together.
_BLOCK = 100
#: Where the camera looks at the beginning, and after each saccade: right and down, in `_REACH`.
_CORNERS = np.array([(-0.5, -0.5), (0.0, 0.5), (0.5, -0.5), (-0.5, -0.5)])


def open_saccades(config: DataConfig, root: Path | None) -> Iterator[Source]:
    """Open the digits' events; the test set is that of `digits`, a fixed fifth of each class."""
    if root is not None:
        raise OnespikeError(f"{root}: digits-saccades is made of scikit-learn's digits; leave --data.root out")
    from sklearn.datasets import load_digits

    shipped = load_digits()
    labels = shipped.target.astype(np.int64)

    @lru_cache(1)
    def block(number: int) -> list[np.ndarray]:
        seeds = range(_BLOCK * number, min(_BLOCK * (number + 1), len(labels)))
        return simulate(shipped.images[seeds.start : seeds.stop], seeds)

    def part(indices: np.ndarray) -> Part:
        origins = [f"digits-saccades: sample {i}" for i in indices]
        return Part(labels[indices], origins, lambda i: block(indices[i] // _BLOCK)[indices[i] % _BLOCK])

    train, test = map(part, split(labels, 1437))
    digits = hashlib.sha256(shipped.images.tobytes() + labels.tobytes()).hexdigest()
    content = Content(tuple("0123456789"), {"train": train, "test": test})
    yield source(config, SENSOR, "made of scikit-learn's digits", lambda: f"{digits} {_VERSION}", lambda: content)


def simulate(digits: np.ndarray, seeds: Iterable[int]) -> list[np.ndarray]:
    """Make the events of digits (N, 8, 8), 0..16; the same for the same seed, whatever other digits there are."""
    generators = [np.random.default_rng(seed) for seed in seeds]
    height, width, duration = SENSOR.height, SENSOR.width, 3 * _SACCADE
    scenes = np.stack([_scene(digit) for digit in digits])
    thresholds = np.stack([one.normal(_THRESHOLD, _MISMATCH, (height, width)) for one in generators])
    np.maximum(thresholds, _THRESHOLD / 4, out=thresholds)
    level = _seen(scenes, 0.0)
    reference, found = level.copy(), []
    for t in range(_STEP, duration + 1, _STEP):
        before, level = level, _seen(scenes, t / _SACCADE)
        crossed = np.trunc((level - reference) / thresholds)
        where = np.nonzero(crossed)
        number, sign = np.abs(crossed[where]).astype(np.int64), np.sign(crossed[where])
        which = np.repeat(np.arange(len(number)), number)  # each threshold that was crossed is an event
        nth = np.arange(len(which)) - np.repeat(np.cumsum(number) - number, number) + 1
        at = reference[where][which] + sign[which] * nth * thresholds[where][which]
        start, end = before[where][which], level[where][which]
        moved = end - start  # 0 where rounding alone crosses it
        share = np.clip(np.divide(at - start, moved, out=np.zeros_like(at), where=moved != 0), 0, 1)
        sample, y, x = (axis[which] for axis in where)
        found.append((sample, t - _STEP + share * _STEP, x, y, sign[which] > 0))
        reference += crossed * thresholds
    for place, one in enumerate(generators):
        noise = one.poisson(_NOISE * duration / 1e6 * width * height)
        x, y, p = one.integers(0, (width, height, 2), (noise, 3)).T
        found.append((np.full(noise, place), one.uniform(0, duration, noise), x, y, p))
    sample, *columns = (np.concatenate(column) for column in zip(*found, strict=True))
    events = np.rec.fromarrays(columns, EVENT).view(EVENT, np.ndarray)
    order = np.lexsort((events["t"], sample))
    return np.split(events[order], np.searchsorted(sample[order], range(1, len(digits))))


def _scene(digit: np.ndarray) -> np.ndarray:
    """The digit, enlarged, in a black field with a margin for the camera's movement; brightness 0..1."""
    grey = Image.fromarray(np.rint(digit * (255 / 16)).astype(np.uint8))
    enlarged = np.asarray(grey.resize((_DIGIT, _DIGIT), Image.Resampling.BICUBIC)) / 255
    return np.pad(enlarged, (SENSOR.width - _DIGIT) // 2 + int(_REACH))


def _seen(scenes: np.ndarray, saccade: float) -> np.ndarray:
    """Logarithm of the brightness that the pixels see after `saccade` saccades, linear between the scenes' pixels."""
    number = min(int(saccade), len(_CORNERS) - 2)
    share = saccade - number
    right, down = int(_REACH) + _REACH * ((1 - share) * _CORNERS[number] + share * _CORNERS[number + 1])
    row, column = int(down), int(right)
    down, right = down - row, right - column
    patches = scenes[:, row : row + SENSOR.height + 1, column : column + SENSOR.width + 1]
    rows = (1 - down) * patches[:, :-1] + down * patches[:, 1:]
    return np.log(_DARK + (1 - right) * rows[:, :, :-1] + right * rows[:, :, 1:])
