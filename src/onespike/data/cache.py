"""The decoded images of a source, kept on disk as plain numpy files that are read through a memory map.

A cache entry is a folder, <name>-<key>, with <part>-images.npy, <part>-labels.npy, <part>-sums.npy and meta.json. A
finished folder is renamed to it, so it is whole or not there, whatever happens to the process that makes it. Files are
verified when they are opened. If a file of images is too large for that, each image is verified when it is fetched.
"""

import errno
import hashlib
import math
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from onespike.configs import expect_keys, read_json
from onespike.data.events.stream import EVENT
from onespike.data.sets import Dataset, ImageSet, RecordingSet, spread
from onespike.data.sources import PARTS, Content, HubUnreachableError, Source, expect_class_names
from onespike.data.sources.image import fit
from onespike.durable import beside, digest_of, file_digest, flush, json_text, read_whole, remove
from onespike.errors import OnespikeError, shown, warn
from onespike.folders import flush_folder, folder_beside
from onespike.terminal import tracked

#: Increase it whenever the same source would give other files: older entries are then made anew.
_FORMAT = 4
_META: dict[str, Any] = {"entry": str, "name": str, "note": str, "classes": tuple[str, ...], "mean": tuple[float, ...]}
_META |= {"std": tuple[float, ...], "images": dict[str, int], "sha256": dict[str, str]}
_CHUNK_BYTES = 1 << 22
_CHEAP = 1 << 28  # bytes of the largest file that is verified whenever it is opened


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
    # A folder's name may begin with a dot, as do entries that are not finished, or be too long for one more word.
    entry = directory / f"{source.name.lstrip('.')[:40]}-{mixed[:16]}"
    try:
        if entry.is_dir():
            try:
                return _read(entry)
            except OnespikeError as error:
                warn(f"{error}: decoding the images again")
                aside = beside(entry)  # which says so if it cannot be moved, whereas `remove` does not
                with suppress(FileNotFoundError):  # another process that met it was faster
                    entry.rename(aside)
                remove(aside)
        _build(source, entry, image_size)
    except OSError as error:  # the source reports its own, so this one is ours
        state = f"{directory}: cannot write the decoded images ({error.strerror or error})"
        expected = "expected a folder with enough room; free some, or give another folder as --data.cache"
        raise OnespikeError(f"{state}; {expected}") from error
    return _read(entry)


def verify_cache(directory: Path) -> dict[Path, str]:
    """Compare all entries of a cache, byte for byte, with what was written; returns what is wrong with each, or ""."""
    found = {}
    for entry in sorted({path.parent for path in directory.glob("[!.]*/*-images.npy")}):
        if _description(entry).get("format", _FORMAT) != _FORMAT:  # nobody opens it any more
            continue
        try:
            _read(entry, cheap=False)
            found[entry] = ""
        except OnespikeError as error:
            found[entry] = str(error)
    return found


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
    with folder_beside(entry) as new:
        _write(source, new, image_size, entry.name)
        flush_folder(new)
        try:
            new.rename(entry)
        except OSError:
            if not entry.is_dir():  # else another process was faster, and its entry is as good
                raise
    flush(entry.parent)


