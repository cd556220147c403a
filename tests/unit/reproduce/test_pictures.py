import csv
from pathlib import Path

import pytest

from onespike.errors import OnespikeError
from reproduce.pictures import DECAY, METHOD, RESULTS, accuracy_flops, pictures, potentials, read_points, step_shares

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_every_picture_is_drawn_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ONESPIKE_CACHE", str(tmp_path / "cache"))
    pictures(tmp_path, ROOT / "results")
    drawn = {path.stem: path.stat().st_size for path in tmp_path.glob("*.png")}
    assert drawn.keys() == METHOD.keys() | RESULTS.keys()
    assert all(5_000 < size < 200_000 for size in drawn.values())
    committed = {path.name for path in (ROOT / "docs" / "pictures").glob("*.png")}
    assert {f"{name}.png" for name in drawn} == committed
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert [name for name in committed if f"](pictures/{name})" not in pages] == []


def test_potentials_are_the_equation():
    left, right = potentials().axes
    currents = [bar.get_height() for bar in left.patches]
    passed = [bar.get_height() for bar in right.patches[4:]]
    potential = 0.0
    for current, share in zip(currents, passed, strict=True):
        assert share == pytest.approx(DECAY * potential, abs=1e-6), "the first window receives nothing"
        potential = current + share
    words = [text.get_text() for text in right.texts]
    assert words == ["spike" if i + p > 0.5 else "silent" for i, p in zip(currents, passed, strict=True)]
    assert {"spike", "silent"} == set(words)


def test_names_in_the_picture_of_accuracy_meet_neither_each_other_nor_a_point():
    figure = accuracy_flops(ROOT / "results")
    figure.draw_without_rendering()
    (axis,) = figure.axes
    boxes = [text.get_window_extent() for text in axis.texts]
    dots = [axis.transData.transform(dot.get_offsets())[0] for dot in axis.collections]
    assert len(boxes) == len(dots) > 10
    for number, box in enumerate(boxes):
        assert box.count_overlaps(boxes[number + 1 :]) == 0, axis.texts[number]
        assert not any(box.contains(*dot) for dot in dots), axis.texts[number]
        assert axis.bbox.x0 <= box.x0 < box.x1 <= axis.bbox.x1, axis.texts[number]


def test_a_row_without_a_result_is_left_out_and_a_twin_is_called_by_its_network(tmp_path: Path):
    group = "cifar10, 0.4 PFLOP"
    rows = [[group, "a, full size", 0.5, 80.0], [group, "its ReLU twin, full size", 0.5, 85.0], [group, "b", "", ""]]
    rows.append(["cifar100, 0.4 PFLOP", "a", 0.5, 50.0])
    with (tmp_path / "accuracy.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["group", "setting", "PFLOP", "test top-1 %"], *rows])
    expected = [("a, full size", 0.5, 80.0), ("a's ReLU twin, full size", 0.5, 85.0)]
    assert read_points(tmp_path / "accuracy.csv") == expected


def test_a_table_that_is_none_is_one_line(tmp_path: Path):
    (tmp_path / "accuracy.csv").write_text("a,b\n1,2\n")
    with pytest.raises(OnespikeError, match="expected a table with the columns PFLOP and test top-1 %"):
        accuracy_flops(tmp_path)
    (tmp_path / "profile-step.csv").write_text("a,b\n1,2\n")
    with pytest.raises(OnespikeError, match=r"expected a table of benchmarks/profile_step.py"):
        step_shares(tmp_path)
