"""What a result was computed with is told, whatever lies around the package."""

import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from onespike import __version__
from onespike import environment as module
from onespike.environment import environment


def test_what_an_installation_left_behind_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "left-1.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(module, "WATCHED", ("pillow", "no-such-package"))
    assert environment()["packages"] == {
        "pillow": module.version("pillow"),
        "no-such-package": None,
        "torch": str(torch.__version__),  # with the build: +cpu, +cu132
    }


def test_command_versions_and_threads_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    expected = {"command": sys.argv, "onespike": __version__, "python": platform.python_version()}
    expected |= {"cores": os.cpu_count(), "threads": 77}
    assert environment() == environment() | expected


def test_the_commit_is_of_the_package_not_of_a_folder_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / ".venv" / "environment.py"
    file.parent.mkdir()
    file.write_text("")
    (tmp_path / "theirs").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    for command in (["init", "-q"], ["add", "theirs"], ["commit", "-qm", "theirs"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(module, "__file__", str(file))
    assert module.commit.__wrapped__() is None
    subprocess.run([*git, "add", "."], check=True)
    assert module.commit.__wrapped__().endswith("-dirty")


@pytest.mark.parametrize("package", ["benchmarks", "reproduce"])
def test_the_commit_is_that_of_the_code_that_was_loaded(package: str, monkeypatch: pytest.MonkeyPatch):
    """Whatever is committed, or written into the tree, while a process computes for hours."""
    module.commit.cache_clear()
    importlib.reload(importlib.import_module(package))
    assert module.commit.cache_info().currsize == 1
    loaded = module.commit()
    monkeypatch.setattr(module.subprocess, "run", None)
    assert environment()["commit"] == loaded