def _write(source: Source, folder: Path, image_size: int | None, name: str) -> None:
    """Write <part>-images.npy, (N, H, W, C) uint8, -labels.npy, (N,) int64, and -sums.npy, (N,) CRC-32 of each image.

    Memory is constant, but for labels and sums.
    """
    content = source.content()
    counts = {part: count for part in PARTS if (count := len(content.parts.get(part, [()])[0]))}
    if missing := {"train", "test"} - counts.keys():
        lacking = " and the ".join(sorted(missing))
        raise OnespikeError(f"{source.origin}: no images in the {lacking} part; expected some; restore it")
    decoded = _decoder(content, source.name, image_size)
    for part, count in counts.items():
        sums, blank = np.empty(count, np.uint32), 0
        # Written from front to back rather than through a writable memory map: where the disk is full, the system kills
        # a process that touches the map, whereas `write` reports it.
        with (folder / f"{part}-images.npy").open("wb") as file:
            for index, pixels in enumerate(decoded(part)):
                if not index:
                    if (need := count * pixels.nbytes) > (free := shutil.disk_usage(folder).free):
                        raise OSError(errno.ENOSPC, f"{need:,} bytes of {part} images, {free:,} free")
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *pixels.shape)}
                    np.lib.format.write_array_header_1_0(file, header)
                pixels = np.ascontiguousarray(pixels)
                sums[index] = zlib.crc32(pixels.data)
                file.write(pixels.data)
                blank += not pixels.any()
        if source.framing and blank:
            _tell_blank(blank, count, f"{source.origin}: {part}", source.framing.denoise)
        np.save(folder / f"{part}-labels.npy", content.parts[part].labels)
        np.save(folder / f"{part}-sums.npy", sums)
        if events := content.parts[part].events:
            _write_events(folder, part, events, count)
    mean, std = channel_statistics(np.load(folder / "train-images.npy", mmap_mode="r"))
    meta: dict[str, Any] = {"format": _FORMAT, "entry": name, "name": source.name, "origin": source.origin}
    meta |= {"image_size": image_size, "classes": content.classes, "mean": mean, "std": std}
    meta |= {"images": counts, "note": content.note}
    if recorded := content.parts["test"].recorded:
        meta["recordings"] = _digest_of_events(recorded, counts["test"])
    meta["sha256"] = {path.name: file_digest(path) for path in sorted(folder.glob("*.npy"))} | {"meta": digest_of(meta)}
    (folder / "meta.json").write_text(json_text(meta), encoding="utf-8")


def _tell_blank(blank: int, count: int, where: str, denoise: float) -> None:
    """Warn of recordings that have no events left in their frames; if all are such, raise an `OnespikeError`."""
    state = f"{where}: {blank:,} of {count:,} recordings have no events left, denoised and cut to a square"
    if blank == count:
        remedy = "data.denoise is in microseconds: raise it, or set it to 0" if denoise else "is it another camera's?"
        raise OnespikeError(f"{state}; expected some; {remedy}")
    warn(state)


def _digest_of_events(recorded: Callable[[int], np.ndarray], count: int) -> str:
    """SHA-256 of the events of recordings evenly spread."""
    digest = hashlib.sha256()
    for index in spread(count):
        events = np.ascontiguousarray(recorded(int(index)), EVENT)
        digest.update(len(events).to_bytes(8, "little") + events.tobytes())
    return digest.hexdigest()


