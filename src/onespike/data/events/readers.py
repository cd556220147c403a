"""Read recordings from files, after a check of the bytes; nothing is ever unpickled.

tonic's readers check nothing: half an event, a packet cut off, a file of another sensor all become events. Only AEDAT 4
is read by it.
"""

import io
import math
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import IO, Any

import numpy as np

from onespike.data.events.prophesee import read_hdf5, read_raw
from onespike.data.events.stream import Sensor, header_of, recording, truncated
from onespike.data.sources.files import Files
from onespike.durable import MOST
from onespike.errors import OnespikeError, damage_named, requires

#: Bytes of an event of N-MNIST; of one, and of a packet's header, of AEDAT.
_MNIST_BYTES, _AER_BYTES, _PACKET_BYTES = 5, 8, 28
#: Bits of a DVS128 address that are used; the 16th marks external events, which are no pixel's.
_DVS128, _OUTSIDE = 0xFFFF, 0x8000
#: Highest kind of packet in AEDAT 3.1: special events, frames, an IMU's and others.
_KINDS = 15
#: The row that marks an overflow of the clock in N-MNIST's files, and so is no pixel's; what the clock is then ahead.
_MNIST_ROWS, _MNIST_OVERFLOW = 240, 1 << 13
#: More milliseconds than any recording takes.
_LARGE = 2.0**50


def read_mnist(files: Files, name: str, sensor: Sensor) -> np.ndarray:
    """Read N-MNIST's `.bin`, 5 bytes an event: x, y, polarity and 23 bits of microseconds.

    tonic's reader gives the same, but goes through the whole file for each overflow of the clock.
    """
    data, origin = files.read(name), files.where(name)
    if sensor.height > _MNIST_ROWS:
        expected = f"expected at most {_MNIST_ROWS} rows, since row {_MNIST_ROWS} marks an overflow of the clock"
        raise OnespikeError(f"{origin}: .bin of a sensor of {sensor}; {expected}; convert it to .npy")
    if len(data) % _MNIST_BYTES:
        raise truncated(origin, f"{len(data):,} bytes", f"whole events of {_MNIST_BYTES} bytes each")
    x, y, high, middle, low = np.frombuffer(data, np.uint8).reshape(-1, _MNIST_BYTES).T.astype(np.int64)
    marks = y == _MNIST_ROWS
    t = ((high & 0x7F) << 16 | middle << 8 | low) + np.cumsum(marks) * _MNIST_OVERFLOW
    return recording((column[~marks] for column in (t, x, y, high >> 7)), sensor, origin)


def read_dvs128(files: Files, name: str, sensor: Sensor, swapped: bool = False) -> np.ndarray:
    """Read AEDAT 2 of a DVS128: 4 bytes of address, 4 of microseconds.

    From its lowest bit an address has the polarity, 7 bits of x that count from the right, and 7 of y that count from
    the bottom, as iniVation documents them (tonic takes y for x). But the lowest bit is 0 where it became brighter, as
    jAER and SpikingJelly read it; iniVation's page says the opposite. `swapped` exchanges x and y, see
    `open_cifar10_dvs`.
    """
    version, body = _aedat(files, name)
    origin = files.where(name)
    if not 2 <= version < 3:
        raise OnespikeError(f"{origin}: AEDAT {version:g}; expected 2.0, of a DVS128; is it a file of another sensor?")
    if len(body) % _AER_BYTES:
        raise truncated(origin, f"{len(body):,} bytes of events", f"{_AER_BYTES} bytes each")
    address, t = np.frombuffer(body, ">u4").reshape(-1, 2).T.astype(np.int64)
    if len(wrong := np.flatnonzero(address > _DVS128)):
        found = f"event {wrong[0]:,} has the address {address[wrong[0]]:#x}"
        raise OnespikeError(f"{origin}: {found}; expected 16 bits, of a DVS128; is it a file of another sensor?")
    address, t = address[inside := address < _OUTSIDE], t[inside]
    x, y = 127 - (address >> 1 & 0x7F), 127 - (address >> 8 & 0x7F)
    x, y = (y, x) if swapped else (x, y)
    return recording((t, x, y, 1 - (address & 1)), sensor, origin)


