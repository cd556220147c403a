"""The page of a search: what its pictures and its table hold."""

from pathlib import Path

import optuna
import pytest
from matplotlib.axes import Axes
from optuna.distributions import CategoricalDistribution, FloatDistribution

from onespike.search import drawing, report
from onespike.search.report import best_of, importances, write_report
from onespike.search.study import Tried
from tests.running import read_rows

RATES, SIZES = FloatDistribution(0.01, 1.0, log=True), CategoricalDistribution(["small", "large"])
FACTS = {"folder": "trial-000", "seconds": 1.5, "epoch": 3, "pflop": 0.1}
FOUND = [
    Tried(0, "trained", {"train.lr": 0.1, "model.size": "large"}, 60.0, 2.0, FACTS, best=True),
    Tried(1, "refused: too large", {"train.lr": 0.2, "model.size": "small"}, None, None, {}, best=False),
    Tried(2, "trained", {"train.lr": 0.3, "model.size": "small"}, 50.0, 4.0, FACTS, best=False),
    Tried(3, "pruned", {"train.lr": 0.4, "model.size": "large"}, 20.0, None, FACTS, best=False),
    Tried(4, "trained", {"train.lr": 0.5, "model.size": "small"}, 70.0, 3.0, FACTS, best=True),
]


def points(axis: Axes) -> dict[str, list[tuple[float, float]]]:
    """What is drawn under each label."""
    return {str(line.get_label()): [tuple(one) for one in line.get_xydata().tolist()] for line in axis.lines}


def test_the_history_is_accuracy_by_trial_and_the_best_so_far():
    (axis,) = drawing.draw_history(FOUND).axes
    found = points(axis)
    assert found["trained"] == [(0, 60), (2, 50), (4, 70)]
    assert found["pruned: its last epoch"] == [(3, 20)]
    assert found["best so far"] == [(0, 60), (2, 60), (4, 70)]


def test_the_front_is_accuracy_over_energy():
    (axis,) = drawing.draw_front(FOUND, "field").axes
    assert points(axis)["trial"] == [(4, 50)]
    assert points(axis)["front"] == [(2, 60), (3, 70)]
    assert {one.get_text(): one.xy for one in axis.texts} == {"0": (2, 60), "4": (3, 70)}


@pytest.fixture
def study() -> optuna.Study:
    """Accuracy depends on the rate alone, energy on the size alone."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    for number in range(16):
        size = ("small", "large")[number // 2 % 2]
        values = {"train.lr": 0.02 + 0.06 * number, "model.size": size}
        energy = {"small": 1.0, "large": 5.0}[size] + 0.001 * number
        distributions = {"train.lr": RATES, "model.size": SIZES}
        study.add_trial(optuna.create_trial(values=[number, energy], params=values, distributions=distributions))
    return study


def test_slices_are_results_over_the_values_of_each_option(study):
    figure = drawing.draw_slices(FOUND, study, "field")
    seen = {
        (axis.get_title(), number // 2): [tuple(one) for one in axis.collections[0].get_offsets().tolist()]
        for number, axis in enumerate(figure.axes)
    }
    assert seen == {
        ("train.lr", 0): [(0.1, 60), (0.3, 50), (0.5, 70)],
        ("model.size", 0): [(1, 60), (0, 50), (0, 70)],
        ("train.lr", 1): [(0.1, 2), (0.3, 4), (0.5, 3)],
        ("model.size", 1): [(1, 2), (0, 4), (0, 3)],
    }
    rings = [axis.collections[1].get_offsets().tolist() for axis in figure.axes]
    assert rings[0] == [[0.1, 60], [0.5, 70]], "the best"
    assert [axis.get_xscale() for axis in figure.axes[:2]] == ["log", "linear"]


def test_each_objective_has_importances_of_its_own(study):
    shares = importances(study, "field")
    assert shares["accuracy"]["train.lr"] > 0.8
    assert shares["energy"]["model.size"] > 0.8
    (axis,) = drawing.draw_importances(shares).axes
    names, bars = [one.get_text() for one in axis.get_yticklabels()], axis.containers
    assert [bar.get_width() for bar in bars[1]] == [shares["energy"][name] for name in names]
    study.add_trial(optuna.create_trial(values=[1.0, 1.0], params={"train.lr": 0.1}, distributions={"train.lr": RATES}))
    assert importances(study, "field") == {}, "trials with other options cannot be compared"


def test_the_table_has_a_row_for_each_trial_and_the_page_the_best_first(tmp_path: Path, study, monkeypatch):
    monkeypatch.setattr(report, "_image", lambda _, about: f"[{about}]")
    monkeypatch.setattr(report, "importances", lambda *_: {"accuracy": {"train.lr": 0.9}, "energy": {"train.lr": 0.1}})
    write_report(tmp_path, FOUND, ["--recipe", "digits"], "field", study)
    first, second, *_ = read_rows(tmp_path / "search.csv")
    assert list(first.values()) == ["0", "trained", "60.0", "2.0", "best", "0.1", "large", "3", "1.5", "trial-000"]
    assert (second["outcome"], second["best"], second["held out %"]) == ("refused: too large", "", "")
    page = (tmp_path / "search.html").read_text()
    assert [one.number for one in best_of(FOUND)] == [4, 0]
    assert page.index("--train.lr 0.5 --model.size small") < page.index("--train.lr 0.1 --model.size large")
    assert "Trials: 3 trained, 1 refused, 1 pruned." in page
    for about in ("Accuracy against energy", "Accuracy of each trial", "Accuracy by value", "Importances"):
        assert f"[{about}]" in page
