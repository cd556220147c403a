"""Exports of runs, gathered in one table."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from onespike.data.config import DataConfig
from onespike.models import model_config
from onespike.training.checkpoint import Checkpoint, ModelCard
from onespike.training.config import TrainConfig
from onespike.training.recipe import Recipe
from onespike.training.run import Run
from reproduce import exports


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of a network with maximum pooling of real values, which NIR cannot say."""
    config = model_config("spiking-resnet-xs", width=4)
    run = Run(tmp_path / "small")
    run.begin(Recipe(DataConfig(name="digits"), config, TrainConfig(device="cpu")))
    card = ModelCard(config, tuple("0123456789"), 1, 32, (0.3,), (0.35,), "digits")
    torch.manual_seed(0)
    network = card.build().train()
    network(torch.randn(8, 1, 32, 32))
    nn.init.normal_(network.head.weight)
    Checkpoint(card, network.state_dict(), {}, {"progress": {"epoch": 1}}).save(run.best)
    return run


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
