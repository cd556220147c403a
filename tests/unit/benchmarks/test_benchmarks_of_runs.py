"""`python -m benchmarks.calibration` and `python -m benchmarks.compare_runs`."""

from pathlib import Path

import pytest

from benchmarks.calibration import CHOICES, calibration
from benchmarks.compare_runs import compare_runs
from onespike.classpath import ClassPath, allow_imports
from onespike.data.config import DataConfig
from onespike.errors import OnespikeError
from tests.unit.written_run import write_run


def test_a_network_of_the_users_is_calibrated_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_imports("tests.unit.search.trial")
    name = "percentile, none"
    monkeypatch.setattr("benchmarks.calibration.CHOICES", {name: CHOICES[name]})
    write_run(tmp_path / "run", ClassPath("tests.unit.search.trial.Net"), DataConfig("digits"), tuple("0123456789"))
    assert calibration(tmp_path / "run", [1], 20, 20, tmp_path) == 0
    assert "Net with its own activations on digits" in (tmp_path / "calibration-Net.md").read_text()


def test_a_note_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    note = tmp_path / "note.md"
    note.write_bytes(b"\xff")
    for file in (note, tmp_path / "absent.md"):
        with pytest.raises(OnespikeError, match=f"--note {file}: expected a file of text"):
            compare_runs([], out=tmp_path, note=file)
