"""A folder has one writer, who is named."""

import fcntl
import os
import subprocess
import sys

import pytest

from onespike.errors import OnespikeError
from onespike.lock import LOCK, _lock, held
from tests.running import raising

HOLD = "import sys, pathlib, onespike.lock as d\nwith d.held(pathlib.Path(sys.argv[1])): pass"


def test_a_second_hold_is_refused_and_leaves_the_lock_to_the_first(tmp_path):
    folder, link = tmp_path / "new" / "run", tmp_path / "link"
    link.symlink_to(folder)
    with held(folder):
        for name in (folder, link):
            with pytest.raises(OnespikeError, match=f"by process {os.getpid()}, this one"), held(name):
                pass
        other = subprocess.run([sys.executable, "-c", HOLD, folder], capture_output=True, text=True, check=False)
        assert f"is being written by process {os.getpid()} on " in other.stderr
    assert not folder.parent.exists(), "nor is a folder left that was made for it"
    subprocess.run([sys.executable, "-c", HOLD, folder], check=True)


def test_what_a_killed_writer_left_is_no_part_of_the_next_ones_name(tmp_path):
    (tmp_path / LOCK).write_text("x" * 200)
    with held(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on ")
        assert "x" * 100 not in (tmp_path / LOCK).read_text()


def test_a_writer_that_ends_just_now_is_another_process(tmp_path, monkeypatch):
    monkeypatch.setattr("onespike.lock._lock", raising(BlockingIOError))
    with pytest.raises(OnespikeError, match="is being written by another process: wait for it"), held(tmp_path):
        pass


@pytest.mark.parametrize("again", [False, True])
def test_a_lock_file_that_its_owner_has_just_removed_is_not_taken(again, tmp_path, monkeypatch):
    path, lock, locked = tmp_path / LOCK, fcntl.lockf, []

    def removing(file, how):
        locked.append(file)
        if len(locked) == 1:
            path.unlink()
            if again:  # by another process, which holds it now
                path.touch()
        lock(file, how)

    monkeypatch.setattr(fcntl, "lockf", removing)
    with _lock(path) as file:
        assert os.path.samestat(os.fstat(file.fileno()), path.stat())
    assert len(locked) == 2
