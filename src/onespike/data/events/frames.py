"""From events to frames of bytes: T frames share the events by time or by count.

With t from 0 at the first event to 1 at the last, an event belongs to frame floor(t T), the last to frame T - 1; by
count, event n of N to frame floor(n T / N). So every event is in exactly one frame. (tonic's slices leave out the last
events if they do not fill a slice.)

    histogram     events of each pixel and channel, at most 255
    binary        255 where there was one
    voxel         each event shared by the two frames nearest in time (Zhu et al. 2019), in sixteenths, at most 255
    timesurface   255 exp(-age / tau) of the pixel's last event at the end of the frame (Lagorce et al. 2017); tau is
                  the duration of a frame
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, Self

import numpy as np

from onespike.data.config import DataConfig
from onespike.data.events.stream import Sensor
from onespike.errors import OnespikeError, requires

#: Increase it whenever the same files would give other frames: those in the cache are then made anew.
_FRAMES = 5
#: A voxel is counted in these parts of an event.
_PARTS = 16


@dataclass(frozen=True)
class Framing:
    """How recordings of a sensor become frames (H, W, T, C), or (H, W, C) if there is one; see `DataConfig`."""

    sensor: Sensor
    frames: int = 1
    frames_by: Literal["time", "count"] = "time"
    representation: Literal["histogram", "voxel", "timesurface", "binary"] = "histogram"
    denoise: float = 0.0
    image_size: int | None = None

    @classmethod
    def of(cls, config: DataConfig, sensor: Sensor) -> Self:
        """The framing that a configuration asks for; an `OnespikeError` if it does not suit the sensor."""
        chosen = {one.name: getattr(config, one.name) for one in fields(cls) if one.name != "sensor"}
        side, size = min(sensor.width, sensor.height), config.image_size
        if size is not None and size > side:
            expected = f"expected at most {side}, for a sensor of {sensor}"
            raise OnespikeError(f"data.image_size: {expected}, got {size}; lower --data.image_size")
        if size is None and sensor.width != sensor.height:
            raise OnespikeError(f"data.image_size: a sensor of {sensor} is no square; pass a side to cut and shrink to")
        for key, lacks in (("denoise", "neighbours to look at"), ("spatial_jitter", "place to move to")):
            if getattr(config, key) and sensor.width * sensor.height == 1:
                raise OnespikeError(f"data.{key}: a sensor of {sensor} has no {lacks}; leave it at 0")
        return cls(sensor, **chosen)

    @property
    def side(self) -> int:
        """Side of the square frames, in pixels."""
        return self.image_size or self.sensor.width

    def key(self) -> str:
        """A hash of all that the frames depend on, besides the recordings."""
        return hashlib.sha256(f"{_FRAMES} {self!r}".encode()).hexdigest()

    def fitted(self, events: np.ndarray) -> np.ndarray:
        """Denoise, keep the centre square and shrink it; pixels that are merged pool their events."""
        if self.denoise:
            events = _denoised(events, self.denoise)
        (width, height, _), size = self.sensor, self.side
        side = min(width, height)
        if side != size or width != height:
            x = events["x"].astype(np.int64) - (width - side) // 2
            y = events["y"].astype(np.int64) - (height - side) // 2
            events = _moved(events, x * size // side, y * size // side, size)
        return events

    def make(self, events: np.ndarray) -> np.ndarray:
        """Make the frames of fitted events, uint8; without events they are empty."""
        side, channels = self.side, self.sensor.channels
        place = (events["y"].astype(np.int64) * side + events["x"]) * channels + events["p"]
        size = side * side * channels
        counts = self._counts(events["t"], place, size) if len(events) else np.zeros(self.frames * size)
        made = np.minimum(counts, 255).astype(np.uint8).reshape(self.frames, side, side, channels).transpose(1, 2, 0, 3)
        return made[:, :, 0] if self.frames == 1 else made

    def _counts(self, times: np.ndarray, place: np.ndarray, size: int) -> np.ndarray:
        """What T frames hold at `size` places each, given the time and the place of each event."""
        frames, by_count = self.frames, self.frames_by == "count"
        elapsed = np.arange(len(times)) if by_count else times - times[0]
        last = int(elapsed[-1]) or 1
        when, span = elapsed / last, len(times) if by_count else last  # when: 0..1
        if self.representation == "voxel":
            position = when * (frames - 1)
            first = position.astype(np.int64)
            share = position - first
            counts: np.ndarray = np.bincount(first * size + place, 1 - share, frames * size)
            later = np.minimum(first + 1, frames - 1)
            counts += np.bincount(later * size + place, share, frames * size)
            return np.rint(_PARTS * counts)
        borders = [-(-number * span // frames) for number in range(1, frames)]  # whole numbers: nothing is rounded
        frame = np.searchsorted(borders, elapsed, side="right")
        if self.representation == "timesurface":
            return _surfaces(place, frame, elapsed / span, frames, size)  # by count, event n at n / N
        counts = np.bincount(frame * size + place, minlength=frames * size)
        return 255 * (counts > 0) if self.representation == "binary" else counts


def _surfaces(place: np.ndarray, frame: np.ndarray, when: np.ndarray, frames: int, size: int) -> np.ndarray:
    last, made = np.full(size, -np.inf), np.empty((frames, size))
    for number in range(frames):
        here = frame == number
        np.maximum.at(last, place[here], when[here])
        age = (number + 1) / frames - last
        made[number] = np.rint(255 * np.exp(-age * frames))
    return made


def _moved(events: np.ndarray, x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
    """Events at other places of a square map; those that leave it are lost."""
    inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
    events = events[inside]
    events["x"], events["y"] = x[inside], y[inside]
    return events


def _denoised(events: np.ndarray, microseconds: float) -> np.ndarray:
    with requires("events", "events"):
        from tonic.functional import denoise_numpy

    # The filter takes every pixel for one that had an event at time 0: let the recording begin when that is over.
    shift = math.ceil(microseconds) - events["t"][0]
    moved = events.copy()
    moved["t"] += shift
    kept = denoise_numpy(moved, filter_time=microseconds)
    kept["t"] -= shift
    return kept


def changed_frames(
    framing: Framing, config: DataConfig, mean: Sequence[float], std: Sequence[float], events: np.ndarray, seed: int
) -> np.ndarray:
    """Make normalised frames, float32 (C, H, W) or (T, C, H, W), of fitted events, changed by draws from a seed."""
    frames = framing.make(jittered(events, framing.side, config, np.random.default_rng(seed))) / np.float32(255)
    floats = (frames - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(np.moveaxis(floats, (0, 1), (-2, -1)))


def jittered(events: np.ndarray, side: int, config: DataConfig, draws: np.random.Generator) -> np.ndarray:
    """Drop events, move and mirror all together, then jitter each in space (some leave the map and are lost) and time.

    The result is sorted by time again. All events are moved by up to `crop_padding` pixels. With `alternate_flip`, the
    loader mirrors.
    """
    if config.drop_events:
        events = events[draws.random(len(events)) >= config.drop_events]
    mirrored = not config.alternate_flip and draws.random() < config.flip
    if config.spatial_jitter or config.crop_padding or mirrored:
        shift = np.rint(draws.normal(0, config.spatial_jitter, (2, len(events)))).astype(np.int64)
        shift += draws.integers(-config.crop_padding, config.crop_padding, (2, 1), endpoint=True)
        x, y = events["x"] + shift[0], events["y"] + shift[1]
        events = _moved(events, side - 1 - x if mirrored else x, y, side)
    if config.temporal_jitter:
        events = events.copy()
        events["t"] += np.rint(draws.normal(0, config.temporal_jitter, len(events))).astype(np.int64)
        events = events[np.argsort(events["t"], kind="stable")]
    return events
