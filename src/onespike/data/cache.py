"""The decoded images of a source, kept on disk as plain numpy files that are read through a memory map.

A cache entry is a folder, <name>-<key>, with <part>-images.npy, <part>-labels.npy and meta.json. It appears by the
renaming of a finished folder, so it is whole or not there, whatever happens to the process that makes it.
"""

import hashlib
import json
import math
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from onespike.data.sets import Dataset, ImageSet
from onespike.data.sources import PARTS, Content, HubUnreachableError, Source
from onespike.data.sources.image import fit
from onespike.durable import flush
from onespike.errors import OnespikeError

#: Raise it whenever the same source would give other files: older entries are then made anew.
_FORMAT = 1
_LEFTOVER_SECONDS = 86_400  # no build takes a day
_CHUNK_BYTES = 1 << 22


def open_cache(source: Source, directory: Path, image_size: int | None = None) -> Dataset:
    """Open the decoded images of a source, nothing held out; they are decoded first if they are not there yet.

    All entries lie in `directory`, made if need be. Images are resized to a side in pixels; None leaves them as they
    are. If the source is on the Hub and that cannot be reached, the newest entry from the same repository will do. A
    damaged source or entry, images that are not square and alike, or failing to write is an OnespikeError.
    """
    try:
        mixed = hashlib.sha256(f"{source.key()} {image_size} {_FORMAT}".encode()).hexdigest()
    except HubUnreachableError:
        if known := _newest(source, directory, image_size):
            return _read(known)
        raise
    entry = directory / f"{source.name}-{mixed[:16]}"
    if not entry.is_dir():
        try:
            _build(source, entry, image_size)
        except OSError as error:  # the source reports its own, so this one is ours
            state = f"{directory}: cannot write the decoded images ({error.strerror or error})"
            expected = "expected a folder with enough room; free some, or give another folder as --data.cache"
            raise OnespikeError(f"{state}; {expected}") from error
    return _read(entry)


def decode_here(content: Content, name: str, image_size: int | None = None) -> Dataset:
    """Decode images into memory; arguments and errors as in `open_cache`."""
    parts, decoded = {}, _decoder(content, name, image_size)
    for part, (labels, *_) in content.parts.items():
        images = np.empty(0, np.uint8)
        for index, pixels in enumerate(decoded(part)):
            images = images if index else np.empty((len(labels), *pixels.shape), np.uint8)
            images[index] = pixels
        parts[part] = ImageSet(images, labels, np.arange(len(labels)))
    mean, std = channel_statistics(parts["train"].images)
    return Dataset.of(parts, name=name, classes=content.classes, mean=mean, std=std, note=content.note)


