"""Named files below one root, the same for a folder and for an archive."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from onespike.errors import OnespikeError


@dataclass(frozen=True)
class Tree(ABC):
    """Files by name; a name is relative to the root, with forward slashes.

    Attributes:
        root: The folder or archive.
    """

    root: Path

    @abstractmethod
    def names(self) -> list[str]:
        """Names of all files, sorted, so that a data set comes in the same order from every form."""

    @abstractmethod
    def size(self, name: str) -> int:
        """Length of a file in bytes; raises OnespikeError if it is missing."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Content of a file; raises OnespikeError if it is missing or damaged."""

    @abstractmethod
    def where(self, name: str) -> str:
        """Name a file for a person: its path, or archive and member."""

    @abstractmethod
    def key(self, names: Iterable[str]) -> str:
        """Sha256, in hexadecimal, over names and content of these files; for an archive, over all of it."""

    @abstractmethod
    def below(self, folder: str) -> "Tree":
        """The tree below one of the folders at the root."""

    @abstractmethod
    def holders(self, marker: str) -> set[str]:
        """Which folders directly hold a file, or a folder if the marker ends in a slash.

        Returns:
            "" for the root itself, and names of folders one level down.
        """

    def find(self, marker: str) -> "Tree | None":
        """Find the tree which directly holds a marker: this one, or else the one below its only folder that does.

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


class FolderTree(Tree):
    """A folder of the file system."""

    @override
    def names(self) -> list[str]:
        found = []
        for folder, _, files in os.walk(self.root, followlinks=True):  # a linked class or part is still a folder
            below = Path(folder).relative_to(self.root)
            found += [(below / file).as_posix() for file in files]
        return sorted(found)

    @override
    def size(self, name: str) -> int:
        try:
            return (self.root / name).stat().st_size
        except OSError as error:
            raise unreadable(self.root / name, error) from error

    @override
    def read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise unreadable(self.root / name, error) from error

    @override
    def where(self, name: str) -> str:
        return str(self.root / name)

    @override
    def key(self, names: Iterable[str]) -> str:
        # A digest per file: the files' borders count, not only their bytes one after the other.
        lines = (f"{name}\0{digest(self.root / name)}\n" for name in names)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    @override
    def below(self, folder: str) -> Tree:
        return FolderTree(self.root / folder)

    @override
    def holders(self, marker: str) -> set[str]:
        wanted = Path.is_dir if marker.endswith("/") else Path.is_file
        here = {""} if wanted(self.root / marker) else set()
        return here | {path.parent.name for path in self.root.glob(f"*/{marker}") if wanted(path)}


def digest(path: Path) -> str:
    """Sha256 of a file's content, in hexadecimal; raises OnespikeError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> OnespikeError:
    """The error for a file that the system does not let us read."""
    return OnespikeError(
        f"{path}: cannot be read ({error.strerror or error}); expected a file of the data set; restore it"
    )
