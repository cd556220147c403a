"""A .zip or .tar as a tree of files: members are read one by one, nothing is ever unpacked to where its name says."""

import gzip
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
from typing import IO, NamedTuple

from typing_extensions import override

from onespike.data.sources.tree import Tree, digest, unreadable
from onespike.errors import OnespikeError

#: What the standard library raises on a damaged archive. RuntimeError, and what is derived from it, is a zip member
#: behind a password or with a compression that is unknown here.
_DAMAGE = (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, tarfile.TarError)


class Member(NamedTuple):
    """One regular file of an archive: its length in bytes, and how to read it."""

    size: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class ArchiveTree(Tree):
    """The files of an open archive.

    Attributes:
        root: The archive.
        members: Name below `prefix` -> file. Links and devices are left out.
        prefix: Folder of the archive that the names are relative to: "", or ending in a slash.
    """

    members: dict[str, Member]
    prefix: str = ""

    @override
    def names(self) -> list[str]:
        return sorted(self.members)

    @override
    def size(self, name: str) -> int:
        return self._member(name).size

    @override
    def read(self, name: str) -> bytes:
        try:
            return self._member(name).read()
        except _DAMAGE as error:
            raise _damaged(self.where(name), error) from error

    @override
    def where(self, name: str) -> str:
        return f"{self.root}: {self.prefix}{name}"

    @override
    def key(self, names: Iterable[str]) -> str:
        return digest(self.root)

    @override
    def below(self, folder: str) -> Tree:
        start = f"{folder}/"
        inside = {name.removeprefix(start): member for name, member in self.members.items() if name.startswith(start)}
        return ArchiveTree(self.root, inside, self.prefix + start)

    @override
    def holders(self, marker: str) -> set[str]:
        found = set()
        for name in self.members:
            folder, _, rest = name.partition("/")
            for holder, below in (("", name), (folder, rest)):
                if below.startswith(marker) if marker.endswith("/") else below == marker:
                    found.add(holder)
        return found

    def _member(self, name: str) -> Member:
        if name not in self.members:
            raise OnespikeError(f"{self.where(name)}: not in the archive; expected a file of the data set; restore it")
        return self.members[name]


@contextmanager
def open_zip(path: Path) -> Iterator[Tree]:
    """Open a .zip.

    Raises:
        OnespikeError: It is truncated or damaged.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise _damaged(str(path), error) from error
    with archive:
        files = [info for info in archive.infolist() if not info.is_dir()]
        yield ArchiveTree(path, {info.filename: Member(info.file_size, partial(archive.read, info)) for info in files})


@contextmanager
def open_tar(path: Path) -> Iterator[Tree]:
    """Open a .tar, or a .tar.gz, which is first decompressed into a temporary file, for lack of random access.

    Raises:
        OnespikeError: It is truncated or damaged, or there is no room for the temporary file.
    """
    with _decompressed(path) if path.name.endswith("gz") else _opened(path) as file:
        try:
            archive = tarfile.TarFile(fileobj=file)
            files = [info for info in archive.getmembers() if info.isreg()]
            # The library takes a broken header, or none, for the end; a whole archive ends in a block of zeros.
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end mark")
        except _DAMAGE as error:
            raise _damaged(str(path), error) from error
        members = {posixpath.normpath(i.name): Member(i.size, partial(_read_tar_member, archive, i)) for i in files}
        yield ArchiveTree(path, members)


def _read_tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(info)
    assert content is not None  # it is None for links and devices alone, which are no members of the tree
    return content.read()


def _opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(path, error) from error


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


def _damaged(where: str, error: Exception) -> OnespikeError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return OnespikeError(f"{where}: truncated or damaged archive ({reason}); expected a whole one; download it again")
