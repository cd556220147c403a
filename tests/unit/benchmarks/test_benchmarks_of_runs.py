"""Benchmarks of trained networks: calibration, runs side by side, our conversion beside SpikingJelly's."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.calibration import CHOICES, calibration
from benchmarks.compare_runs import compare_runs
from benchmarks.conversion_vs_spikingjelly import OURS, SETTINGS, report
from onespike.classpath import ClassPath, allow_imports
from onespike.data.config import DataConfig
from onespike.errors import OnespikeError
from onespike.training import Run, load_recipe
from tests.running import read_rows
from tests.unit.written_run import write_run


def test_a_network_of_the_users_is_calibrated_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allow_imports("tests.unit.search.trial")
    name = "percentile, none"
    monkeypatch.setattr("benchmarks.calibration.CHOICES", {name: CHOICES[name]})
    write_run(tmp_path / "run", ClassPath("tests.unit.search.trial.Net"), DataConfig("digits"), tuple("0123456789"))
    assert calibration(tmp_path / "run", [1], 20, 20, tmp_path) == 0
    assert "Net with its own activations on digits" in (tmp_path / "calibration-Net.md").read_text()


def test_a_row_tells_of_a_run_what_its_files_say(tmp_path: Path) -> None:
    changes = {"train.lr": 0.125, "train.seed": 3, "train.warmup_epochs": 0.5, "train.batch_size": 6, "train.epochs": 2}
    changes |= {"data.cutout": 5, "train.mixup": 0.2, "train.precision": "bf16", "train.device": "cpu"}
    run = Run(tmp_path / "mine")
    run.begin(load_recipe("digits", changes))
    summary = {"test_top1": 90.0, "test_top5": 99.0, "valid_top1": 91.0, "test_loss": 1.0, "seconds": 999.0}
    summary |= {"images_per_second": 40.0, "epochs": 2, "best_epoch": 1, "test_images": 10, "parameters": 1}
    (run.folder / "metrics.csv").write_text("epoch,pflop,epoch_seconds,valid_top1\n1,1,60,80\n2,3,180,91\n")
    run.finish(summary)
    facts = json.loads((run.folder / "environment.json").read_text())
    assert compare_runs([run.folder], out=tmp_path) == 0
    [found] = read_rows(tmp_path / "runs.csv")
    expected = {"test top-1 %": 90, "test top-5 %": 99, "held out %": 91, "minutes": 3, "by the clock": 4, "epochs": 2}
    expected |= {"images/s": 40, "lr": 0.125, "warm-up": 0.5, "batch": 6, "seed": 3}
    assert {name: float(found[name]) for name in expected} == expected
    assert (found["run"], found["optimiser"], found["commit"]) == ("mine", run.recipe.train.optimizer, facts["commit"])
    assert found["augmentation"] == f"crop {run.recipe.data.crop_padding}, flip, Cutout 5, Mixup 0.2"
    assert found["machine"] == f"{facts['processor']}, {facts['threads']} threads, bf16"
    assert compare_runs([], tmp_path / "runs.csv", tmp_path, "again") == 0
    assert read_rows(tmp_path / "again.csv") == [found]


@pytest.mark.parametrize(("right", "verdict"), [(100, "ahead"), (81, "indistinguishable"), (20, "behind")])
def test_ours_is_compared_with_the_best_of_spikingjellys_settings(right: int, verdict: str, tmp_path: Path) -> None:
    def answers(count: int) -> torch.Tensor:
        return torch.arange(100) < count

    hits = {name: {2: answers(60)} for name in (*SETTINGS, *OURS)} | {"artificial": {0: answers(90)}}
    hits |= {"ours": {2: answers(right)}, "spikingjelly 99.9%": {2: answers(80)}}
    report(hits, [2], {"commit": "c", "processor": "p", "threads": 1}, tmp_path / "found.csv")
    [found] = read_rows(tmp_path / "found.csv")
    expected = [2, 90, 60, 80, right, right - 80, 100]
    names = ("time_steps", "artificial", "spikingjelly", "spikingjelly 99.9%", "ours", "ahead", "images")
    assert [float(found[name]) for name in names] == expected
    assert float(found["low"]) <= float(found["ahead"]) <= float(found["high"])
    assert found["verdict"] == verdict


def test_a_note_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    note = tmp_path / "note.md"
    note.write_bytes(b"\xff")
    for file in (note, tmp_path / "absent.md"):
        with pytest.raises(OnespikeError, match=f"--note {file}: expected a file of text"):
            compare_runs([], out=tmp_path, note=file)
