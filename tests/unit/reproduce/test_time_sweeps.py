from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onespike.training.run import Run
from reproduce.over_time import EVENTS, TIME
from reproduce.plan import Sweep, resolve
from reproduce.registry import PAPER
from reproduce.report import read_rows
from reproduce.sweep import run_sweep
from tests.unit.data.recordings import events


def test_what_is_compared():
    found = {(one.setting.group, one.setting.label): one.recipe for one in resolve(EVENTS, {"train.epochs": 20})}
    for steps in (1, 2, 4, 8):
        recipe = found["frames, same epochs", f"T = {steps}"]
        assert (recipe.data.frames, recipe.model.time_steps, recipe.train.epochs) == (steps, steps, 20)
        if steps > 1:
            longer = found["one frame, cost of T", f"of T = {steps}"]
            assert (longer.model.time_steps, longer.train.epochs) == (1, 20 * steps)
    shown = [one.recipe for one in resolve(TIME, {})]
    assert {one.model.time_steps * one.train.epochs for one in shown[:5]} == {8}
    assert all(one.model.name == "spiking-resnet-s" for one in shown)
    assert all(one.train.warmup_epochs == one.train.epochs / 10 for one in shown)


@pytest.mark.parametrize("sweep", [one for one in PAPER.values() if isinstance(one, Sweep)], ids=lambda one: one.name)
def test_every_sweep_runs_as_its_command_calls_it(sweep):
    given = {"train.epochs": sweep.epochs, "data.limit": sweep.limit, "train.precision": sweep.precision}
    assert len(resolve(sweep, given)) == len(sweep.settings)


@pytest.mark.slow
def test_a_row_says_accuracy_latency_and_energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onespike.audit.latency._SECONDS", 0.05)
    for part in ("train", "test"):
        for label in "ab":
            folder = tmp_path / "data" / part / label
            folder.mkdir(parents=True)
            for number in range(8):
                np.save(folder / f"{number}.npy", events(50, 16, number))
    overrides = {
        "data.name": "events-folder",
        "data.root": str(tmp_path / "data"),
        "data.cache": str(tmp_path / "cache"),
        "data.sensor": [16, 16],
        "data.workers": 0,
        "model.width": 4,
        "train.batch_size": 8,
        "train.epochs": 1,
        "train.device": "cpu",
    }
    sweep = replace(EVENTS, settings=[EVENTS.settings[0], EVENTS.settings[1]])
    run_sweep(sweep, overrides, 1, tmp_path / "out", tmp_path / "work")
    one, two = read_rows(tmp_path / "out" / "events.csv")
    assert (one["T"], two["T"]) == ("1", "2")
    assert float(two["MACs"]) == pytest.approx(2 * float(one["MACs"]))
    assert float(two["PFLOP"]) == pytest.approx(2 * float(one["PFLOP"]))
    assert float(one["ms for one"]) > 0
    (run,) = (Run.open(path) for path in (tmp_path / "work").rglob("*T---1*") if (path / "config.yaml").is_file())
    assert f"{run.summary['test_top1']:.2f}" == f"{float(one['test top-1 %']):.2f}"
    written = (tmp_path / "out" / "events.md").read_text()
    assert "T is the number of time steps" in written
    assert "2 of 2 runs are done. Trained on " in written