def read_ibm(files: Files, name: str, sensor: Sensor) -> np.ndarray:
    """Read AEDAT 3.1, as DVS128 Gesture has it: the valid events of its packets of polarity events."""
    version, body = _aedat(files, name)
    origin, at, found = files.where(name), 0, [np.empty((0, 2), np.int64)]
    if not 3 < version < 4:
        raise OnespikeError(f"{origin}: AEDAT {version:g}; expected 3.1, of DVS128 Gesture; is it another data set's?")
    while at < len(body):
        header = np.frombuffer(body[at : at + _PACKET_BYTES].ljust(_PACKET_BYTES, b"\0"), "<u4")
        kind, size, capacity = int(header[0]) & 0xFFFF, int(header[1]), int(header[4])
        if kind > _KINDS or (kind == 1 and size != _AER_BYTES):
            what = f"a packet of events of kind {kind}, {size} bytes each; expected polarity events (1)"
            raise OnespikeError(f"{origin}: {what}, {_AER_BYTES}; is it another sensor's?")
        first, at = at + _PACKET_BYTES, at + _PACKET_BYTES + size * capacity
        if at > len(body):
            raise truncated(origin, f"{len(body):,} bytes of packets", f"{at:,}")
        if kind == 1:
            events = np.frombuffer(body[first:at], "<u4").reshape(-1, 2).astype(np.int64)
            events[:, 1] += int(header[3]) << 31  # how often the clock's 31 bits have run over, every 36 minutes
            found.append(events)
    address, t = np.concatenate(found).T
    address, t = address[valid := address & 1 == 1], t[valid]
    return recording((t, address >> 17 & 0x1FFF, address >> 2 & 0x1FFF, address >> 1 & 1), sensor, origin)


def read_aedat(files: Files, name: str, sensor: Sensor) -> np.ndarray:
    """Read AEDAT 2 or 3.1, whichever it is."""
    return (read_dvs128 if _aedat(files, name)[0] < 3 else read_ibm)(files, name, sensor)


def read_aedat4(files: Files, name: str, sensor: Sensor) -> np.ndarray:
    """Read AEDAT 4 by the package aedat, as tonic does."""
    origin = files.where(name)
    with requires("events", f"{origin}: AEDAT 4"):
        import aedat  # noqa: F401
        import tonic.io
    named = damage_named(origin, "not read by tonic", "events; download it again")
    with _on_disk(files, name) as path, named, _no_panic_text():
        events = tonic.io.read_aedat4(path)
        t, x, y, p = (events[key] for key in events.dtype.names)
    return recording((t, x, y, p), sensor, origin)


def read_arrays(files: Files, name: str, sensor: Sensor) -> np.ndarray:
    """Read numpy's `.npy` or `.npz`: a structured array or arrays of x, y, t, p; never what is pickled."""
    origin = files.where(name)
    found = load_arrays(files.read(name), origin)
    keys = found.dtype.names if isinstance(found, np.ndarray) else tuple(found)
    if missing := [key for key in "xytp" if key not in (keys or ())]:
        what = f"{', '.join(keys)}" if keys else "no names"
        raise OnespikeError(f"{origin}: {missing[0]} is missing, it has {what}; expected x, y, t and p; convert it")
    arrays = (found[key] for key in "txyp")
    return recording((one.ravel() if one.ndim == 2 and 1 in one.shape else one for one in arrays), sensor, origin)


