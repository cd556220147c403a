"""A search whose storage is a real PostgreSQL server: its processes are killed, and it is called again."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onespike.search.storage import open_storage
from onespike.search.study import open_study, slots_of
from tests.hostile.test_search import TINY, children
from tests.running import read_rows, wait_until

PORT = 54329
TRIALS = 5  # of six, the last might be pruned: the pruner begins once five are trained
SPACE = "train.lr: {low: 0.02, high: 0.3, log: true}\nmodel.preset: {choices: [modern, strict, binary]}\n"


def program(name: str) -> str | None:
    """A program of the server: in the path, or where Debian has it."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server of its own, which listens on a socket in its folder alone."""
    pytest.importorskip("psycopg", reason="no driver of PostgreSQL: pip install 'onespike[search]'")
    initdb, control = program("initdb"), program("pg_ctl")
    if not initdb or not control:
        pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # the path of a socket has to be short
    owner: dict[str, Any] = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
    if os.getuid() == 0:  # which the server refuses to be
        try:
            shutil.chown(folder, "postgres")
        except LookupError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        owner["user"] = "postgres"
    data = str(folder / "data")
    subprocess.run([initdb, "-D", data, "-A", "trust", "-U", "onespike", "--no-sync"], **owner)
    options = f"-k {folder} -p {PORT} -c listen_addresses='' -c fsync=off"
    subprocess.run([control, "-w", "-D", data, "-l", folder / "log", "-o", options, "start"], **owner)
    try:
        yield f"postgresql://onespike@/postgres?host={folder}&port={PORT}"
    finally:
        subprocess.run([control, "-w", "-D", data, "-m", "immediate", "stop"], **owner)
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_its_processes_are_killed_and_no_trial_is_lost_or_doubled(server: str, start, tmp_path: Path):
    out = tmp_path / "search"
    (tmp_path / "space.yaml").write_text(SPACE)
    command = ["search", "--space", tmp_path / "space.yaml", "--out", out]
    command += ["--trials", TRIALS, "--workers", 2, "--storage", server]
    command += [word for key, value in TINY.items() for word in (f"--{key}", value)]
    parent = start(*command, stdout=subprocess.DEVNULL)
    begun = lambda: len(list(out.glob("trial-*"))) >= 2 and running(server, out) >= 2  # noqa: E731
    wait_until(begun, parent, patience=300, every=0.2)
    for victim in (parent.pid, *children(parent.pid)):  # at once: who lived would take up, or end, what another left
        os.kill(victim, signal.SIGKILL)
    parent.communicate()
    assert running(server, out)
    again = start(*command, stdout=subprocess.DEVNULL)
    assert (again.communicate(timeout=600)[1], again.returncode) == ("", 0)
    rows = read_rows(out / "search.csv")
    assert [row["outcome"] for row in rows] == ["trained"] * TRIALS
    assert len({(row["train.lr"], row["model.preset"]) for row in rows}) == TRIALS
    assert {one.name for one in out.glob("trial-*")} == {row["run"] for row in rows}
    slots = states(server, out)
    assert [attempts.count("COMPLETE") for attempts in slots.values()] == [1] * TRIALS
    assert any(len(attempts) > 1 for attempts in slots.values())  # what was left was taken up


def running(server: str, out: Path) -> int:
    """How many attempts are being made."""
    return sum(attempts.count("RUNNING") for attempts in states(server, out).values())


def states(server: str, out: Path) -> dict[int, list[str]]:
    """The states of the attempts of each slot, as the server has them."""
    storage = open_storage(server, out)
    trials = open_study(storage, out.name, TRIALS, "", 1).get_trials(deepcopy=False)
    storage.remove_session()
    storage.engine.dispose()
    return {slot: [one.state.name for one in attempts] for slot, attempts in slots_of(trials).items()}
