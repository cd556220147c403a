"""A folder has one writer, who is named."""

import os

import pytest

from onespike.errors import OnespikeError
from onespike.lock import LOCK, held


def test_a_writer_names_itself(tmp_path):
    with held(tmp_path / "run"):
        assert f"process {os.getpid()} on " in (tmp_path / "run" / LOCK).read_text()
        with (
            pytest.raises(OnespikeError, match=f"is being written by process {os.getpid()}, this one"),
            held(tmp_path / "run"),
        ):
            pass
    assert not (tmp_path / "run").exists()


def test_a_writer_that_ends_just_now_is_another_process(tmp_path, monkeypatch):
    def lock(_path):
        raise BlockingIOError

    monkeypatch.setattr("onespike.lock._lock", lock)
    with pytest.raises(OnespikeError, match="is being written by another process: wait for it"), held(tmp_path):
        pass
