"""What is known of a run before its first step, and where one may begin."""

import subprocess
import sys
from pathlib import Path

import pytest

from onespike.training import run
from onespike.training.run import Run, environment


def test_what_an_installation_left_behind_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "left-1.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(run, "WATCHED", ("pillow", "no-such-package"))
    assert environment()["packages"] == {"pillow": run.version("pillow"), "no-such-package": None}


def test_the_commit_is_of_the_package_not_of_a_folder_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / ".venv" / "run.py"
    file.parent.mkdir()
    file.write_text("")
    (tmp_path / "theirs").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x"]
    for command in (["init", "-q"], ["add", "theirs"], ["commit", "-qm", "theirs"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(run, "__file__", str(file))
    assert environment()["commit"] is None
    subprocess.run([*git, "add", "."], check=True)
    assert environment()["commit"].endswith("-dirty")


def test_a_run_may_begin_where_one_was_killed_while_it_wrote_its_first_checkpoint(tmp_path: Path):
    (tmp_path / ".last.new").mkdir()
    Run(tmp_path).expect_free()
