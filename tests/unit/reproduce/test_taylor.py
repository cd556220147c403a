from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SMALL

from onespike.training import load_recipe, train
from reproduce import taylor as module
from reproduce.potentials import Potentials, analyse, size
from reproduce.report import read_rows
from tests.running import thorough

RECURRENT = {**SMALL, "model.unit": "gru", "model.depths": [2, 2]}


def of(above: torch.Tensor, here: torch.Tensor) -> Potentials:
    return Potentials(2, here, above, torch.randn(here.shape, dtype=here.dtype), 0.0)


def test_a_potential_that_is_a_sum_of_both_directions_has_no_mixed_difference():
    torch.manual_seed(0)
    windows, here, above = torch.randn(4, 1).double(), torch.randn(1, 50).double(), torch.randn(1, 50).double()
    found = analyse(of(above + windows, here + windows), 0.4)
    assert found.mixed == pytest.approx(0, abs=1e-12)
    assert found.error_without_alpha == pytest.approx(0, abs=1e-12)
    assert found.best_alpha == pytest.approx(1)
    assert found.error > 0.05


def test_unrelated_potentials():
    torch.manual_seed(0)
    found = analyse(of(torch.randn(4, 20000).double(), torch.randn(4, 20000).double()), 0.4)
    assert found.mixed == pytest.approx(2, rel=0.02)
    assert found.mixed == pytest.approx(found.expected, rel=0.02)
    assert found.down == pytest.approx(2**0.5, rel=0.02)


def test_differences_by_hand():
    above = torch.tensor([[1.0], [2.0], [4.0], [8.0]]).double()
    here = torch.tensor([[3.0], [5.0], [6.0], [1.0]]).double()
    seen = of(above, here)
    found = analyse(seen, 0.5)
    down, across = [3.0, 2.0, -7.0], [2.0, 1.0, -5.0]
    mixed = [1.0, -1.0, -9.0]
    for name, values in (("down", down), ("across", across), ("mixed", mixed)):
        assert getattr(found, name) == pytest.approx(size(torch.tensor(values)))
    eq4 = torch.tensor([5.0, 3.0, -12.0])
    eq5 = torch.tensor([5 - 0.5, 6 - 1.0, 1 - 2.0])
    assert found.error == pytest.approx(size(eq4 - eq5) / size(eq4))
    current = seen.current[1:].flatten()
    assert found.correlation == pytest.approx(np.corrcoef(eq5, current)[0, 1])
    assert found.plain_correlation == pytest.approx(np.corrcoef(here[1:, 0], current)[0, 1])
    # here - eq4 = -down - across + here is to be alpha times the corner: 1, 2, 4
    assert found.best_alpha == pytest.approx((0 * 1 + 3 * 2 + 13 * 4) / (1 + 4 + 16))


def test_a_run(command, tmp_path: Path):
    train(load_recipe("digits", RECURRENT), tmp_path / "run")
    command("cite")  # forgets what training printed
    code, _, complaints = command("taylor", "--run", tmp_path / "run", "--out", "results", "--images", 20)
    assert (code, complaints) == (0, "")
    rows = read_rows(tmp_path / "results" / "taylor.csv")
    assert [row["block"] for row in rows] == ["2", "4"]  # 1 and 3 have no block before them in their stage
    for row in rows:
        # What was recorded obeys the network's own recursion.
        assert float(row["recursion, largest error"]) < 1e-12
        assert float(row["mixed"]) > 0
    assert (tmp_path / "results" / "taylor.png").is_file()
    assert str(tmp_path) not in (tmp_path / "results" / "taylor.md").read_text()


@pytest.mark.slow
def test_without_a_run_a_small_network_is_trained(command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(module, "SMALL", RECURRENT)
    assert command("taylor", "--images", 8)[0] == 0
    assert (tmp_path / "results" / "taylor.md").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    thorough(
        [
            ({}, "is no RNN-SNN"),
            ({"model.unit": "rnn", "model.fusion": "none"}, "is no RNN-SNN"),
            ({"model.unit": "rnn", "model.time_steps": 2}, "expected one time step"),
            ({"model.unit": "rnn"}, "no block follows another one"),
        ],
        1,
    ),
)
def test_another_kind_of_run(overrides, message, command, tmp_path: Path):
    train(load_recipe("digits", {**SMALL, **overrides}), tmp_path / "run")
    command("cite")
    code, _, complaints = command("taylor", "--run", tmp_path / "run")
    assert (code, complaints.count("\n")) == (2, 1)
    assert message in complaints
    assert not (tmp_path / "results").exists()
