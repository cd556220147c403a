import csv
from pathlib import Path

import pytest

from onespike.errors import OnespikeError
from reproduce.pictures import (
    METHOD,
    RESULTS,
    accuracy_energy,
    accuracy_peers,
    pictures,
    potentials,
    read_points,
    step_shares,
)

ROOT = Path(__file__).parents[3]


def test_every_picture_is_drawn_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ONESPIKE_CACHE", str(tmp_path / "cache"))
    pictures(tmp_path, ROOT / "results")
    drawn = {path.stem: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert drawn.keys() == METHOD.keys() | RESULTS.keys()
    assert all(5_000 < size < 200_000 for size in drawn.values())
    committed = {path.stem for path in (ROOT / "docs" / "pictures").glob("*.png")}
    assert drawn.keys() <= committed


def test_potentials_are_the_equation():
    left, right = potentials().axes
    currents = [bar.get_height() for bar in left.patches]
    handed = [bar.get_height() for bar in right.patches[4:]]
    words = [text.get_text() for text in right.texts]
    assert words == ["spike" if i + h > 0.5 else "silent" for i, h in zip(currents, handed, strict=True)]
    assert {"spike", "silent"} == set(words)


def test_a_row_without_a_result_is_left_out(tmp_path: Path):
    group = "cifar10, 0.4 PFLOP"
    rows = [[group, "a", 0.5, 80.0, 1.5], [group, "SpikingJelly, T = 1", 0.5, 70.0, ""], [group, "pending", "", "", ""]]
    rows.append(["cifar100, 0.4 PFLOP", "a", 0.5, 50.0, 9.9])
    with (tmp_path / "accuracy.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["group", "setting", "PFLOP", "test top-1 %", "std"], *rows])
    assert read_points(tmp_path / "accuracy.csv", "PFLOP", "test top-1 %", "cifar10,") == [
        ("a", 0.5, 80.0),
        ("SpikingJelly, T = 1", 0.5, 70.0),
    ]
    axis = accuracy_peers(tmp_path).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["SpikingJelly, T = 1", "a"]
    assert [bars.get_segments()[0][:, 0].tolist() for bars in axis.collections if bars.get_segments()] == [[78.5, 81.5]]


def test_a_table_that_is_none_is_one_line(tmp_path: Path):
    (tmp_path / "accuracy.csv").write_text("a,b\n1,2\n")
    with pytest.raises(OnespikeError, match="expected a table with the columns PFLOP and test top-1 %"):
        accuracy_peers(tmp_path)
    (tmp_path / "profile-step.csv").write_text("a,b\n1,2\n")
    with pytest.raises(OnespikeError, match=r"expected a table of benchmarks/profile_step.py"):
        step_shares(tmp_path)


def test_a_network_without_time_steps_is_drawn_as_an_artificial_one(tmp_path: Path):
    rows = ["artificial network,0,10,70", "staircase network,0,20,71", "converted,1,30,72"]
    table = "\n".join(['network,T,"µJ, field",top-1 %', *rows])
    (tmp_path / "conversion-mine-cifar10.csv").write_text(table, encoding="utf-8")
    artificial, spiking = (one.get_offsets().data.tolist() for one in accuracy_energy(tmp_path).axes[0].collections)
    assert (artificial, spiking) == ([[10, 70], [20, 71]], [[30, 72]])
