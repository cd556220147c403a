"""What ends from outside: kills, signals, pipes, full disks, two writers, workers that die."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from onespike.cli.main import exit_with
from onespike.training import Run, load_recipe, train
from onespike.training.recipe import dump
from tests.hostile.harness import TINY
from tests.running import PATIENCE, read_rows, wait_until

#: Trainings that are killed, each at a moment of its own: `ONESPIKE_KILLS=50 pytest tests/hostile/test_kills.py`.
KILLS = int(os.environ.get("ONESPIKE_KILLS", 6))
TIMES = ("epoch_seconds", "images_per_second")
#: Trains in children, and kills each: every second one at any moment of its first second, be it before the run begins
#: or before it is resumed, the others some time after a save. Imports once. Arguments: recipe, folder, kills, seed.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from onespike.training import load_recipe, train
recipe, folder, kills = load_recipe(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
draws = random.Random(int(sys.argv[4]))
done, number = 0, 0
def state(run):
    try:
        return (run / "last" / "state.json").stat().st_mtime_ns
    except OSError:
        return 0
while done < kills:
    run = folder / str(number)
    before, child = state(run), os.fork()
    if not child:
        train(recipe, run, resume=(run / "config.yaml").exists(), quiet=True)
        os._exit(0)
    early, ended = done % 2, 0
    end = time.monotonic() + draws.uniform(0, 1) if early else None
    while not ended and not (end and time.monotonic() > end):
        if end is None and state(run) != before:
            end = time.monotonic() + draws.uniform(0, 0.4)
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.002)
    if not ended:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        done += os.WIFSIGNALED(status)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(f"{run} failed, {done} kills after the start")
    number += (run / "summary.json").exists()
for one in range(number + 1):
    run = folder / str(one)
    if run.exists() and not (run / "summary.json").exists():
        train(recipe, run, resume=(run / "config.yaml").exists(), quiet=True)
print(done)
"""


def recipe(**more: object):
    return load_recipe("digits", {**TINY, "data.cache": os.environ["ONESPIKE_CACHE"], **more})


def same_rows(one: Path, other: Path) -> None:
    first, second = (
        [{k: v for k, v in row.items() if k not in TIMES} for row in read_rows(run / "metrics.csv")]
        for run in (one, other)
    )
    assert first == second


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_is_the_same(start, tmp_path):
    values = {"train.save_minutes": 0, "train.epochs": 5, "train.mixup": 0.2, "model.dropout": 0.1}
    chosen = recipe(**values, **{"model.encoding": "bernoulli"})
    train(chosen, tmp_path / "straight", quiet=True)
    (tmp_path / "recipe.yaml").write_text(dump(chosen))
    arguments = [tmp_path / "recipe.yaml", tmp_path / "killed", KILLS, 0]
    killer = start(*arguments, program=[sys.executable, "-c", KILLER])
    printed, error = killer.communicate(timeout=PATIENCE + 20 * KILLS)
    assert killer.returncode == 0, error
    assert int(printed) == KILLS
    for run in sorted((tmp_path / "killed").iterdir()):
        for which in ("best", "last"):
            one, other = (load_file(folder / which / "model.safetensors") for folder in (tmp_path / "straight", run))
            assert one.keys() == other.keys()
            assert all(one[name].equal(other[name]) for name in one)
        same_rows(tmp_path / "straight", run)
        assert not (run / ".lock").exists()


