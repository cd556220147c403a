"""Read recordings of Prophesee cameras: `.raw` in EVT 2 or EVT 3, and HDF5.

The formats are those of the Metavision SDK's documentation. Another reader of `.raw`, the package expelliarmus, never
returns from a file that is cut off; tests compare with it on whole ones.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from onespike.data.events.stream import EVENT, Sensor, header_of, recording, truncated
from onespike.data.sources.files import Files
from onespike.errors import OnespikeError, damage_named, requires

_VERSION = re.compile(rb"^% (?:evt |format EVT)([\d.]+)", re.MULTILINE)
#: Largest HDF5, and largest array that comes out of a file, in bytes.
LARGEST = 1 << 30
#: The kinds of words that there are in EVT 2 and in EVT 3.
_EVT2, _EVT3 = (0x0, 0x1, 0x8, 0xA, 0xE, 0xF), (0x0, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0xA, 0xE, 0xF)
#: Pixels of a word of EVT 3, by its kind: there are vectors of 12 and of 8.
_WIDTH = np.zeros(16, np.int8)
_WIDTH[[0x4, 0x5]] = 12, 8
#: Where the arrays of an HDF5 are: DSEC's, Metavision's, or at its root.
_GROUPS = ("events", "CD/events", "/")


def read_raw(files: Files, name: str, sensor: Sensor) -> np.ndarray:
    """Read a `.raw`: lines that begin with %, then words of 32 (EVT 2) or 16 bits (EVT 3)."""
    (header, body), origin = header_of(files.read(name), b"%", b"% end\n"), files.where(name)
    version = _VERSION.search(header)
    if not version or version[1] not in (b"2", b"2.0", b"3", b"3.0"):
        found = f"EVT {version[1].decode()}" if version else "no version in its header"
        raise OnespikeError(f"{origin}: {found}; expected EVT 2.0 or 3.0, of a Prophesee camera; convert it")
    size, known, decode = (4, _EVT2, _evt2) if version[1][:1] == b"2" else (2, _EVT3, _evt3)
    if len(body) % size:
        raise truncated(origin, f"{len(body):,} bytes of events", f"words of {size} bytes")
    words, bits = np.frombuffer(body, f"<u{size}"), 8 * size - 4
    kinds, values = (words >> bits).astype(np.int8), (words & (1 << bits) - 1).astype(np.int32)
    if len(wrong := np.flatnonzero(~np.isin(kinds, known))):
        found = f"word {wrong[0]:,} is of kind {kinds[wrong[0]]:#x}"
        raise OnespikeError(f"{origin}: {found}; expected kinds that its version has; download it again")
    # A recording may begin in the middle of a stream, so it is read from its first high word of time on. Without one,
    # or if the first is 0 or 1, it is read from the start: some writers leave out what is 0.
    highs = np.flatnonzero(kinds == 0x8)[:1]
    first = int(highs[0]) if len(highs) and values[highs[0]] > 1 else 0
    kinds, values = kinds[first:], values[first:]
    if size == 2 and (room := EVENT.itemsize * _count(kinds, values)) > LARGEST:  # two bytes may be 12 events
        raise OnespikeError(f"{origin}: {room:,} bytes of events come out of it; expected at most {LARGEST:,}; cut it")
    return recording(decode(kinds, values), sensor, origin)


def read_hdf5(files: Files, name: str, sensor: Sensor) -> np.ndarray:
    """Read an HDF5 with arrays x, y, t (microseconds), p in `events`, in `CD/events`, or at its root."""
    expected = f"arrays x, y, t, p in one of {', '.join(_GROUPS)}, in no compression but gzip; convert it"
    with opened_hdf5(files, name, expected) as file:
        found: Any = next((file[group] for group in _GROUPS if group in file), {})
        names = getattr(getattr(found, "dtype", None), "names", None)  # of an array of all four
        has = names or (() if hasattr(found, "dtype") else found)  # to look into an array would be to look for a number
        if missing := [key for key in "txyp" if key not in has]:
            raise ValueError(f"{missing[0]} is missing")
        expect_room(*([found] if names else [found[key] for key in "txyp"]))
        arrays = [np.asarray(found[key][:]) for key in "txyp"]
    return recording(arrays, sensor, files.where(name))


def expect_room(*arrays: Any) -> None:
    """Raise a ValueError if one of an HDF5's arrays has more than `LARGEST` bytes, before it is read."""
    if (size := max(one.nbytes for one in arrays)) > LARGEST:
        raise ValueError(f"{size:,} bytes come out of it")


