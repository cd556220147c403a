import csv
import json
from pathlib import Path

import pytest

from onespike.errors import OnespikeError
from onespike.evaluation.evaluate import evaluate
from onespike.paper.conversion import conversion
from onespike.training import Run, load_recipe, train

ANN = {
    "data.image_size": 16,
    "data.limit": 200,
    "data.flip": 0,
    "model.name": "resmlp12",
    "train.epochs": 1,
    "train.batch_size": 20,
    "train.warmup_epochs": 0,
    "train.mixup": 0,
}


@pytest.fixture(scope="module")
def ann(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ann"
    train(load_recipe("digits", ANN), folder)
    return folder


def test_the_network_and_its_conversions_stand_side_by_side(ann: Path, tmp_path: Path):
    conversion(ann, time_steps=(1, 2), images=64, out=tmp_path / "results", work=tmp_path / "work")
    text = (tmp_path / "results" / "conversion.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [(row["network"], row["T"]) for row in rows] == [
        ("artificial network", "0"),
        ("converted", "1"),
        ("converted", "2"),
    ]
    for row, folder in zip(rows, [ann, *(tmp_path / "work/conversion" / f"ann-T{t}" for t in (1, 2))], strict=True):
        assert float(row["top-1 %"]) == pytest.approx(evaluate(Run(folder)).top1.mean)
        assert float(row["from"]) < float(row["top-1 %"]) < float(row["to"])
        assert float(row["ms an image"]) > 0
    energies = [float(row["µJ, field"]) for row in rows[1:]]
    assert energies[0] < energies[1], "twice the time steps take more"
    assert (tmp_path / "results" / "conversion.png").stat().st_size > 1000


def test_called_again_it_makes_nothing_anew(ann: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arguments = {"time_steps": (1,), "images": 64, "out": tmp_path / "results", "work": tmp_path / "work"}
    conversion(ann, **arguments)
    kept = json.loads((tmp_path / "work/conversion/ann-T1/conversion-outcome.json").read_text())

    def never(*_arguments, **_options):
        raise AssertionError("made anew")

    for name in ("convert_run", "evaluate", "audit_run"):
        monkeypatch.setattr(f"onespike.paper.conversion.{name}", never)
    conversion(ann, **arguments)
    assert f"{kept['top1']:.2f}" in (tmp_path / "results" / "conversion.md").read_text()


def test_a_spiking_run_is_refused(tmp_path: Path):
    train(load_recipe("digits", {"data.limit": 100, "train.epochs": 1, "train.warmup_epochs": 0}), tmp_path / "run")
    with pytest.raises(OnespikeError, match="expected a run of an artificial network"):
        conversion(tmp_path / "run", out=tmp_path / "results", work=tmp_path / "work")
    assert not (tmp_path / "results").exists()
