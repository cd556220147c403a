"""Folders that are complete or absent: replaced as a whole, and read as a whole meanwhile."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from onespike.durable import beside, expect_writable, flush, is_temporary, path_of, remove
from onespike.errors import OnespikeError

#: Attempts to read or replace a folder while somebody replaces it.
_ATTEMPTS = 20
#: What is read from a folder.
Content = TypeVar("Content")


def expect_replaceable(folder: Path, earlier: Iterable[str], what: str) -> None:
    """Raise an `OnespikeError` now if `write_folder` could not write later, or would remove other files.

    `earlier` are the names of the files that an earlier `what`, such as "export", left there.
    """
    expect_writable(folder=folder)
    if folder.name in ("", ".."):
        raise OnespikeError(f"cannot write {folder}: expected a folder by its own name; choose another place")
    there = {path.name for path in folder.iterdir() if not is_temporary(path)} if folder.exists() else set()
    if found := there - set(earlier):
        raise OnespikeError(f"{folder} holds {min(found)}, which is of no earlier {what}: choose another folder")


def expect_outside(file: str | None, folder: Path) -> None:
    """Raise an `OnespikeError` if a file would lie in a folder that is replaced as a whole; skip "-" and None."""
    if file is None or file == "-":
        return
    if Path(os.path.realpath(path_of(file, "file"))).is_relative_to(os.path.realpath(folder)):
        raise OnespikeError(f"cannot write {file}: {folder} is replaced as a whole; choose a place outside of it")


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace a folder, with all that is in it, by files: a reader finds the old ones or the new ones, never a mixture.

    The new folder is written beside the old one, flushed to the disk, and renamed. Between the two renames the old one
    is called `.NAME.old`: read through `whole_folder`. If it cannot be written, it is an OSError, and the old folder
    stays.
    """
    if folder.name in ("", ".."):
        raise OSError(errno.EINVAL, "expected a folder by its own name, which is not . or ..")
    old = folder.with_name(f".{folder.name}.old")
    with folder_beside(folder) as new:
        for name, content in files.items():
            (new / name).write_bytes(content)
        flush_folder(new)
        try:
            _swap(new, folder, old)
        except BaseException:
            if old.exists() and not folder.exists():  # interrupted between the two renames
                old.rename(folder)
            raise
    flush(folder.parent)
    remove(old)


def save_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace a folder by files, as `write_folder` does; what cannot be written is an `OnespikeError`."""
    try:
        write_folder(folder, files)
    except OSError as error:
        raise OnespikeError(f"cannot write {folder}: {error.strerror or error}") from error


@contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """A new folder beside another, to be filled, flushed and renamed; one that was not renamed is removed."""
    new = beside(folder)
    try:
        new.mkdir(parents=True)
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Force the files of a folder, and the list of their names, to the disk."""
    for path in [*folder.iterdir(), folder]:
        flush(path)


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Put a new folder into the place of another, which becomes the old one; others may do the same meanwhile."""
    for attempt in range(_ATTEMPTS):
        try:
            if folder.exists():
                remove(old)
                folder.rename(old)
            new.rename(folder)
            return
        except OSError as error:
            taken = error.errno in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)
            if not taken or attempt == _ATTEMPTS - 1:
                raise


def whole_folder(folder: Path) -> Path:
    """Where the content of a folder by `write_folder` is, even if a crash came between its two renames."""
    old = folder.with_name(f".{folder.name}.old")
    return old if old.exists() and not folder.exists() else folder


def read_folder(folder: Path, read: Callable[[Path], Content]) -> Content:
    """What `read` finds in a folder, which it is given, even while that is replaced: `write_folder` swaps it whole.

    A file that is missing is a FileNotFoundError; a folder that is replaced all the time an `OnespikeError`.
    """
    for attempt in range(_ATTEMPTS):
        try:
            place = whole_folder(folder)
            before = place.stat()
            content = read(place)
            if (before.st_ino, before.st_mtime_ns) == ((after := place.stat()).st_ino, after.st_mtime_ns):
                return content
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise
        time.sleep(0.01)
    raise OnespikeError("somebody replaces it all the time")
