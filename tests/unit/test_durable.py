"""A folder has one writer, and what is written is on the disk before its name is."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from onespike.durable import held, write_folder, write_whole
from onespike.errors import OnespikeError

HOLD = "import sys, pathlib, onespike.durable as d\nwith d.held(pathlib.Path(sys.argv[1])): pass"


def test_a_second_hold_is_refused_and_leaves_the_lock_to_the_first(tmp_path: Path):
    folder, link = tmp_path / "run", tmp_path / "link"
    link.symlink_to(folder)
    with held(folder):
        for name in (folder, link):
            with pytest.raises(OnespikeError, match=r"is being written by process \d+, this one"), held(name):
                pass
        other = subprocess.run([sys.executable, "-c", HOLD, folder], capture_output=True, text=True, check=False)
        assert "is being written by process" in other.stderr
    subprocess.run([sys.executable, "-c", HOLD, folder], check=True)


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is flushed to the disk and what is renamed, in order; a file only once it holds something."""
    done: list[str] = []

    def fsync(descriptor: int) -> None:
        flushed = os.fstat(descriptor)
        (path,) = [one for one in (tmp_path, *tmp_path.rglob("*")) if os.path.samestat(one.stat(), flushed)]
        assert path.is_dir() or path.read_text() == "new"
        done.append(f"flush {'the folder' if path == tmp_path else path.name}")

    def noting(move: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        return lambda path, target: done.append(f"rename {path.name}") or move(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    for verb in ("rename", "replace"):
        monkeypatch.setattr(Path, verb, noting(getattr(Path, verb)))
    return done


def test_a_file_is_on_the_disk_before_its_name_is(done, tmp_path):
    write_whole(tmp_path / "x", "new")
    assert done == ["flush .x.new", "rename .x.new", "flush the folder"]


def test_a_folder_and_all_files_in_it_are_on_the_disk_before_its_name_is(done, tmp_path):
    for earlier in ([], ["rename x"]):
        done.clear()
        write_folder(tmp_path / "x", {"a": b"new", "b": b"new"})
        assert sorted(done[:2]) == ["flush a", "flush b"]
        assert done[2:] == ["flush .x.new", *earlier, "rename .x.new", "flush the folder"]