def _write_events(folder: Path, part: str, events: Callable[[int], np.ndarray], count: int) -> None:
    """Write <part>-events.npy and <part>-bounds.npy: all recordings one after the other, and where they begin."""
    header, bounds = {"descr": np.lib.format.dtype_to_descr(EVENT), "fortran_order": False}, [0]
    with (folder / f"{part}-events.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (0,)})
        for index in range(count):
            found = np.ascontiguousarray(events(index), EVENT)
            file.write(found.data)
            bounds.append(bounds[-1] + len(found))
        file.seek(0)  # a header is as long for any number of events: numpy leaves room for one that grows
        np.lib.format.write_array_header_1_0(file, header | {"shape": (bounds[-1],)})
    np.save(folder / f"{part}-bounds.npy", np.array(bounds))


def _decoder(content: Content, name: str, image_size: int | None) -> Callable[[str], Iterator[np.ndarray]]:
    """Make a decoder of a part: images resized, square, as large as the first, in grey if all are, else in colour."""
    content.check(name)
    first: tuple[int, str] | None = None

    @cache
    def all_grey() -> bool:
        return all(part.pixels(i).shape[-1] == 1 for part in content.parts.values() for i in range(len(part.labels)))

    def decoded(which: str) -> Iterator[np.ndarray]:
        nonlocal first
        part = content.parts[which]
        for index in tracked(range(len(part.labels)), f"decoding {name} (once)"):
            pixels, origin = part.pixels(index), part.origins[index]
            if not pixels.size:
                raise OnespikeError(f"{origin}: no pixels; expected some; restore it")
            if pixels.shape[-1] == 1 and not all_grey():
                pixels = pixels.repeat(3, 2)
            if image_size is not None:
                pixels = fit(pixels, image_size)
            height, width = pixels.shape[:2]
            side, where = first = first or (width, origin)
            if height != width or width != side:
                expected = "a square" if height != width else f"{side}x{side} as in {where}"
                remedy = "pass --data.image_size to cut a square of one size out of each"
                raise OnespikeError(f"{origin}: {width}x{height} pixels; expected {expected}; {remedy}")
            yield pixels

    return decoded


def _read(entry: Path, cheap: bool = True) -> Dataset:
    """Open and verify an entry; a damaged one is an OnespikeError. With `cheap`, slow checks are left for later."""
    try:
        meta = read_json(read_whole(entry / "meta.json"), "meta.json")
        expect_keys(meta, _META, "meta.json")
        if meta["sha256"].get("meta") != digest_of(meta):
            raise ValueError("meta.json is not what was written")
        expect_class_names(meta["classes"], "meta.json")
        if meta["entry"] != entry.name:
            raise ValueError(f"it is {shown(meta['entry'])} under another name")
        parts = {}
        for part, count in meta["images"].items():
            paths = {what: entry / f"{part}-{what}.npy" for what in ("images", "labels", "sums", "events", "bounds")}
            paths = {what: path for what, path in paths.items() if path.name in meta["sha256"]}
            later = cheap and paths["images"].stat().st_size > _CHEAP
            for path in list(paths.values())[later:]:
                if file_digest(path) != meta["sha256"].get(path.name):
                    raise ValueError(f"{path.name} is not what was written")
            images, labels = np.load(paths["images"], mmap_mode="r"), np.load(paths["labels"])
            sums, whole = np.load(paths["sums"]), images.dtype == np.uint8 and images.ndim in (4, 5)
            if not len(images) == len(labels) == len(sums) == count or not whole:
                raise ValueError(f"{part} images: {images.dtype}, {images.shape}, of {len(labels)} labels")
            if not np.isin(labels, np.arange(len(meta["classes"]))).all():
                raise ValueError(f"{part} labels: labels of no class")
            some = images, labels, np.arange(len(labels))
            parts[part] = ImageSet(*some, sums=sums if later else None)
            if "events" in paths:
                events, bounds = np.load(paths["events"], mmap_mode="r"), np.load(paths["bounds"])
                if events.dtype != EVENT or len(bounds) != count + 1 or bounds[-1] != len(events):
                    raise ValueError(f"{part} events: {len(events)} events, {len(bounds)} bounds")
                parts[part] = RecordingSet(*some, events, bounds, sums=sums if later else None)
        described = {key: tuple(meta[key]) for key in ("classes", "mean", "std")}
        recordings = meta.get("recordings", "")
        return Dataset.of(parts, name=meta["name"], note=meta["note"], recordings=recordings, **described)
    except (OSError, ValueError, KeyError, TypeError, OnespikeError) as error:
        raise OnespikeError(f"{entry}: damaged cache entry ({error}); remove the folder to make it anew") from error


def _newest(source: Source, directory: Path, image_size: int | None) -> Path | None:
    """The newest entry of a source's origin, whatever its key."""
    wanted = {"format": _FORMAT, "origin": source.origin, "image_size": image_size}
    every = directory.glob("[!.]*/meta.json")
    found = [path for path in every if wanted.items() <= _description(path.parent).items()]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def _description(entry: Path) -> dict[str, Any]:
    """What an entry says of itself; nothing if it is damaged."""
    with suppress(OSError, OnespikeError):
        said = read_json(read_whole(entry / "meta.json"), entry)
        return said if isinstance(said, dict) else {}
    return {}


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and population deviation, 0..1, of each channel of (N, …, C) uint8; a deviation of 0 becomes 1."""
    values, histogram = np.arange(256), np.zeros((images.shape[-1], 256), np.int64)
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