def read_gesture_array(files: Files, name: str, sensor: Sensor) -> np.ndarray:
    """Read DVS128 Gesture as tonic downloads it: `.npy` of rows x, y, p, milliseconds."""
    origin = files.where(name)
    rows = load_arrays(files.read(name), origin)
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != 4 or rows.dtype.kind not in "iuf":
        found = f"{rows.dtype} of shape {rows.shape}" if isinstance(rows, np.ndarray) else "several arrays"
        raise OnespikeError(f"{origin}: {found}; expected rows of x, y, p, milliseconds; download it again")
    rows = rows.astype(np.float64)
    if not (np.abs(rows) < _LARGE).all():
        raise OnespikeError(f"{origin}: numbers that are not finite, or above 2^50; expected others; download it again")
    if len(wrong := np.flatnonzero((rows[:, :3] % 1).any(1))):
        found = f"event {wrong[0]:,} has x, y, p = {', '.join(f'{one:g}' for one in rows[wrong[0], :3])}"
        raise OnespikeError(f"{origin}: {found}; expected whole numbers; download it again")
    rows[:, 3] *= 1000
    x, y, p, t = np.rint(rows).astype(np.int64).T
    return recording((t, x, y, p), sensor, origin)


def load_arrays(data: bytes, origin: str) -> Any:
    """Load numpy's arrays, none that are pickled; what is damaged is an `OnespikeError`."""
    with damage_named(origin, "not numpy's plain arrays", "x, y, t and p; convert it"):
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if (size := sum(info.file_size for info in archive.infolist())) > MOST:
                    raise ValueError(f"{size:,} bytes come out of it")
                names = Counter(member.removesuffix(".npy") for member in archive.namelist())
                if twice := [one for one, n in names.items() if n > 1]:
                    raise ValueError(f"{twice[0]} is there twice")
                for info in archive.infolist():
                    with archive.open(info) as member:
                        _expect_whole(member, info.file_size)
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return dict(arrays)
        _expect_whole(io.BytesIO(data), len(data))
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def _expect_whole(file: IO[bytes], size: int) -> None:
    """Raise a ValueError if an array has more bytes than its file: numpy makes room for all before it reads one."""
    old = np.lib.format.read_magic(file) == (1, 0)
    shape, _, kind = (np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0)(file)
    if (claimed := math.prod(shape) * kind.itemsize) > size:
        raise ValueError(f"its header says {claimed:,} bytes, it has {size:,}")


#: Readers of files, by the ending of the name.
READERS: dict[str, Callable[[Files, str, Sensor], np.ndarray]] = {
    ".npy": read_arrays,
    ".npz": read_arrays,
    ".bin": read_mnist,
    ".aedat": read_aedat,
    ".aedat4": read_aedat4,
    ".raw": read_raw,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
}


def _aedat(files: Files, name: str) -> tuple[float, bytes]:
    """AEDAT's version, and the bytes after its comments, as tonic's reader finds them."""
    header, body = header_of(files.read(name), b"#")
    try:
        return float(re.findall(rb"^#!AER-DAT(.*)", header, re.MULTILINE)[-1]), body
    except (IndexError, ValueError):
        expected = "expected #!AER-DAT2.0 or 3.1; download it again"
        raise OnespikeError(f"{files.where(name)}: no AEDAT header; {expected}") from None


@contextmanager
def _on_disk(files: Files, name: str) -> Iterator[str]:
    """A file's path, which is all that tonic's reader of AEDAT 4 takes."""
    if files.members is None:
        yield files.where(name)
        return
    data = files.read(name)
    with ExitStack() as stack:
        try:
            copy = Path(stack.enter_context(TemporaryDirectory()), f"recording{Path(name).suffix}")
            copy.write_bytes(data)
        except OSError as error:
            where = f"cannot be copied into {gettempdir()} ({error.strerror or error})"
            raise OnespikeError(f"{files.where(name)}: {where}; expected room; free some, or unpack it") from error
        yield str(copy)


@contextmanager
def _no_panic_text() -> Iterator[None]:
    """Silence the standard error of this process: the package aedat, in Rust, prints there before it raises."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
