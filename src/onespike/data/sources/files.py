"""Named files below one root, the same for a folder and for an archive, which is never unpacked to where names say."""

import errno
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
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from onespike.errors import OnespikeError

#: What the standard library raises on a damaged archive. RuntimeError, and what is derived from it, is a zip member
#: behind a password or with a compression that is unknown here.
_DAMAGE = (EOFError, RuntimeError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError)


class Files(NamedTuple):
    """The files of a folder or archive by name; a name is relative, with forward slashes."""

    root: Path
    members: dict[str, Callable[[], bytes]] | None = None  # of an archive, without links and devices: name -> content
    prefix: str = ""  # folder that names are relative to, with a slash at the end

    def names(self) -> list[str]:
        """Names of all files, sorted, so that a data set comes in the same order from every form."""
        if self.members is not None:
            return sorted(name.removeprefix(self.prefix) for name in self.members if name.startswith(self.prefix))
        found = []
        for folder, _, files in os.walk(self.where(""), followlinks=True):  # a linked class or part is still a folder
            below = Path(folder).relative_to(self.where(""))
            found += [(below / file).as_posix() for file in files]
        return sorted(found)

    def read(self, name: str) -> bytes:
        """Content of a file; raises OnespikeError if it is missing or damaged."""
        with _errors_named(self.where(name)):
            if self.members is None:
                return Path(self.where(name)).read_bytes()
            if self.prefix + name not in self.members:
                raise FileNotFoundError(errno.ENOENT, "not in the archive")
            return self.members[self.prefix + name]()

    def where(self, name: str) -> str:
        """Name a file for a person: its path, or archive and member."""
        return str(self.root / self.prefix / name) if self.members is None else f"{self.root}: {self.prefix}{name}"

    def key(self, names: Iterable[str]) -> str:
        """Sha256, in hexadecimal, over names and content of these files; for an archive, over all of it."""
        if self.members is not None:
            return _digest(self.root)
        # A digest per file: the files' borders count, not only their bytes one after the other.
        lines = (f"{name}\0{_digest(Path(self.where(name)))}\n" for name in names)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def holders(self, marker: str) -> set[str]:
        """Which folders directly hold a file, or a folder if the marker ends in a slash: "" is the root itself."""
        is_folder = marker.endswith("/")
        if self.members is None:
            wanted = Path.is_dir if is_folder else Path.is_file
            root = self.root / self.prefix
            here = {""} if wanted(root / marker) else set()
            return here | {path.parent.name for path in root.glob(f"*/{marker}") if wanted(path)}
        names = self.names()
        places = [("", name) for name in names] + [(name.split("/")[0], name.partition("/")[2]) for name in names]
        return {holder for holder, name in places if (name.startswith(marker) if is_folder else name == marker)}

    def find(self, marker: str) -> "Files | None":
        """Find the files beside a marker, at the root or in the only folder there that holds it, see `holders`."""
        holders = sorted(self.holders(marker))
        if "" in holders or not holders:
            return self if holders else None
        if len(holders) > 1:
            state = f"{self.root}: {', '.join(holders)} all hold {marker}"
            raise OnespikeError(f"{state}; expected one data set; give one as --data.root")
        return self._replace(prefix=f"{holders[0]}/")


@contextmanager
def open_files(root: Path) -> Iterator[Files]:
    """Open a folder, a .zip, a .tar or a .tar.gz for reading; what is none or damaged is an OnespikeError."""
    if not root.exists():
        raise OnespikeError(f"{root}: no such file or folder; expected the data set there; correct --data.root")
    members: dict[str, Callable[[], bytes]] | None = None
    with ExitStack() as stack:
        if root.is_dir():
            if not any(root.iterdir()):
                raise OnespikeError(f"{root}: empty folder; expected the data set there; correct --data.root")
        elif root.suffix == ".zip":
            with _errors_named(str(root)):
                archive = stack.enter_context(zipfile.ZipFile(root))
            files = (info for info in archive.infolist() if not info.is_dir())
            members = {info.filename: partial(archive.read, info) for info in files}
        elif root.name.endswith((".tar", ".tar.gz", ".tgz")):
            with _errors_named(str(root)):
                file: IO[bytes] = stack.enter_context(root.open("rb"))
                if root.name.endswith("gz"):
                    file = _decompress(root, stack.enter_context(tempfile.TemporaryFile()))
                members = _tar_members(file)
        else:
            raise OnespikeError(f"{root}: expected a folder, .zip, .tar or .tar.gz; correct --data.root")
        yield Files(root, members)


def _decompress(path: Path, plain: IO[bytes]) -> IO[bytes]:
    """Without random access a .tar.gz would be read anew for each member."""
    try:
        with gzip.open(path) as packed:
            shutil.copyfileobj(packed, plain)
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        where = f"cannot be decompressed into {tempfile.gettempdir()} ({error.strerror or error})"
        raise OnespikeError(f"{path}: {where}; expected room; free some, or unpack it yourself") from error
    plain.seek(0)
    return plain


def _tar_members(file: IO[bytes]) -> dict[str, Callable[[], bytes]]:
    archive = tarfile.TarFile(fileobj=file)
    files = [info for info in archive.getmembers() if info.isreg()]
    # The library takes a broken header, or none, for the end; a whole archive ends in a block of zeros.
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end mark")

    def read(info: tarfile.TarInfo) -> bytes:
        content = archive.extractfile(info)
        assert content is not None  # it is None for links and devices alone, which are no members here
        return content.read()

    return {posixpath.normpath(info.name): partial(read, info) for info in files}


def _digest(path: Path) -> str:
    with _errors_named(str(path)), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _errors_named(where: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise OnespikeError(f"{where}: truncated or damaged archive ({reason}); download it again") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise OnespikeError(f"{where}: cannot be read ({reason}); expected a file; restore it") from error
