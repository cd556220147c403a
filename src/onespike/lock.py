"""A folder has one writer."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from onespike.errors import OnespikeError, printable

#: The lock file by which a folder's only writer holds it, and the folders that this process holds.
LOCK = ".lock"
_HELD: set[str] = set()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder, made if need be, as its only writer; for anybody else it is an `OnespikeError` that names us.

    The lock is the system's: it ends with this process, however that ends; child processes do not hold it.
    """
    path, folder, held_as = folder / LOCK, folder.absolute(), os.path.realpath(folder)
    if held_as in _HELD:  # the system would grant this process its own lock again, and drop it once the file is closed
        raise OnespikeError(f"{folder} is being written by process {os.getpid()}, this one: wait for it, or stop it")
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _lock(path)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
        file.flush()
    except BlockingIOError:
        owner = "another process"
        with suppress(OSError):  # it may have ended just now, and its file with it
            owner = printable(path.read_text(errors="replace"), 200) or owner
        raise OnespikeError(f"{folder} is being written by {owner}: wait for it, or stop it") from None
    except OSError as error:
        raise OnespikeError(f"cannot write the folder {folder}: {error.strerror or error}") from error
    _HELD.add(held_as)
    try:
        yield
    finally:
        _HELD.discard(held_as)
        with suppress(OSError):
            path.unlink()
        file.close()
        with suppress(OSError):  # a refused run leaves no folder
            for one in made:
                one.rmdir()


def _lock(path: Path) -> IO[str]:
    """Open a lock file and lock it; a BlockingIOError if another process holds it."""
    import fcntl  # not everywhere

    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:  # its owner has just removed it
            pass
        except OSError as error:
            file.close()
            raise BlockingIOError if error.errno in (errno.EACCES, errno.EAGAIN) else error from None
        file.close()
