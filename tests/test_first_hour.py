"""The README's first hour: it is short, its code runs, and its commands do, one after the other."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onespike.demo.runtime import runtime
from onespike.errors import OnespikeError
from tests.unit.data.layouts import write_binary

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "README.md").read_text()
LINES: list[str] = re.findall(r"^ {4}(\w.*)$", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL), re.MULTILINE)
COMMANDS = [words for line in LINES if (words := shlex.split(line, comments=True))[0] != "make"]
#: What makes a command short enough for a test, and keeps it from the network and from a browser.
SHORT = {
    "train": ["--train.epochs", "1", "--train.batch_size", "20", "--train.warmup_epochs", "0"],
    "convert": ["--images", "64", "--train.epochs", "1", "--train.batch_size", "20"],
    "demo": ["--no-serve", "--out", "page", "--images", "20"],
    "export": ["--images", "20"],
    "audit": ["--images", "20"],
    "check-spikes": [],
}
DATA = {"cifar10/fast": ["--model.width", "4", "--data.root", "cifar"], "digits": ["--data.limit", "100"]}


def test_it_is_short_and_begins_with_two_commands():
    assert len(PAGE.splitlines()) < 150
    assert [shlex.split(line, comments=True) for line in LINES[:2]] == [["make", "train"], ["make", "test"]]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([\w-]+)", PAGE)) <= targets
    trained = [words for words in COMMANDS if words[:2] == ["onespike", "train"] and "cifar10" in " ".join(words)]
    assert trained[0] == ["onespike", "train", "--recipe", "cifar10/fast"]


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_an_environment_that_could_not_be_made_does_not_count_as_made(tmp_path: Path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n[ $1 = -m ] || exit 0\nmkdir -p .venv/bin\ntouch .venv/bin/python\nexit 1\n")
    python.chmod(0o755)
    (tmp_path / "pyproject.toml").touch()
    command = ["make", "-f", str(ROOT / "Makefile"), "PYTHON=./python", "train"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 2
    assert not (tmp_path / ".venv/bin/python").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_python_code_of_readme_and_of_the_page_about_own_networks_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONESPIKE_CACHE", str(tmp_path / "cache"))
    own = (ROOT / "docs" / "own-network.md").read_text()
    (first,), blocks = (re.findall(r"```python\n(.*?)```", text, re.DOTALL) for text in (PAGE, own))
    assert first == blocks[0]
    scope: dict[str, Any] = {}
    exec(compile("\n".join(blocks), "own-network.md", "exec"), scope)
    assert set(scope["guesses"]) <= set("0123456789")
    assert scope["logits"].shape == (8, 10)
    assert scope["features"].shape == (8, 16, 12, 12)
    assert scope["conversion"].network(scope["images"]).equal(scope["network"](scope["images"]))
    assert scope["run"].summary == scope["summary"]
    assert (tmp_path / "runs" / "mine" / "summary.json").exists()


def why_no_runtime() -> str:
    """Why the demo's runtime for browsers is neither in the cache nor can be fetched; empty if it is there."""
    try:
        runtime()
    except OnespikeError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_its_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]):
    pytest.importorskip("onnxruntime", reason="the README exports: pip install 'onespike[export]'")
    draw = np.random.default_rng(0)
    content = {
        part: (draw.integers(0, 256, (size, 32, 32, 3), np.uint8), np.arange(size) % 10)
        for part, size in (("train", 100), ("test", 20))
    }
    write_binary(tmp_path / "cifar", "cifar10", content)
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)

    def run(words: list[str], out: Path) -> None:
        more = SHORT[words[0]]  # a command that is new in the README needs an entry
        if words[0] == "train":
            more = [*more, *DATA[words[words.index("--recipe") + 1]]]
            more += [] if "--out" in words else ["--out", str(out)]
        code, printed, complaint = command(*[word.replace("FOLDER", "cifar") for word in words], *more)
        assert code == 0, printed + complaint

    for number, (program, *words) in enumerate(COMMANDS):
        assert program in ("gcc", "onespike")
        if program == "gcc":
            subprocess.run([program, *words], check=True)
        elif words[0] != "demo":
            run(words, Path("runs", str(number)))
    image = np.zeros((32, 32), np.uint8)
    image[4:28, 14:18] = 255
    done = subprocess.run(["./classify"], input=image.tobytes(), capture_output=True, check=True)
    assert done.stdout.decode().strip() in set("0123456789")
    made = {path.relative_to(tmp_path).as_posix() for folder in (".", "runs") for path in (tmp_path / folder).iterdir()}
    assert made >= {"report.html", "classify", "runs/digits", "runs/snn", "runs/snn-finetuned", "runs/exported"}
    if missing := why_no_runtime():
        pytest.skip(f"all but the demo ran: {missing}")
    (demo,) = [words for _, *words in COMMANDS if words[0] == "demo"]
    run(demo, Path("page"))
    assert Path("page").is_dir()
