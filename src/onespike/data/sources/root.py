"""What --data.root may be: a folder or an archive."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onespike.data.sources.archive import open_tar, open_zip
from onespike.data.sources.tree import FolderTree, Tree
from onespike.errors import OnespikeError


@contextmanager
def open_root(root: Path) -> Iterator[Tree]:
    """Open a folder, a .zip, a .tar or a .tar.gz for reading.

    Raises:
        OnespikeError: It is missing, empty, damaged or something else.
    """
    if not root.exists():
        raise OnespikeError(f"{root}: no such file or folder; expected the data set there; correct --data.root")
    if root.is_dir():
        if not any(root.iterdir()):
            raise OnespikeError(f"{root}: empty folder; expected the data set there; correct --data.root")
        yield FolderTree(root)
    elif root.suffix == ".zip":
        with open_zip(root) as tree:
            yield tree
    elif root.name.endswith((".tar", ".tar.gz", ".tgz")):
        with open_tar(root) as tree:
            yield tree
    else:
        raise OnespikeError(f"{root}: expected a folder, .zip, .tar or .tar.gz; correct --data.root")


def not_recognised(root: Path, name: str, *layouts: str) -> OnespikeError:
    """The error for a root in which none of a data set's layouts was found."""
    return OnespikeError(
        f"{root}: not recognised as {name}; expected {', or '.join(layouts)}, there or one folder down; "
        "correct --data.root"
    )
