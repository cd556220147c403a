"""Exports of runs, gathered in one table."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from onespike.data.config import DataConfig
from onespike.models import model_config
from onespike.training.run import Run
from reproduce import exports
from tests.unit.written_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of a network with maximum pooling of real values, which NIR cannot say."""
    config = model_config("spiking-resnet-xs", width=4)
    return write_run(tmp_path / "small", config, DataConfig(name="digits"), tuple("0123456789"))


def test_proofs_and_refusals(
    run: Run, tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("nir")
    monkeypatch.setattr(exports, "WRITTEN", {"pt2": ("pt2", "fp32"), "nir": ("nir", "fp32")})
    out, work = tmp_path / "out", tmp_path / "work"
    options = ["--runs", run.folder, "--images", 20, "--out", out, "--work", work]
    code, printed, _ = command("exports", *options)
    assert code == 0
    assert f"the table is {out / 'export.md'}\n" in printed
    table = (out / "export.md").read_text()
    assert "| small | pt2 | pt2 | 20 |" in table
    assert "- small, nir: nir: it cannot say max pooling of real values in stem.0.2" in table
    found = json.loads((out / "export-small.json").read_text())["exports"]
    assert found["pt2"]["targets"][0]["images"] == 20
    assert found["pt2"]["targets"][0]["holds"]
    assert found["pt2"]["bytes"] == {"model.pt2": (work / "small" / "pt2" / "model.pt2").stat().st_size}
    assert set(found["nir"]) == {"refused"}
    assert not (work / "small" / "nir").exists()

    before = (work / "small" / "pt2" / "model.pt2").stat().st_mtime_ns
    monkeypatch.setattr(exports, "WRITTEN", {"pt2": ("pt2", "fp32")})
    assert command("exports", *options)[0] == 0
    assert (work / "small" / "pt2" / "model.pt2").stat().st_mtime_ns == before
    assert "cannot say" not in (out / "export.md").read_text()


def test_runs_are_asked_for(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, _, complaint = command("exports", "--out", tmp_path)
    assert code == 2
    assert "exports: expected run folders: --runs RUN RUN" in complaint
