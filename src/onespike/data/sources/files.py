"""Named files below one root, the same for a folder and for an archive.

Members of an archive are read one by one; nothing is ever unpacked to where its name says.
"""

import gzip
import hashlib
import os
import posixpath
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from typing_extensions import override

from onespike.errors import OnespikeError

#: What the standard library raises on a damaged archive. RuntimeError, and what is derived from it, is a zip member
#: behind a password or with a compression that is unknown here.
_DAMAGE = (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


@dataclass(frozen=True)
class Files:
    """The files of a folder by name; a name is relative to the root, with forward slashes.

    Attributes:
        root: The folder or archive.
    """

    root: Path

    def names(self) -> list[str]:
        """Names of all files, sorted, so that a data set comes in the same order from every form."""
        found = []
        for folder, _, files in os.walk(self.root, followlinks=True):  # a linked class or part is still a folder
            below = Path(folder).relative_to(self.root)
            found += [(below / file).as_posix() for file in files]
        return sorted(found)

    def read(self, name: str) -> bytes:
        """Content of a file; raises OnespikeError if it is missing or damaged."""
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise _unreadable(self.root / name, error) from error

    def where(self, name: str) -> str:
        """Name a file for a person: its path, or archive and member."""
        return str(self.root / name)

    def key(self, names: Iterable[str]) -> str:
        """Sha256, in hexadecimal, over names and content of these files; for an archive, over all of it."""
        # A digest per file: the files' borders count, not only their bytes one after the other.
        lines = (f"{name}\0{digest(self.root / name)}\n" for name in names)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def below(self, folder: str) -> "Files":
        """The files below one of the folders at the root."""
        return Files(self.root / folder)

    def holders(self, marker: str) -> set[str]:
        """Which folders directly hold a file, or a folder if the marker ends in a slash.

        Returns:
            "" for the root itself, and names of folders one level down.
        """
        wanted = Path.is_dir if marker.endswith("/") else Path.is_file
        here = {""} if wanted(self.root / marker) else set()
        return here | {path.parent.name for path in self.root.glob(f"*/{marker}") if wanted(path)}

    def find(self, marker: str) -> "Files | None":
        """Find the files beside a marker: those at the root, or else those in its only folder that holds the marker.

        Args:
            marker: A file's name, or a folder's name followed by a slash.

        Raises:
            OnespikeError: Several folders hold the marker.
        """
        holders = sorted(self.holders(marker))
        if "" in holders:
            return self
        if len(holders) > 1:
            raise OnespikeError(
                f"{self.root}: {', '.join(holders)} all hold {marker}; expected one data set; "
                "give one of these folders as --data.root"
            )
        return self.below(holders[0]) if holders else None


@dataclass(frozen=True)
class _Archive(Files):
    """The files of an open archive: name below `prefix` -> what reads it. Links and devices are left out."""

    members: dict[str, Callable[[], bytes]]
    prefix: str = ""

    @override
    def names(self) -> list[str]:
        return sorted(self.members)

    @override
    def read(self, name: str) -> bytes:
        if name not in self.members:
            raise OnespikeError(f"{self.where(name)}: not in the archive; expected a file of the data set; restore it")
        with _damage_named(self.where(name)):
            return self.members[name]()

    @override
    def where(self, name: str) -> str:
        return f"{self.root}: {self.prefix}{name}"

    @override
    def key(self, names: Iterable[str]) -> str:
        return digest(self.root)

    @override
    def below(self, folder: str) -> Files:
        start = f"{folder}/"
        inside = {name.removeprefix(start): member for name, member in self.members.items() if name.startswith(start)}
        return _Archive(self.root, inside, self.prefix + start)

    @override
    def holders(self, marker: str) -> set[str]:
        found = set()
        for name in self.members:
            folder, _, rest = name.partition("/")
            for holder, below in (("", name), (folder, rest)):
                if below.startswith(marker) if marker.endswith("/") else below == marker:
                    found.add(holder)
        return found


@contextmanager
def open_files(root: Path) -> Iterator[Files]:
    """Open a folder, a .zip, a .tar or a .tar.gz for reading.

    Raises:
        OnespikeError: It is missing, empty, damaged or something else.
    """
    if not root.exists():
        raise OnespikeError(f"{root}: no such file or folder; expected the data set there; correct --data.root")
    if root.is_dir():
        if not any(root.iterdir()):
            raise OnespikeError(f"{root}: empty folder; expected the data set there; correct --data.root")
        yield Files(root)
    elif root.suffix == ".zip":
        with _damage_named(str(root)):
            archive = zipfile.ZipFile(root)
        with archive:
            infos = (info for info in archive.infolist() if not info.is_dir())
            yield _Archive(root, {info.filename: partial(archive.read, info) for info in infos})
    elif root.name.endswith((".tar", ".tar.gz", ".tgz")):
        # Without random access a .tar.gz would be read anew for each member.
        with _decompressed(root) if root.name.endswith("gz") else _opened(root) as file:
            with _damage_named(str(root)):
                members = _tar_members(file)
            yield _Archive(root, members)
    else:
        raise OnespikeError(f"{root}: expected a folder, .zip, .tar or .tar.gz; correct --data.root")


def _tar_members(file: IO[bytes]) -> dict[str, Callable[[], bytes]]:
    archive = tarfile.TarFile(fileobj=file)
    files = [info for info in archive.getmembers() if info.isreg()]
    # The library takes a broken header, or none, for the end; a whole archive ends in a block of zeros.
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end mark")

    def read(info: tarfile.TarInfo) -> bytes:
        content = archive.extractfile(info)
        assert content is not None  # it is None for links and devices alone, which are no members of the archive
        return content.read()

    return {posixpath.normpath(info.name): partial(read, info) for info in files}


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


@contextmanager
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as plain:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, plain)
            plain.seek(0)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise _damaged(str(path), error) from error
        except OSError as error:
            raise OnespikeError(
                f"{path}: cannot be decompressed into {tempfile.gettempdir()} ({error.strerror or error}); "
                "expected room for it; free some, or unpack the archive yourself and give its folder as --data.root"
            ) from error
        yield plain


def digest(path: Path) -> str:
    """Sha256 of a file's content, in hexadecimal; raises OnespikeError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def not_recognised(root: Path, name: str, *layouts: str) -> OnespikeError:
    """The error for a root in which none of a data set's layouts was found."""
    return OnespikeError(
        f"{root}: not recognised as {name}; expected {', or '.join(layouts)}, there or one folder down; "
        "correct --data.root"
    )


def _unreadable(path: Path, error: OSError) -> OnespikeError:
    return OnespikeError(
        f"{path}: cannot be read ({error.strerror or error}); expected a file of the data set; restore it"
    )


@contextmanager
def _damage_named(where: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise _damaged(where, error) from error


def _damaged(where: str, error: Exception) -> OnespikeError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return OnespikeError(f"{where}: truncated or damaged archive ({reason}); expected a whole one; download it again")
