"""Where a search keeps its trials: a journal in its folder, or a database that many machines share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from onespike.configs import expect_keys, read_json
from onespike.durable import open_regular
from onespike.errors import OnespikeError, printable, reason, requires, shown

#: In the folder of a search: the journal that is the storage by default, and its lock.
JOURNAL, LOCKED = "study.journal", ".study.journal.lock"
#: The codes of steps in Optuna's journal.
STEPS = range(10)


def need_optuna() -> Any:
    """Import Optuna, and silence it; an `OnespikeError` where it is not installed."""
    with requires("search", "search"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class _Lock:
    """The lock of a journal: it is the system's, so it ends with the process that holds it.

    Whoever gets it cuts off half a line at the end, which a full disk may have left: the next one would be glued to it.
    """

    def __init__(self, path: Path, journal: Path) -> None:
        self.path, self._journal = path, journal
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        import fcntl  # not everywhere

        self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "ab")
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            with self._journal.open("ab+") as file:
                if end := file.tell():
                    file.seek(end - 1)
                    if file.read() != b"\n":
                        file.seek(0)
                        file.truncate(file.read().rfind(b"\n") + 1)
        except OSError:
            self.release()
            raise
        return True

    def release(self) -> None:
        if self._file:
            self._file.close()


def open_storage(url: str | None, out: Path) -> Any:
    """Open the storage at a URL, by default the journal in the folder of a search; an `OnespikeError` if that fails."""
    optuna = need_optuna()
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if url is None:
        path = out.absolute() / JOURNAL
        lock = _Lock(out.absolute() / LOCKED, path)
        try:
            out.mkdir(parents=True, exist_ok=True)
            for one in (path, lock.path):
                if one.is_symlink() or one.exists():
                    open_regular(one).close()
            if path.exists():
                _expect_steps(path)  # before the lock, which cuts off half a line: what is no journal stays whole
            lock.acquire()  # so it is known that both can be written
            lock.release()
            return JournalStorage(JournalFileBackend(str(path), lock))
        except OSError as error:
            raise OnespikeError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OnespikeError(f"{path} is no journal of a search: {error!r}; choose another --out") from None
    import sqlalchemy

    try:
        parsed = sqlalchemy.make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
            raise ValueError("a database in memory, which no other process sees")
        wait = {"connect_timeout": 10} if parsed.get_backend_name() == "postgresql" else {}
        if parsed.drivername == "postgresql":  # which driver that means depends on the version of SQLAlchemy
            parsed = parsed.set(drivername="postgresql+psycopg")
        full = parsed.render_as_string(hide_password=False)
        return RDBStorage(full, engine_kwargs={"pool_pre_ping": True, "connect_args": wait})
    except ImportError as error:
        remedy = "install the driver of the database, for PostgreSQL: pip install 'psycopg[binary]'"
        raise OnespikeError(f"--storage {_public(url)}: {reason(error)[:200]}; {remedy}") from None
    except (ValueError, sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        said = _said(error).replace(url, _public(url)) if url else "an empty address"
        expected = "expected a database that can be reached, such as postgresql://user:password@host/name"
        raise OnespikeError(f"--storage {_public(url)}: {printable(said, 300)}; {expected}") from None


def failures() -> tuple[type[Exception], ...]:
    """What is raised where a storage cannot be reached."""
    optuna = need_optuna()
    import sqlalchemy

    return sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError


@contextmanager
def reached() -> Iterator[None]:
    """Turn what happens where a storage goes away in the midst of a search into an `OnespikeError`."""
    try:
        yield
    except failures() as error:
        state = f"the search cannot go on: {type(error).__name__}: {printable(_said(error), 300)}"
        raise OnespikeError(f"{state}; once that is mended, the same command does") from error


def _said(error: BaseException) -> str:
    """What the database said, in one line: Optuna's own errors say little more than that there was one."""
    while error.__cause__:
        error = error.__cause__
    return reason(getattr(error, "orig", None) or error)


def _expect_steps(path: Path) -> None:
    """Raise an `OnespikeError` for a line that is no step of a search."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            expect_keys(step := read_json(line, "it"), {"op_code": int, "worker_id": str}, "a step")
            if step["op_code"] not in STEPS:
                raise OnespikeError(f"an unknown step, {shown(step['op_code'])}")
        except OnespikeError as error:
            state = f"{path} is no journal of a search: line {number}: {error}"
            raise OnespikeError(f"{state}; choose another --out") from None


def _public(url: str) -> str:
    """A URL without its password."""
    import sqlalchemy

    with suppress(sqlalchemy.exc.ArgumentError, ValueError):  # such as a port that is no number
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    return "…"  # a URL that cannot be parsed may hold the password anywhere
