"""Files by name below one root, alike for a folder and for an archive, which is never unpacked to its own paths."""

import errno
import gzip
import hashlib
import os
import posixpath
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from onespike.durable import MOST, file_digest, open_regular, read_whole
from onespike.errors import OnespikeError, damage_named

#: Depth to which folders may be links to elsewhere; most bytes that a byte of a .tar.gz may expand to.
_LINKED, _RATIO = 2, 100
#: A file of an archive: the bytes it has by its header, and what reads it.
Member = tuple[int, Callable[[], bytes]]


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder it is in, is hidden: by a dot, or as a disk station hides its thumbnails."""
    return any(step.startswith(".") or step == "@eaDir" for step in name.split("/"))


class Files(NamedTuple):
    """The files of a folder or archive by name; a name is relative, with forward slashes."""

    root: Path
    members: dict[str, Member] | None = None  # of an archive, by name, without links and devices
    prefix: str = ""  # folder that names are relative to, with a slash at the end
    listed: frozenset[str] = frozenset()  # folders that an archive lists by themselves, empty ones among them

    def names(self) -> list[str]:
        """Names of all files but hidden ones, sorted, so that a data set comes in the same order from every form."""
        if self.members is not None:
            inside = (name.removeprefix(self.prefix) for name in self.members if name.startswith(self.prefix))
            return sorted(name for name in inside if not is_hidden(name))
        root = Path(self.where(""))
        with _errors_named(str(root)):
            return sorted(path.relative_to(root).as_posix() for path in _below(root))

    def expect_listed(self, listed: Iterable[str], names: Iterable[str]) -> None:
        """Raise an OnespikeError unless each listed file is one of `names`, and listed once."""
        known, seen = set(names), set[str]()
        for name in listed:
            if name in seen:
                raise OnespikeError(f"{self.where(name)}: listed twice; expected it once; restore the data set")
            if name not in known:
                state = "no such file; expected one of the data set; restore the data set"
                raise OnespikeError(f"{self.where(name)}: {state}")
            seen.add(name)

    def left_out(self, names: set[str], what: str) -> str:
        """Say of files that they are left out, because their names are not those of a `what`; nothing if none are."""
        are = "file is" if len(names) == 1 else "files are"
        return f"{self.where(min(names))}: no {what} by its name; {len(names)} such {are} left out" if names else ""

    def folders(self, name: str) -> set[str]:
        """Names of the folders directly in a folder, empty ones included, hidden ones not."""
        if self.members is None:
            with _errors_named(self.where(name)):
                found = {path.name for path in Path(self.where(name)).iterdir() if path.is_dir()}
        else:
            within = f"{self.prefix}{name}/"
            inside = (one.removeprefix(within) for one in (*self.members, *self.listed) if one.startswith(within))
            found = {one.split("/")[0] for one in inside if "/" in one}
        return {one for one in found if not is_hidden(one)}

    def read(self, name: str, most: int = MOST) -> bytes:
        """Content of a file; raises OnespikeError if it is missing or damaged, or has more than `most` bytes."""
        with _errors_named(self.where(name)):
            if self.members is None:
                return read_whole(Path(self.where(name)), most)
            if self.prefix + name not in self.members:
                raise FileNotFoundError(errno.ENOENT, "not in the archive")
            size, content = self.members[self.prefix + name]
            if size > most:  # a few bytes can become gigabytes
                raise OSError(errno.EFBIG, f"{size:,} bytes, more than {most:,}")
            return content()

    def lines(self, name: str) -> list[str]:
        """Lines of a text file."""
        return self.read(name).decode("utf-8", "replace").splitlines()

    def where(self, name: str) -> str:
        """Name a file, for an error: its path, or archive and member."""
        return str(self.root / self.prefix / name) if self.members is None else f"{self.root}: {self.prefix}{name}"

    def key(self, names: Iterable[str]) -> str:
        """Sha256, in hexadecimal, over names and content of these files; for an archive, over all of it.

        In a folder, a link out of it, or one file under two names, is an OnespikeError.
        """
        if self.members is not None:
            with _errors_named(str(self.root)):
                return file_digest(self.root)
        lines, paths = list[str](), dict[object, Path]()  # the path of each file, by its identity
        for name in names:
            path = Path(self.where(name))
            with _errors_named(str(path)):
                if path.is_symlink():
                    real = path.resolve()
                    if not any(real.is_relative_to(folder.resolve()) for folder in (self.root, path.parent)):
                        raise _led_out(path, real, self.root)
                # A digest per file: a byte that moves from one file to the next changes the key.
                digest, status = file_digest(path), path.stat()
                identity = (status.st_dev, status.st_ino) if status.st_nlink > 1 else path.resolve()
            if (other := paths.setdefault(identity, path)) != path:
                raise OnespikeError(f"{path} and {other} are one file; expected it once; remove one of them")
            lines.append(f"{name}\0{digest}\n")
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def holders(self, marker: str) -> set[str]:
        """Names of the folders that hold a file, or a folder if the marker ends in a slash; "" is the root itself."""
        is_folder = marker.endswith("/")
        if self.members is None:
            wanted, root = Path.is_dir if is_folder else Path.is_file, self.root / self.prefix
            with _errors_named(str(root)):
                here = {""} if wanted(root / marker) else set()
                found = (path for path in root.glob(f"*/{marker}") if not is_hidden(path.parent.name))
                return here | {path.parent.name for path in found if wanted(path)}
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
    """Open a folder, a .zip, a .tar or a .tar.gz for reading; anything else, or a damaged one, is an OnespikeError."""
    members: dict[str, Member] | None = None
    listed: Iterable[str] = ()
    with ExitStack() as stack:
        with _errors_named(str(root)):
            if not root.exists():
                raise OnespikeError(f"{root}: no such file or folder; expected the data set there; correct --data.root")
            if root.is_dir():
                if not any(root.iterdir()):
                    raise OnespikeError(f"{root}: empty folder; expected the data set there; correct --data.root")
            elif root.suffix.lower() == ".zip":
                archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(open_regular(root))))
                listed = [info.filename for info in archive.infolist() if info.is_dir()]
                infos = (info for info in archive.infolist() if not info.is_dir())
                members = _by_name(root, ((one.filename, (one.file_size, partial(archive.read, one))) for one in infos))
            elif root.name.lower().endswith((".tar", ".tar.gz", ".tgz")):
                file: IO[bytes] = stack.enter_context(open_regular(root))
                if root.name.lower().endswith("gz"):
                    file = _decompress(root, stack.enter_context(tempfile.TemporaryFile()))
                found, listed = _tar_members(file)
                members = _by_name(root, found)
            else:
                raise OnespikeError(f"{root}: expected a folder, .zip, .tar or .tar.gz; correct --data.root")
        yield Files(root, members, listed=frozenset(f"{posixpath.normpath(name)}/" for name in listed))


def not_recognised(root: Path, name: str, forms: Iterable[str]) -> OnespikeError:
    """The error for a root in which none of a data set's forms was found."""
    expected = f"expected {', or '.join(forms)}, there or one folder down"
    return OnespikeError(f"{root}: not recognised as {name}; {expected}; correct --data.root")