@pytest.mark.slow
def test_of_two_that_resume_one_works_and_the_other_is_told(start, tmp_path):
    (tmp_path / "recipe.yaml").write_text(dump(recipe(**{"train.epochs": 300, "train.save_minutes": 0})))
    first = start("train", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    wait_until((tmp_path / "run" / "last").exists, first)
    for arguments in (("--resume", tmp_path / "run"), ("--resume", tmp_path / "run" / ".." / "run")):
        second = start("train", *arguments)
        out, error = second.communicate(timeout=PATIENCE)
        assert (second.returncode, out) == (2, "")
        assert "being written by process" in error
        assert str(first.pid) in error
        assert error.count("\n") == 1
    for _ in range(30):  # a reader is never given halves of two
        Run.open(tmp_path / "run").checkpoint("last")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = _text(tmp_path / "run" / "last" / "state.json")
    third = start("train", "--resume", tmp_path / "run", "--train.epochs", 400)  # its lock went with it
    wait_until(lambda: _text(tmp_path / "run" / "last" / "state.json") not in ("", before), third)  # it trains
    assert str(third.pid) in _text(tmp_path / "run" / ".lock")
    third.send_signal(signal.SIGHUP)
    assert third.wait(PATIENCE) == 130
    assert "stopped and saved" in third.communicate()[1]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.mark.slow
def test_who_reads_no_further_stops_nothing(run, tmp_path):
    shell = f"{sys.executable} -m onespike evaluate {run} --out {tmp_path / 'out'} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["images"] == 360
    shell = f"{sys.executable} -m onespike train --resume {run} --train.epochs 4 | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stderr == ""
    assert Run.open(run).epochs() == 4


@pytest.mark.slow
@pytest.mark.parametrize("line", ["models", "cite", "--help", "--version", "train --help", "models conv12"])
def test_a_full_disk_behind_the_output(line, start):
    with Path("/dev/full").open("w") as full:
        process = start(*line.split(), stdout=full)
        assert process.communicate(timeout=PATIENCE)[1].startswith("error: the standard output: No space left")
    assert process.returncode == 2
    with Path("/dev/full").open("w") as full:
        process = start("nonsense", stderr=full)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["audit", "conv-tiny", "--images", "2", "--no-latency"], ["models", "conv12"]])
def test_a_terminal_of_ascii(arguments, start):
    process = start(*arguments, env={**os.environ, "PYTHONIOENCODING": "ascii:strict"})
    out, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, error) == (0, "")
    assert out.isascii()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_while_images_are_decoded_leaves_nothing(number, start, tmp_path):
    cache = tmp_path / "cache"
    images = ["--data.cache", cache, "--data.image_size", 900]
    process = start(
        "train",
        "--out",
        tmp_path / "run",
        *images,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_until(lambda: list(cache.glob(".*.new/*.npy")), process)
    process.send_signal(number)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + number, error
    assert error.count("\n") == 1
    assert not list(cache.iterdir())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wait", [0, PATIENCE])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_in_a_destructor_is_not_lost(number, wait):
    class Late:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def work(_: object) -> int:
        late = [Late()]
        late.clear()
        time.sleep(wait)
        return 0

    with pytest.raises(SystemExit) as ended:
        exit_with(work, [])
    assert ended.value.code == 128 + number


def test_under_nohup_a_hangup_ends_no_command():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with pytest.raises(SystemExit) as ended:
            exit_with(lambda _: signal.raise_signal(signal.SIGHUP) or 0, [])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended.value.code == 0


@pytest.mark.slow
def test_a_backend_that_matplotlib_does_not_know(start, tmp_path):
    environment = {**os.environ, "MPLBACKEND": "nonsense"}
    process = start("train", "--out", tmp_path / "run", "--data.limit", 60, "--train.epochs", 1, env=environment)
    _, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, error) == (0, "")
    assert (tmp_path / "run" / "curves.png").exists()
    for module in ("reproduce", "benchmarks"):
        help_of = [sys.executable, "-m", module, "--help"]
        done = subprocess.run(help_of, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_workers_without_shared_memory(tmp_path):
    small = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/dev/shm"]
    forms = ("-m", "-rm") if shutil.which("unshare") else ()  # root may; others may where they can be root in a space
    mounts = (one for one in forms if not subprocess.run(["unshare", one, *small], capture_output=True).returncode)
    if (own := next(mounts, None)) is None:
        pytest.skip("no rights to mount")
    options = (
        "--data.auto_augment original --data.workers 2 --data.image_size 64 --train.batch_size 128 --train.epochs 1"
    )
    line = f"{sys.executable} -m onespike train --out {tmp_path / 'run'} {options} --model.channels [4,4,4]"
    shell = ["bash", "-c", f"{' '.join(small)} && exec {line}"]
    done = subprocess.run(["unshare", own, *shell], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 1
