from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from onespike.training.run import Run
from reproduce.costs import audit_training, draw_costs, read_costs, write_costs
from reproduce.ledger import COLUMNS, NUMBERS
from reproduce.over_time import EVENTS, TIME
from reproduce.plan import Sweep, Training, plan, resolve
from reproduce.registry import PAPER
from reproduce.report import read_rows
from reproduce.sweep import run_sweep
from tests.running import thorough
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


SWEEPS = thorough([one for one in PAPER.values() if isinstance(one, Sweep)], 4)


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda one: one.name)
def test_every_sweep_runs_as_its_command_calls_it(sweep):
    given = {"train.epochs": sweep.epochs, "data.limit": sweep.limit, "train.precision": sweep.precision}
    assert len(resolve(sweep, given)) == len(sweep.settings)


def test_what_an_audit_found_stands_in_its_own_column(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    planned = resolve(sweep, {"data.limit": 60})
    path, asked = tmp_path / "demo.audit.csv", list[Any]()

    def audit(factor: float) -> Callable[..., SimpleNamespace]:
        totals = {"field": 1e-6 * factor, "int8": 2e-6 * factor, "memory": 3e-6 * factor}
        counts = {"synaptic_operations": 40 * factor, "macs": 50 * factor, "macs_of": {"real": 6 * factor}.get}
        times = [SimpleNamespace(median=0.007 * factor, busy=None if factor == 1 else "others")]
        energy = lambda convention: SimpleNamespace(total=totals[convention])  # noqa: E731
        found = SimpleNamespace(energy=energy, operations=SimpleNamespace(**counts), latency=times)
        return lambda _, **how: asked.append(how) or found

    def row(training: Training, outcome: str = "trained") -> dict[str, Any]:
        numbers = dict.fromkeys(NUMBERS, 50.0 if outcome == "trained" else None)
        given = {"digest": training.digest, "seed": training.seed, "outcome": outcome}
        return dict.fromkeys(COLUMNS, "") | numbers | given

    trainings = plan(planned, 3)
    assert [one.digest for one in trainings[::2]] == [planned[0].digest] * 3
    for factor, training in zip((1.0, 3.0, 100.0), trainings[::2], strict=True):
        monkeypatch.setattr("reproduce.costs.audit_run", audit(factor))
        audit_training(training, Run(tmp_path), path)
    audit_training(trainings[0], Run(tmp_path), path)  # it is there
    assert asked == [{"images": 512, "device": "auto"}] * 3
    found = {"field": 1, "int8": 2, "memory": 3, "synaptic_operations": 40, "macs": 50, "real_macs": 6}
    assert read_costs(path)[trainings[0].key] == pytest.approx(found | {"milliseconds": 7, "busy": 0})

    points: list[Any] = []
    drawn = replace(sweep, settings=sweep.settings[:1], draw=lambda given: points.extend(given) or Figure())
    rows = [row(trainings[0]), row(trainings[2]), row(trainings[4], "diverged")]  # whose audit does not count
    write_costs(drawn, planned[:1], 3, rows, tmp_path)
    [table] = read_rows(tmp_path / "demo.csv")
    columns = {"PFLOP": 50, "ms for one": 14, "field µJ": 2, "memory µJ": 6, "synaptic operations": 80, "MACs": 100}
    assert {name: float(table[name]) for name in columns} == pytest.approx(columns)
    assert "ms the time for a single sample (NOT TO BE TRUSTED: " in (tmp_path / "demo.md").read_text()
    for summed, place in ((("field",), 2), (("synaptic_operations", "real_macs"), 92)):
        [axis] = draw_costs(points, summed).axes
        assert axis.lines[0].get_xydata().tolist() == [[pytest.approx(place), 50]]


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