@contextmanager
def opened_hdf5(files: Files, name: str, expected: str) -> Iterator[Any]:
    """Open an HDF5; what goes wrong inside is an `OnespikeError`, also where h5py is missing."""
    with requires("events", "events"):
        import h5py

    def elsewhere(place: str, link: Any) -> str | None:
        if isinstance(link, h5py.SoftLink):
            return None  # to a place in this file, which has a link of its own
        item = file[place] if isinstance(link, h5py.HardLink) else None
        away = item is None or (isinstance(item, h5py.Dataset) and (item.is_virtual or item.external))
        return place if away else None

    with (
        damage_named(files.where(name), "not read as HDF5", expected),
        h5py.File(io.BytesIO(files.read(name, LARGEST)), "r") as file,
    ):
        if place := file.visititems_links(elsewhere):  # to read a view of another file could end this process
            raise ValueError(f"{place} lies in another file")
        yield file


def _evt2(kinds: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """Times, x, y and polarities of words of 4 + 28 bits: an event has 6 bits of time, 11 of x, 11 of y."""
    high = _last(values, kinds == 0x8)
    at = kinds <= 1
    event = values[at]
    return [(high[at].astype(np.int64) << 6) + (event >> 22 & 0x3F), event >> 11 & 0x7FF, event & 0x7FF, kinds[at]]


def _count(kinds: np.ndarray, values: np.ndarray) -> int:
    """How many events words of EVT 3 have: a single one has one, a vector one for each bit that is set."""
    bits = (values[_WIDTH[kinds] > bit] >> bit & 1 for bit in range(12))
    return int(np.count_nonzero(kinds == 0x2)) + sum(map(np.count_nonzero, bits))


def _evt3(kinds: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """Times, x, y and polarities of words of 4 + 12 bits: time, row and base hold until they are set again."""
    y, base = _last(values & 0x7FF, kinds == 0x0), _last(values, kinds == 0x3)
    is_clock, high_words = (kinds == 0x6) | (kinds == 0x8), np.flatnonzero(kinds == 0x8)
    repeated = values[high_words[1:]] == values[high_words[:-1]]
    is_clock[high_words[1:][repeated]] = False  # a high that is repeated leaves the low as it is
    clock = np.flatnonzero(is_clock)
    is_high, ticks = kinds[clock] == 0x8, values[clock].astype(np.int64)
    highs = ticks[is_high]
    turns = np.cumsum(np.diff(highs, prepend=highs[:1]) <= -2048)  # 24 bits of microseconds are 16.8 s
    high, low = np.zeros_like(ticks), np.where(is_high, 0, ticks)  # a new high begins at a low of 0
    high[is_high] = (turns << 24) + (highs << 12)
    carried = np.cumsum((np.diff(low, prepend=0) < 0) & ~is_high)  # some leave a high out where the low wraps around
    times = _last(high - (carried << 12), is_high) + (carried << 12) + low
    t = np.zeros(len(values), np.int64)
    t[clock] = times
    t = _last(t, is_clock)
    # Vectors of 12 and of 8 pixels follow one another to the right of the base.
    width = _WIDTH[kinds]
    before = np.cumsum(width) - width
    left = (base & 0x7FF) + before - _last(before, kinds == 0x3)
    vectors = np.flatnonzero(width)
    bit = np.arange(12, dtype=np.int16)
    set_bits = (values[vectors, None].astype(np.int16) & 1 << bit > 0) & (bit < width[vectors, None])
    row, column = np.nonzero(set_bits)
    single, many = np.flatnonzero(kinds == 0x2), vectors[row]
    order = np.argsort(np.concatenate([single, many]), kind="stable")
    x = np.concatenate([values[single] & 0x7FF, left[many] + column])
    p = np.concatenate([values[single] >> 11, base[many] >> 11])
    at = np.concatenate([single, many])[order]
    return [t[at], x[order], y[at], p[order]]


def _last(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """For each place the value at the last place so far that is in `where`; 0 before the first."""
    place = np.maximum.accumulate(np.where(where, np.arange(len(values)), -1))
    return np.where(place >= 0, values[place], 0)