def _build(source: Source, entry: Path, image_size: int | None) -> None:
    """Decode into a temporary folder, then rename it."""
    directory = entry.parent
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob(".building-*"):  # what killed processes had begun; a younger one may still be at work
        if path.stat().st_mtime < time.time() - _LEFTOVER_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
    building = directory / f".building-{entry.name}-{uuid.uuid4().hex}"
    building.mkdir()
    try:
        _write(source, building, image_size)
        for path in [*building.iterdir(), building]:
            flush(path)
        try:
            building.rename(entry)
        except OSError:
            if not entry.is_dir():  # else another process was faster, and its entry is as good
                raise
        flush(directory)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write(source: Source, folder: Path, image_size: int | None) -> None:
    """Write <part>-images.npy, (N, H, W, C) uint8, and <part>-labels.npy, (N,) int64, in constant memory."""
    content = source.content()
    counts = {part: count for part in PARTS if (count := len(content.parts.get(part, [()])[0]))}
    if missing := {"train", "test"} - counts.keys():
        lacking = " and the ".join(sorted(missing))
        raise OnespikeError(f"{source.origin}: no images in the {lacking} part; expected some; restore it")
    decoded = _decoder(content, source.name, image_size)
    for part, count in counts.items():
        # Written from front to back rather than through a writable memory map: where the disk is full, the system kills
        # a process that touches the map, whereas `write` reports it.
        with (folder / f"{part}-images.npy").open("wb") as file:
            for index, pixels in enumerate(decoded(part)):
                if not index:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *pixels.shape)}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(np.ascontiguousarray(pixels).data)
        np.save(folder / f"{part}-labels.npy", content.parts[part].labels)
    mean, std = channel_statistics(np.load(folder / "train-images.npy", mmap_mode="r"))
    meta = {"format": _FORMAT, "name": source.name, "origin": source.origin, "image_size": image_size}
    meta |= {"classes": content.classes, "mean": mean, "std": std, "images": counts, "note": content.note}
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def _decoder(content: Content, name: str, image_size: int | None) -> Callable[[str], Iterator[np.ndarray]]:
    """Make what decodes a part: resized, all images square and as large as the first, in grey if all are, or colour."""
    from rich.console import Console
    from rich.progress import track

    content.expect_labels_in_range()
    console = Console(stderr=True)
    first: tuple[int, str] | None = None

    @cache
    def all_grey() -> bool:
        return all(part.pixels(i).shape[2] == 1 for part in content.parts.values() for i in range(len(part.labels)))

    def decoded(which: str) -> Iterator[np.ndarray]:
        nonlocal first
        part, numbers, hidden = content.parts[which], range(len(content.parts[which].labels)), not console.is_terminal
        for index in track(numbers, f"decoding {name} (once)", console=console, transient=True, disable=hidden):
            pixels, origin = part.pixels(index), part.origins[index]
            if pixels.shape[2] == 1 and not all_grey():
                pixels = pixels.repeat(3, 2)
            if image_size is not None:
                pixels = fit(pixels, image_size)
            height, width, _ = pixels.shape
            side, where = first = first or (width, origin)
            if height != width or width != side:
                expected = "a square" if height != width else f"{side}x{side} as in {where}"
                remedy = "pass --data.image_size to cut a square of one size out of each"
                raise OnespikeError(f"{origin}: {width}x{height} pixels; expected {expected}; {remedy}")
            yield pixels

    return decoded


def _read(entry: Path) -> Dataset:
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        parts = {}
        for part in meta["images"]:
            images, labels = np.load(entry / f"{part}-images.npy", mmap_mode="r"), np.load(entry / f"{part}-labels.npy")
            parts[part] = ImageSet(images, labels, np.arange(len(labels)))
        described = {key: tuple(meta[key]) for key in ("classes", "mean", "std")}
        return Dataset.of(parts, name=meta["name"], note=meta.get("note", ""), **described)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OnespikeError(f"{entry}: damaged cache entry ({error}); remove the folder to make it anew") from error


def _newest(source: Source, directory: Path, image_size: int | None) -> Path | None:
    """The entry that was made last from a source's origin, whatever its key."""
    wanted = {"format": _FORMAT, "origin": source.origin, "image_size": image_size}
    metas = directory.glob(f"{source.name}-*/meta.json")
    found = [path for path in metas if wanted.items() <= json.loads(path.read_text(encoding="utf-8")).items()]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and population deviation, 0..1, of each channel of (N, H, W, C) uint8; a deviation of 0 becomes 1."""
    values, histogram = np.arange(256), np.zeros((images.shape[3], 256), np.int64)
    step = max(1, _CHUNK_BYTES // images[0].size)  # in chunks: a memory map may be of any size
    for start in range(0, len(images), step):
        chunk = images[start : start + step]
        histogram += [np.bincount(chunk[..., channel].ravel(), minlength=256) for channel in range(len(histogram))]
    means, deviations = [], []
    for counts in histogram:
        # Python's integers: n * squares - total ** 2 does not fit into 64 bits.
        n, total, squares = int(counts.sum()), int(counts @ values), int(counts @ values**2)
        means.append(total / (255 * n))
        deviations.append(math.sqrt(n * squares - total**2) / (255 * n) or 1.0)
    return tuple(means), tuple(deviations)
