"""Files that are whole or not there, and that survive the machine's next crash."""

import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file at once: a reader finds the old content or the new one, never a part.

    Args:
        path: The file; its folder must exist.
        content: What it shall hold.

    Raises:
        OSError: It cannot be written; the old content is then still there.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        if isinstance(content, str):
            new.write_text(content, encoding="utf-8")
        else:
            new.write_bytes(content)
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
