"""The result's numbers and files."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from onespike import OnespikeError
from onespike.evaluation import Evaluation
from onespike.evaluation.drawing import draw_confusion, save_figure
from onespike.evaluation.evaluate import Confusion, Spread


@pytest.fixture
def result() -> Evaluation:
    return Evaluation(
        data="pets",
        part="test",
        test_set="0a1b",
        checkpoint="best",
        epochs=7,
        time_steps=4,
        precision="bf16",
        classes=("cat", "dog, small", "$emu_"),
        images=10,
        passes=2,
        deterministic=False,
        loss=Spread(0.5, 0.1),
        top1=Spread(70.0, 2.5),
        top5=Spread(100.0, 0.0),
        confusion=torch.tensor([[8, 1, 1], [4, 6, 0], [0, 0, 0]]),
    )


def test_spread():
    assert Spread.over([3.0]) == (3.0, None)
    assert Spread.over([1.0, 3.0]) == pytest.approx((2.0, 2**0.5))


def test_numbers(result: Evaluation):
    assert result.per_class == {"cat": 80.0, "dog, small": 60.0, "$emu_": None}
    assert result.most_confused(2) == [
        Confusion("dog, small", "cat", 4, 40.0),
        Confusion("cat", "dog, small", 1, 10.0),  # equal to the next one: the order of the classes decides
    ]
    assert [one.images for one in result.most_confused(9)] == [4, 1, 1]


def test_files(result: Evaluation, tmp_path: Path):
    folder = tmp_path / "new" / "folder"
    result.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "confusion.csv",
        "confusion.png",
        "evaluation.json",
        "per_class.csv",
    ]
    with (folder / "confusion.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["true class", "cat", "dog, small", "$emu_"],
            ["cat", "8", "1", "1"],
            ["dog, small", "4", "6", "0"],
            ["$emu_", "0", "0", "0"],
        ]
    with (folder / "per_class.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["class", "images", "correct", "accuracy"],
            ["cat", "10", "8", "80.0"],
            ["dog, small", "10", "6", "60.0"],
            ["$emu_", "0", "0", ""],
        ]
    content = json.loads((folder / "evaluation.json").read_text())
    assert content["top1"] == {"mean": 70.0, "std": 2.5}
    assert content["per_class"]["$emu_"] is None
    assert content["most_confused"][0] == {"truth": "dog, small", "guess": "cat", "images": 4, "share": 40.0}
    keys = ("data", "part", "checkpoint", "epochs", "time_steps", "precision", "images", "passes")
    assert {key: content[key] for key in keys} == {
        "data": "pets",
        "part": "test",
        "checkpoint": "best",
        "epochs": 7,
        "time_steps": 4,
        "precision": "bf16",
        "images": 10,
        "passes": 2,
    }


@pytest.mark.parametrize(("count", "least"), [(2, 120), (10, 250), (30, 375), (300, 1000)])
def test_the_picture_grows_with_the_classes(count: int, least: int, tmp_path: Path):
    confusion = torch.eye(count, dtype=torch.long) * 9
    confusion[0, 1] = 1
    names = [f"a class with a long name, {number}" for number in range(count)]
    save_figure(draw_confusion(confusion, names, "a title"), tmp_path / "a.png", dpi=50)
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert least < picture.width < 1800
        assert least < picture.height < 1800


def test_each_class_has_colours_by_its_own_share():
    axis = draw_confusion(torch.tensor([[90, 10], [1, 3]]), ("a", "b"), "t").axes[0]
    right, wrong = (image.get_array() for image in axis.images)
    assert right.filled(-1).tolist() == [[90, -1], [-1, 75]]
    assert wrong.filled(-1).tolist() == [[-1, 10], [25, -1]]
    assert [text.get_text() for text in axis.texts] == ["90", "10", "25", "75"]
    assert axis.images[1].norm.vmax == 25  # the confusions' own scale: the diagonal does not drown them


def test_a_class_that_is_never_right_has_a_number_and_one_without_images_has_none():
    axis = draw_confusion(torch.tensor([[0, 4, 0], [0, 3, 0], [0, 0, 0]]), ("a", "b", "c"), "t").axes[0]
    assert [text.get_text() for text in axis.texts] == ["0", "100", "100"]


def test_a_single_mistake_is_no_dark_red():
    wrong = draw_confusion(torch.tensor([[99, 1], [0, 100]]), ("a", "b"), "t").axes[0].images[1]
    assert 0.1 < wrong.norm(1.0) < 0.3


def test_no_confusion_at_all_and_names_no_font_has(tmp_path: Path):
    figure = draw_confusion(torch.eye(2, dtype=torch.long), ("猫", "犬"), "t")
    save_figure(figure, tmp_path / "a.png", dpi=50)


def test_what_cannot_be_written(result: Evaluation, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OnespikeError, match=r"cannot write .*/file/evaluation\.json"):
        result.save(tmp_path / "file")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OnespikeError, match="cannot write"):
        save_figure(draw_confusion(result.confusion, result.classes, "t"), tmp_path / "a.png", dpi=50)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "file"]  # nothing half-written
