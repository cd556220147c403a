"""The decoded images of a source, kept on disk as plain numpy files that are read through a memory map.

A cache entry is a folder, <name>-<key>, with <part>-images.npy, <part>-labels.npy and meta.json. It appears by the
renaming of a finished folder, so it is whole or not there, whatever happens to the process that makes it.
"""

import hashlib
import json
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from onespike.data.sources.base import PARTS, HubUnreachableError, Source
from onespike.data.writer import PartWriter, channel_statistics
from onespike.durable import flush
from onespike.errors import OnespikeError

#: Raise it whenever the same source would give other files: older entries are then made anew.
_FORMAT = 1
_LEFTOVER_SECONDS = 86_400  # no build takes a day


@dataclass(frozen=True, eq=False)
class Part:
    """The decoded images of one part.

    Attributes:
        images: (M, H, W, C) uint8, a read-only memory map.
        labels: (M,) int64.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class CacheEntry:
    """A decoded source.

    Attributes:
        classes: The class names.
        mean: Channel-wise mean of the training part, 0..1.
        std: Channel-wise standard deviation of the training part, 0..1; 1 for a channel that never changes, so that
            dividing by it is safe.
        parts: `train`, `test` and perhaps `validation`.
    """

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    parts: dict[str, Part]


def open_cache(source: Source, directory: Path, image_size: int | None = None) -> CacheEntry:
    """Open the decoded images of a source, decoding them first if they are not there yet.

    If the source is on the Hub and that cannot be reached, the newest entry from the same repository will do.

    Args:
        source: Where the images come from.
        directory: Folder of all cache entries; made if need be.
        image_size: Side in pixels to which the images are resized; None leaves them as they are.

    Raises:
        OnespikeError: The source or the entry is damaged, the images differ in size or are not square, or the
            directory cannot be written.
    """
    try:
        key = source.key()
    except HubUnreachableError:
        known = _newest(source, directory, image_size)
        if known is None:
            raise
        return _read(known)
    mixed = hashlib.sha256(f"{key} {image_size} {_FORMAT}".encode()).hexdigest()
    entry = directory / f"{source.name}-{mixed[:16]}"
    if not entry.is_dir():
        try:
            _build(source, entry, image_size)
        except OSError as error:  # the source reports its own, so this one is ours
            raise OnespikeError(
                f"{directory}: cannot write the decoded images ({error.strerror or error}); expected a folder with "
                "enough room; free some, or give another folder as --data.cache"
            ) from error
    return _read(entry)


def _build(source: Source, entry: Path, image_size: int | None) -> None:
    """Decode into a temporary folder, then rename it."""
    directory = entry.parent
    directory.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(directory)
    building = directory / f".building-{entry.name}-{uuid.uuid4().hex}"
    building.mkdir()
    try:
        counts = {part: count for part in PARTS if (count := source.count(part))}
        if missing := {"train", "test"} - counts.keys():
            raise OnespikeError(
                f"{source.origin}: no images in the {' and the '.join(sorted(missing))} part; expected some; restore it"
            )
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(f"decoding {source.name} (once)", total=sum(counts.values()))
            writer = PartWriter(source, building, image_size, lambda: progress.advance(task))
            for part, count in counts.items():
                writer.write(part, count)
        mean, std = channel_statistics(np.load(building / "train-images.npy", mmap_mode="r"))
        meta = {
            "format": _FORMAT,
            "name": source.name,
            "origin": source.origin,
            "image_size": image_size,
            "classes": source.classes,
            "mean": mean,
            "std": std,
            "images": counts,
        }
        (building / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
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


def _read(entry: Path) -> CacheEntry:
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        parts = {
            part: Part(np.load(entry / f"{part}-images.npy", mmap_mode="r"), np.load(entry / f"{part}-labels.npy"))
            for part in meta["images"]
        }
        return CacheEntry(tuple(meta["classes"]), tuple(meta["mean"]), tuple(meta["std"]), parts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OnespikeError(
            f"{entry}: damaged cache entry ({error}); expected meta.json and .npy files; remove the folder, it will be "
            "made anew"
        ) from error


def _newest(source: Source, directory: Path, image_size: int | None) -> Path | None:
    """The entry that was made last from a source's origin, whatever its key."""
    wanted = {"format": _FORMAT, "origin": source.origin, "image_size": image_size}
    found = []
    for path in directory.glob(f"{source.name}-*/meta.json"):
        meta = json.loads(path.read_text(encoding="utf-8"))
        if wanted.items() <= meta.items():
            found.append(path)
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def _remove_leftovers(directory: Path) -> None:
    """Remove what killed processes had begun; a younger folder may belong to one that is still at work."""
    for path in directory.glob(".building-*"):
        if path.stat().st_mtime < time.time() - _LEFTOVER_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
