"""One recording: its events, and the checks that a recording must pass."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from onespike.errors import OnespikeError

#: An event: time, in microseconds; place; and channel, for a camera the polarity, 0 (darker) or 1 (brighter).
EVENT = np.dtype([("t", np.int64), ("x", np.int16), ("y", np.int16), ("p", np.int16)])


class Sensor(NamedTuple):
    """A sensor: a camera has 2 channels, darker and brighter; a cochlea has one pixel, and a channel for each nerve."""

    width: int
    height: int
    channels: int = 2

    def __str__(self) -> str:
        return f"{self.width}x{self.height} pixels" if self.width * self.height > 1 else f"{self.channels} channels"


def header_of(data: bytes, mark: bytes, last: bytes = b"") -> tuple[bytes, bytes]:
    """Split a file after its first lines, which begin with a mark, or after the line `last` among them."""
    at = 0
    while data.startswith(mark, at):
        start, at = at, (data.find(b"\n", at) + 1) or len(data)
        if data[start:at] == last:
            break
    return data[:at], data[at:]


def truncated(origin: str, found: str, expected: str) -> OnespikeError:
    """The error for a file that ends too early."""
    return OnespikeError(f"{origin}: truncated, {found}; expected {expected}; download it again")


def recording(columns: Iterable[np.ndarray], sensor: Sensor, origin: str) -> np.ndarray:
    """Put a recording together, (N,) of `EVENT`; one that is not whole, or of another sensor, is an `OnespikeError`.

    The columns are t, x, y and p, (N,) whole numbers each.
    """
    t, x, y, p = columns
    if not t.size:
        raise OnespikeError(f"{origin}: no events; expected a recording of {sensor}; record it again, or remove it")
    for name, values in zip("txyp", (t, x, y, p), strict=True):
        if values.dtype.kind not in "uib" or values.shape != (t.size,):
            found = f"{values.dtype} of shape {values.shape}"
            raise OnespikeError(f"{origin}: {name} is {found}; expected {t.size:,} whole numbers; convert it")
    if sensor.channels == 2 and p.min() == -1:  # the other way to write two polarities
        if len(other := np.setdiff1d(p, (-1, 1))):
            raise OnespikeError(f"{origin}: polarities of -1 and {other[0]}; expected two; convert them to 0 and 1")
        p = p > 0
    for name, values, count in (("x", x, sensor.width), ("y", y, sensor.height), ("p", p, sensor.channels)):
        if len(wrong := np.flatnonzero((values < 0) | (values >= count))):
            found = f"event {wrong[0]:,} has {name} = {values[wrong[0]]}"
            binary = name == "p" and count == 2
            expected = "polarities of 0 and 1" if binary else f"0 to {count - 1}, for a sensor of {sensor}"
            raise OnespikeError(f"{origin}: {found}; expected {expected}; is it a file of another sensor?")
    if (last := max(int(t.max()), -int(t.min()))) >= 1 << 62:  # the difference of two would not be a time
        raise OnespikeError(f"{origin}: a time of {last:,} microseconds; expected less; is it a file of another kind?")
    t = t.astype(np.int64)
    if len(backwards := np.flatnonzero(t[1:] < t[:-1])):
        at = int(backwards[0])
        found = f"time runs backwards at event {at + 1:,}, from {t[at]:,} to {t[at + 1]:,} microseconds"
        raise OnespikeError(f"{origin}: {found}; expected events in the order of time; sort them")
    return np.rec.fromarrays((t, x, y, p), EVENT).view(EVENT, np.ndarray)
