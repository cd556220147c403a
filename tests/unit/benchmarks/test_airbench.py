"""`python -m benchmarks.airbench`: when a training knew how many of the test images."""

import csv
import inspect
import json
from pathlib import Path

import pytest

from benchmarks.airbench import GOALS, Clock, airbench, main
from onespike.errors import OnespikeError
from onespike.training.loop import Stopped
from onespike.training.recipe import load_recipe

MODEL = ("--model.depths", "[1,1]", "--model.channels", "[8,8]")
TINY = ("--recipe", "digits", *MODEL, "--data.limit", "64", "--data.holdout", "0")


@pytest.mark.slow
def test_it_trains_to_the_end_and_reads_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.airbench.GOALS", (0, 101))
    out = tmp_path / "found.json"
    assert main([*TINY, "--train.epochs", "2", "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    first, last = found["epochs"]
    assert 0 < first["seconds"] < last["seconds"] == found["seconds"]
    assert found["seconds_to"] == {"0": first["seconds"], "101": None}
    assert last["test_top1"] == found["test_top1"], "the recipe's own test, of the same weights"
    assert found["machine"]["commit"]
    assert found["changed"]["data.limit"] == "64"


def test_the_clock_says_when_a_goal_was_reached_first() -> None:
    clock = Clock()
    clock.epochs = [{"seconds": 10.0 * n, "test_top1": top1} for n, top1 in enumerate((80, 92, 91, 93), 1)]
    assert [clock.seconds_to(goal) for goal in (80, 90, 92, 93, 94)] == [10, 20, 20, 40, None]


def test_its_recipe_reaches_all_goals() -> None:
    with (Path(__file__).parents[3] / "results" / "accuracy.csv").open(newline="") as file:
        reached = {row["setting"]: row["test top-1 %"] for row in csv.DictReader(file) if "cifar10," in row["group"]}
    model = load_recipe(inspect.signature(airbench).parameters["recipe"].default).model
    assert (model.name, model.tied, model.width, model.spacing) == ("spiking-resnet-l", True, 96, 0.7)
    assert float(reached["spiking-resnet-l, tied, wider, spaced"]) > max(GOALS)


def test_a_stop_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Stopped

    monkeypatch.setattr("benchmarks.airbench.train", stop)
    assert main([*TINY, "--json", "-"]) == 130
    assert capsys.readouterr() == ("", "stopped; nothing is kept\n")


@pytest.mark.parametrize("option", ["--train.device", "--train.track"])
def test_what_it_sets_itself_is_no_option(option: str) -> None:
    with pytest.raises(OnespikeError, match=f"^{option}: --device says where it is trained, and nothing is tracked"):
        main([*TINY, option, "auto"])


def test_a_device_that_is_not_there_is_one_line() -> None:
    with pytest.raises(OnespikeError, match="PyTorch finds no mps here; use --device cpu"):
        main([*TINY, "--device", "mps"])