def _below(root: Path) -> Iterator[Path]:
    """All files below a folder, each once; a link out of it, or to what is there already, is an OnespikeError.

    Hidden ones, and what is in hidden folders (a virtual environment, .git), are not looked at. A folder of a part, or
    of a class, may be a link to elsewhere.
    """
    inside, seen, waiting = [root.resolve()], set[Path](), [(root, 0)]

    def expect_new(path: Path, real: Path) -> None:
        if not any(real.is_relative_to(one) for one in inside):
            raise _led_out(path, real, root)
        if real in seen:
            raise OnespikeError(f"{path}: a link to {real}, which is there already; expected it once; remove the link")
        seen.add(real)

    while waiting:
        folder, depth = waiting.pop()
        real = folder.resolve()
        if depth <= _LINKED and not any(one.is_relative_to(real) for one in inside):
            inside.append(real)
        expect_new(folder, real)
        with os.scandir(folder) as entries:
            listed = [entry for entry in entries if not is_hidden(entry.name)]
        for entry in listed:
            path = folder / entry.name
            if entry.is_dir():
                waiting.append((path, depth + 1))
            else:
                expect_new(path, path.resolve() if entry.is_symlink() else real / entry.name)
                yield path


def _led_out(path: Path, real: Path, root: Path) -> OnespikeError:
    return OnespikeError(f"{path}: a link to {real}, outside of {root}; expected files inside; copy it there")


def _by_name(root: Path, members: Iterable[tuple[str, Member]]) -> dict[str, Member]:
    """Members of an archive by their plain names; a name outside of it, or one twice, is an OnespikeError."""
    found: dict[str, Member] = {}
    for name, member in members:
        plain = posixpath.normpath(name)
        if plain.startswith(("/", "../")) or plain in found:
            state = "is there twice" if plain in found else "leads out of the archive"
            raise OnespikeError(f"{root}: {name} {state}; expected each file once, and inside; pack it anew")
        found[plain] = member
    return found


def _decompress(path: Path, plain: IO[bytes]) -> IO[bytes]:
    """Decompress a .tar.gz into `plain`: without random access it would be read anew for each member."""
    most = max(MOST, _RATIO * path.stat().st_size)
    try:
        with open_regular(path) as file, gzip.open(file) as packed:
            while chunk := packed.read(1 << 20):
                plain.write(chunk)
                if plain.tell() > most:
                    raise tarfile.ReadError(f"more than {most:,} bytes come out of it")
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        where = f"cannot be decompressed into {tempfile.gettempdir()} ({error.strerror or error})"
        raise OnespikeError(f"{path}: {where}; expected room; free some, or unpack it yourself") from error
    plain.seek(0)
    return plain


def _tar_members(file: IO[bytes]) -> tuple[list[tuple[str, Member]], list[str]]:
    """The files of an archive, and the names of its folders."""
    archive = tarfile.TarFile(fileobj=file)
    infos = list(entries(archive))
    # The library takes a broken header, or none, for the end; a whole archive ends in a block of zeros.
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end mark")

    def read(info: tarfile.TarInfo) -> bytes:
        content = archive.extractfile(info)
        assert content is not None  # it is None for links and devices alone, which are no members here
        return content.read()

    files: list[tuple[str, Member]] = [(one.name, (one.size, partial(read, one))) for one in infos if one.isreg()]
    return files, [info.name for info in infos if info.isdir()]


def entries(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The entries of an archive, one by one; a size below 0, which leads the library back for ever, is a ReadError."""
    for info in archive:
        if info.size < 0:
            raise tarfile.ReadError(f"a member of {info.size} bytes")
        yield info


@contextmanager
def _errors_named(where: str) -> Iterator[None]:
    with damage_named(where, "truncated or damaged archive", "a whole one; download it again"):
        try:
            yield
        except gzip.BadGzipFile:  # an OSError, too
            raise
        except OSError as error:
            state = f"cannot be read ({error.strerror or error})"
            raise OnespikeError(f"{where}: {state}; expected a file; restore it") from error
