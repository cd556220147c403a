"""Files that are whole or not there, and that survive the machine's next crash."""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onespike.errors import OnespikeError


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file at once, in an existing folder: readers find the old content (kept at an OSError) or the new."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_bytes(content.encode() if isinstance(content, str) else content)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace a folder, all that is in it, by files: a reader finds the old ones or the new ones, never some of each.

    The new folder is written beside the old one, flushed to the disk, and renamed. Between the two renames the old one
    is called `.NAME.old`: read through `whole_folder`. What cannot be written is an OSError; the old folder stays.
    """
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        for name, content in files.items():
            (new / name).write_bytes(content)
        for path in [*new.iterdir(), new]:
            flush(path)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def whole_folder(folder: Path) -> Path:
    """Where the content of a folder is that `write_folder` wrote, even if a crash came between its two renames."""
    old = folder.with_name(f".{folder.name}.old")
    return old if old.exists() and not folder.exists() else folder


def save_text(text: str | bytes, path: Path) -> None:
    """Write a file, whole; its folder is made if need be. What cannot be written is an `OnespikeError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise OnespikeError(f"cannot write {path}: {error.strerror or error}") from error


def save_json(content: dict[str, Any], target: str) -> None:
    """Write JSON to a path, or to the standard output, "-"; what cannot be written is an `OnespikeError`."""
    text = json.dumps(content, indent=2, allow_nan=False)
    if target == "-":
        print(text)
    else:
        save_text(text + "\n", Path(target))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write rows as CSV, with plain line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
