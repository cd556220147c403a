"""A search whose processes are killed at random, and which is called again."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from onespike.search.storage import open_storage
from onespike.search.study import STOPPED, WORKERS, open_study
from tests.running import PATIENCE, read_rows, wait_until
from tests.unit.search import trial

TINY = trial.TINY | {"data.limit": 300, "train.epochs": 3}
SPACE = """
train.lr: {low: 0.02, high: 0.3, log: true}
train.rate_penalty: [0, 3]
model.preset: {choices: [modern, strict, binary]}
"""


def children(process: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes in /proc")
def test_killed_at_random_and_called_again_no_trial_is_lost_or_doubled(start, tmp_path: Path):
    trials, kills, draws, out = 7, 4, random.Random(0), tmp_path / "search"
    (tmp_path / "space.yaml").write_text(SPACE)
    command = ["search", "--space", tmp_path / "space.yaml", "--out", out]
    command += ["--trials", trials, "--workers", 2, "--energy", "field"]
    command += [word for key, value in TINY.items() for word in (f"--{key}", value)]
    killed, calls, end = [0, 0], 0, time.monotonic() + 1800
    while time.monotonic() < end:
        calls += 1
        parent = start(*command, stdout=subprocess.DEVNULL)
        while parent.poll() is None and time.monotonic() < end:
            time.sleep(draws.uniform(0.5, 4))
            if sum(killed) < kills and len(list(out.glob("trial-*"))) > 1:
                victims = [parent.pid] if draws.random() < 0.25 else children(parent.pid)
                if victims and parent.poll() is None:
                    os.kill(draws.choice(victims), signal.SIGKILL)
                    killed[victims == [parent.pid]] += 1
        assert parent.poll() is not None, "not done in half an hour"
        complaint = parent.communicate(timeout=PATIENCE)[1]
        if parent.returncode == 0:
            break
        assert parent.returncode == -signal.SIGKILL or f"of {trials} trials are not done" in complaint, complaint
    assert parent.returncode == 0
    assert sum(killed) == kills
    rows = read_rows(out / "search.csv")
    assert len(rows) == trials
    assert {row["outcome"] for row in rows} == {"trained"}
    assert len({row["trial"] for row in rows}) == len({row["run"] for row in rows}) == trials
    values = [tuple(row[key] for key in ("train.lr", "train.rate_penalty", "model.preset")) for row in rows]
    assert len(set(values)) == trials
    assert {one.name for one in out.glob("trial-*")} == {row["run"] for row in rows}
    assert all((out / row["run"] / "summary.json").is_file() for row in rows)
    print(f"{calls} calls, {killed[0]} processes and {killed[1]} callers killed")


@pytest.mark.slow
def test_without_the_command_its_processes_save_and_end(start, tmp_path: Path):
    out = tmp_path / "search"
    (tmp_path / "space.yaml").write_text(SPACE)
    command = ["search", "--space", tmp_path / "space.yaml", "--out", out, "--workers", 2]
    command += [word for key, value in {**TINY, "train.epochs": 9999}.items() for word in (f"--{key}", value)]
    parent = start(*command, stdout=subprocess.DEVNULL)
    wait_until(lambda: len(list(out.glob("trial-*/last"))) == 2, parent)
    parent.kill()
    end = time.monotonic() + PATIENCE
    while any((out / WORKERS).iterdir()) and time.monotonic() < end:
        time.sleep(0.1)
    trials = open_study(open_storage(None, out), out.name, 20, "", 9999).trials
    assert [one.user_attrs.get(STOPPED) for one in trials] == ["stopped"] * 2
