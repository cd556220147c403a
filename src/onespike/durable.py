"""Files that are complete or absent, and survive the machine's next crash; reading always ends."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from onespike.errors import OnespikeError, listed, shown
from onespike.lock import LOCK

#: Largest file that is read whole, in bytes.
MOST = 1 << 28
#: Files of a run, and of a checkpoint, which other output must not replace.
_CHECKPOINT = ("state.json", "model.safetensors")
_OF_A_RUN = ("config.yaml", "curves.png", "environment.json", "metrics.csv", "summary.json", LOCK)
#: A temporary name, see `beside`; seconds after which whoever wrote there is dead.
_TEMPORARY, _DEAD = re.compile(r"\.(?P<name>.{1,50})\.[0-9a-f]{16}\.new", re.DOTALL), 86_400
#: What a spreadsheet takes for a formula: a sign in front of anything but a number.
_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d.]*(e[+-]?\d+)?%?$)")


def is_full(error: BaseException | None) -> bool:
    """Whether an error says that a disk is full, or a user's quota on it."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def path_of(place: str | os.PathLike[str], what: str = "folder") -> Path:
    """Return a path, whatever a user may have given; one that no file system takes is an `OnespikeError`."""
    if not isinstance(place, str | os.PathLike) or isinstance(os.fspath(place), bytes) or not os.fspath(place):
        raise OnespikeError(f"expected the path of a {what}, got {shown(repr(place))}")
    try:
        path = Path(place).expanduser()  # as in --out=~/runs, which no shell expands
    except RuntimeError:
        state = f"cannot write or read {shown(place)}: there is no such home"
        raise OnespikeError(f"{state}; for a folder of that name give its whole path") from None
    try:
        is_name = "\0" not in str(path) and all(len(os.fsencode(part)) <= 255 for part in path.parts)
    except UnicodeEncodeError:
        is_name = False
    if not is_name:
        reason = "a name has at most 255 bytes, no null byte, and no half of a character"
        raise OnespikeError(f"cannot write or read {shown(path)}: {reason}; choose another")
    return path


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading; a folder, or a FIFO or device, which might never end, is an OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_whole(path: Path, most: int = MOST) -> bytes:
    """The content of a regular file; an OSError if it has more than `most` bytes, or if `open_regular` refuses it."""
    with open_regular(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > most:
            raise OSError(errno.EFBIG, f"more than {most:,} bytes", str(path))
        return file.read(size)


def file_digest(path: Path) -> str:
    """SHA-256, in hexadecimal, of a regular file of any size; an OSError as of `open_regular`."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file at once, in an existing folder: readers find the old content (kept at an OSError) or the new.

    What is a device, a FIFO or the standard output is written into, behind what is there.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    if _is_written_into(path):
        _append(path, data)
        return
    new = beside(path)
    try:
        with new.open("xb") as file:
            file.write(data)
        flush(new)
        with suppress(OSError):  # the new file has the permissions of the old one, but not of what a link leads to
            if not path.is_symlink():
                new.chmod(path.stat().st_mode & 0o777)
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    flush(path.parent)


def _append(path: Path, data: bytes) -> None:
    if sys.stdout:
        sys.stdout.flush()  # if this is /dev/stdout, what was printed before it comes first
    # A FIFO that nobody reads is an OSError; without O_NONBLOCK opening it would wait for ever.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666)
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        for own in (1, 2):
            with suppress(OSError):  # it is closed, or has no end to go to
                if os.path.sameopenfile(own, descriptor):
                    os.lseek(own, 0, os.SEEK_END)  # or what is printed next would replace it


def beside(path: Path) -> Path:
    """A temporary name beside a path, which no other process has; remove what killed processes left there."""
    with suppress(OSError):
        for one in path.parent.iterdir():
            # A folder keeps its time while a file in it grows.
            if is_temporary(one) and time.time() - max(x.lstat().st_mtime for x in (one, *one.glob("*"))) > _DEAD:
                remove(one)
    return path.with_name(f".{path.name[:50]}.{token_hex(8)}.new")  # of at most 255 bytes


def is_temporary(path: Path, *names: str) -> bool:
    """Whether a path is a temporary one, see `beside`: of any name, or of one of these."""
    match = _TEMPORARY.fullmatch(path.name)
    return match is not None and (not names or match["name"] in names)


def _is_written_into(path: Path) -> bool:
    """Whether a path is a device or a FIFO; /dev/stdout is not ours to replace, even if it is a file.

    Elsewhere, in /dev/shm too, a link to a file is replaced: a stranger's run could point at yours.
    """
    if path.exists() and not path.is_file():
        return True
    whole = path.absolute()
    return whole.parts[1] in ("dev", "proc") and not whole.is_relative_to("/dev/shm")


def expect_writable(*files: str | Path | None, folder: Path | None = None) -> None:
    """Raise an `OnespikeError` now if a file, or those in a folder, could not be written later; skip "-" and None.

    A temporary file is made there: permissions alone say nothing of /proc, or of a read-only mount. Files that a run
    needs are not replaced, and no two files may have one path.
    """
    paths = [path_of(file, "file") for file in files if file is not None and file != "-"]
    paths += [folder] if folder else []
    try:
        places = [os.path.realpath(path) for path in paths]
    except FileNotFoundError:  # of a relative path
        expected = "the current folder is gone: cd to another, or give a whole path"
        raise OnespikeError(f"cannot write {listed(map(str, paths))}: {expected}") from None
    for path, real in zip(paths, places, strict=True):
        try:
            whole = path.absolute()
            place = next(one for one in (whole, *whole.parents) if _is_there(one))
            is_file = place == whole and path != folder
            within = place if place.is_dir() else place.parent
            of_a_run = place.name in _OF_A_RUN and (place.parent / "config.yaml").is_file()
            for reason, holds in (
                (f"{place} is no folder", within != place and not is_file),
                ("it is a folder", within == place and is_file),
                ("it is a file of a run", of_a_run and is_file),
                ("it lies in a checkpoint of a run", all((within / name).is_file() for name in _CHECKPOINT)),
                ("two things are to go there", places.count(real) > 1 and not _is_written_into(path)),
                (f"no permission to write {place}", not os.access(place, os.W_OK)),
            ):
                if holds:
                    raise OSError(errno.EACCES, reason)
            if within == place or not _is_written_into(place):
                with tempfile.TemporaryFile(dir=within):
                    pass
        except OSError as error:
            raise OnespikeError(f"cannot write {path}: {error.strerror or error}; choose another place") from error


def _is_there(path: Path) -> bool:
    """Whether a path exists; a name that is too long, or a file among its folders, is an OSError."""
    with suppress(FileNotFoundError):
        path.lstat()
        return True
    return False


def flush(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a folder, or what is in its place: opening a FIFO would wait for ever."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except (IsADirectoryError, PermissionError):
        if not path.is_dir():  # else another process has put its folder there since, and removes it
            raise


def save_text(text: str | bytes, path: Path) -> None:
    """Write a file as a whole, and make its folder if need be; an `OnespikeError` if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise OnespikeError(f"cannot write {path}: {error.strerror or error}") from error


def json_text(content: Any) -> str:
    """JSON as a file has it; a ValueError for a number that is not finite."""
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def save_json(content: Any, target: str) -> None:
    """Write JSON to a path, or to the standard output, "-"; an `OnespikeError` if that fails."""
    if target == "-":
        print(json_text(content), end="")
    else:
        save_text(json_text(content), path_of(target, "file"))


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of a mapping's JSON: without its own "sha256", whatever the order of its keys."""
    said = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def sealed(content: Mapping[str, Any], file: bytes) -> dict[str, Any]:
    """A file's description, with a SHA-256 of both, the file and the description."""
    return {**content, "sha256": hashlib.sha256(file + digest_of(content).encode()).hexdigest()}


def is_as_written(text: bytes, content: Mapping[str, Any]) -> bool:
    """Whether `json.dumps` with an indent of 2 wrote a text: a changed digit is damage, even if it changes no float."""
    return json.dumps(content, indent=2).encode() == text


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV, with plain line ends; an apostrophe keeps a spreadsheet from taking a name for a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in (header, *rows):
        writer.writerow([f"'{one}" if isinstance(one, str) and _FORMULA.match(one) else one for one in row])
    return text.getvalue()
