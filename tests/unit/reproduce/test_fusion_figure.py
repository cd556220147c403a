import math
from pathlib import Path

import pytest
from tiny import SMALL

from onespike.functional import FUSIONS
from onespike.training import load_recipe, train
from reproduce import fusion as module
from reproduce.fusion import Firing, measure
from reproduce.report import read_rows
from reproduce.table1 import volume


def test_the_plane_over_activates_half_of_the_square():
    plane = measure("sum", 0.5, 0.5)
    assert plane.over_activated == pytest.approx(50, abs=0.2)
    assert (plane.suppressed, plane.added) == (0, 0)
    assert plane.grad_d == pytest.approx(0, abs=1e-9)


def test_sinsum_by_hand():
    # sin(pi/4 (X + Y)) > 1/2 where X + Y > 2/3: of the unit square of (X, Y) / th the triangle above 4/3
    found = measure("sinsum", 0.5, 0.5)
    assert found.over_activated == pytest.approx(100 * (2 - 4 / 3) ** 2 / 2, abs=0.3)
    assert found.added == 0
    assert found.over_activated + found.suppressed == pytest.approx(50, abs=0.3)


def test_sincos_adds_over_activation_that_the_plane_does_not_have():
    found = measure("sincos", 0.5, 0.5)
    start = math.asin(0.25) * 4 / math.pi  # on the axis Y = 0 it exceeds th from here on, the plane never
    assert start < 0.5
    assert found.added > 5
    assert found.grad_d == pytest.approx(volume(0.5) - 3 * 0.5**3, abs=1e-5)


def test_mean_and_none_never_over_activate():
    assert measure("mean", 0.5, 0.5).over_activated == measure("none", 0.5, 0.5).over_activated == 0


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["conv", "lstm"])
def test_firing_rates_of_a_run(unit: str, command, tmp_path: Path):
    run = tmp_path / "run"
    summary = train(load_recipe("digits", {**SMALL, "model.unit": unit}), run)
    command("cite")  # forgets what training printed
    code, _, complaints = command("fusion", "--run", run, "--images", 360, "--out", "results")
    assert (code, complaints) == (0, "")
    rows = {row["fusion"]: row for row in read_rows(tmp_path / "results" / "fusion.csv")}
    assert set(rows) == set(FUSIONS)
    # The fusion it was trained with is in its place: all test images give what the test at the end of training gave.
    assert float(rows["sincos"]["top-1 %"]) == pytest.approx(summary["test_top1"])
    rates = {kind: float(row["firing rate"]) for kind, row in rows.items()}
    for kind, row in rows.items():
        assert float(row["against the plane"]) == pytest.approx(rates[kind] / rates["sum"] - 1)
    rates = {kind: float(row["block 2"]) for kind, row in rows.items()}
    assert len(set(rates.values())) > 2
    text = (tmp_path / "results" / "fusion.md").read_text()
    assert "on 360 test images" in text
    assert str(tmp_path) not in text


@pytest.mark.slow
def test_without_a_run_a_small_network_is_trained_once(command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(module, "SMALL", SMALL)
    assert command("fusion", "--images", 8)[0] == 0
    summary = tmp_path / "runs" / "paper" / "fusion-digits" / "summary.json"
    written = summary.stat().st_mtime_ns
    assert command("fusion", "--images", 8)[0] == 0
    assert summary.stat().st_mtime_ns == written


def test_bad_input(command, tmp_path: Path):
    code, _, complaints = command("fusion", "--run", tmp_path)
    assert (code, complaints.count("\n")) == (2, 1)
    assert "is not a run" in complaints
    train(load_recipe("digits", {**SMALL, "model.unit": "rnn", "model.fusion": "none"}), tmp_path / "run")
    command("cite")
    code, _, complaints = command("fusion", "--run", tmp_path / "run")
    assert (code, complaints.count("\n")) == (2, 1)
    assert "trained with fusion none" in complaints
    code, _, complaints = command("fusion", "--run", tmp_path / "run", "--images", 0)
    assert (code, "images: expected at least 1" in complaints) == (2, True)


def test_every_neuron_counts_once():
    assert Firing(1, 0.0, [0.5, 0.1], [10, 30]).rate == pytest.approx((5 + 3) / 40)
