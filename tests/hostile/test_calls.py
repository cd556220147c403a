"""Calls from Python with what they do not take: data sets, networks, images, frames and losses of no sense."""

import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

import onespike
from onespike.data import as_dataset
from onespike.errors import OnespikeError
from onespike.models import model_config
from onespike.training.checkpoint import ModelCard
from onespike.training.trainer import expect_loss
from tests.hostile.harness import in_time

ITEMS = {
    "labels below 0": (np.zeros((8, 8), np.uint8), -1),
    "labels without end": (np.zeros((8, 8), np.uint8), 2**62),
    "a million labels": (np.zeros((8, 8), np.uint8), 10**6),
    "labels in parts": (np.zeros((8, 8), np.uint8), 1.5),
    "no labels": (np.zeros((8, 8), np.uint8), None),
    "no pixels": (np.zeros((0, 0), np.uint8), 0),
    "no numbers": (np.full((1, 8, 8), np.nan, np.float32), 0),
    "endless numbers": (np.full((1, 8, 8), np.inf, np.float32), 0),
    "four channels": (np.zeros((8, 8, 4), np.uint8), 0),
    "objects": (np.array([[object()]]), 0),
    "text": ("x", 0),
    "three of them": (np.zeros((8, 8), np.uint8), 0, 1),
    "a mapping": {"image": np.zeros((8, 8), np.uint8), "label": 0},
}


@pytest.mark.parametrize("what", ITEMS)
def test_items_of_data_sets(what):
    with in_time(), pytest.raises(OnespikeError) as caught:
        as_dataset([ITEMS[what]] * 20, name="mine").train[0]
    assert str(caught.value).isprintable()
    assert "mine" in str(caught.value)


@pytest.mark.parametrize("data", [None, 5, "x", (), {}, [], ([],), {"test": []}, iter([])])
def test_what_is_no_data_set(data):
    with pytest.raises(OnespikeError):
        as_dataset(data, name="mine")


@pytest.mark.parametrize(
    "arguments",
    [{"holdout": 2}, {"holdout": math.nan}, {"holdout": "x"}, {"limit": -3}, {"limit": "x"}, {"classes": 5}]
    + [{"image_size": size} for size in (-3, "x", 10**9)],
    ids=str,
)
def test_arguments_of_data_sets(arguments):
    with pytest.raises(OnespikeError, match=next(iter(arguments))):
        as_dataset([(np.zeros((8, 8), np.uint8), one % 2) for one in range(20)], name="mine", **arguments)


@pytest.mark.parametrize("overrides", [[1], {1: 2}, "x", 5], ids=str)
def test_overrides_of_no_sense(overrides):
    with pytest.raises(OnespikeError):
        onespike.load_recipe("digits", overrides)


def test_a_network_without_weights(tmp_path):
    recipe = onespike.load_recipe("digits", {"train.epochs": 1})
    network = nn.Sequential(nn.AdaptiveAvgPool2d((1, 10)), nn.Flatten())
    with pytest.raises(OnespikeError, match="it has no weights"):
        onespike.train(recipe, tmp_path / "out", model=network, quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "code",
    [
        "def __getattr__(name): raise ImportError(name)",
        "1 / 0",
        "x =",
        "raise SystemExit(0)",
        "raise RuntimeError('a\\nb')",
        "import nope",
    ],
)
def test_modules_that_fail(code, refused, tmp_path, monkeypatch):
    sys.modules.pop("fails", None)
    (tmp_path / "fails.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    if "__getattr__" not in code:
        refused("train", "--import", "fails", "--out", tmp_path / "out", words=("--import fails: cannot be imported",))
    network = ("--model.class_path", "fails.Net")
    refused("train", *network, "--out", tmp_path / "out", words=("model.class_path: there is no fails.Net",))


CARD = ModelCard(model_config("spiking-vgg-xs"), ("a", "b"), 1, 8, (0.5,), (0.5,), "digits")
AUDIT = {"images": 1, "weights": 1, "synaptic_operations": 1.0, "firing_rate": 0.1, "joules": {"field": 1e-6}}
SOUND = {"test_top1": 50.0, "test_images": 10, "audit": AUDIT | {"macs": {"dense": 5}}}
PUSHES = {
    "other weights": {"weights": "x"},
    "no card": {"card": "x"},
    "a list": {"results": [1]},
    "no number": {"results": {"a": math.nan}},
    "an object": {"results": {"a": object()}},
    "five times right": {"results": {"test_top1": 500.0, "test_images": 10}},
    "of less than no images": {"results": {"test_top1": 50.0, "test_images": -5}},
    "no audit": {"results": {"audit": 5}},
    "an audit without operations": {"results": {"audit": AUDIT}},
    "text for a number": {"results": SOUND | {"test_top1": "95"}},
    "text in an audit": {"results": SOUND | {"audit": SOUND["audit"] | {"joules": {"field": "1"}}}},
    "an audit of less than no images": {"results": SOUND | {"audit": SOUND["audit"] | {"images": -5}}},
}


@pytest.mark.parametrize("what", PUSHES)
def test_weights_that_travel_with_nonsense(what, tmp_path):
    with pytest.raises(OnespikeError):
        onespike.save_pretrained(nn.Linear(2, 2), tmp_path / "out", **{"card": CARD, **PUSHES[what]})
    assert not (tmp_path / "out").exists()


def test_weights_that_travel_with_sense(tmp_path):
    folder = onespike.save_pretrained(nn.Linear(2, 2), tmp_path / "out", card=CARD, results=SOUND)
    assert "50.00% of 10 test images" in (folder / "README.md").read_text()


def test_weights_that_would_travel_into_a_file(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OnespikeError, match="cannot write"):
        onespike.save_pretrained(nn.Linear(2, 2), tmp_path / "out", card=CARD)


NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
IMAGES = torch.rand(4, 3, 8, 8)
PIXELS = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
EXPORTS = {
    "images of three axes": {"images": IMAGES[0]},
    "no images": {"images": IMAGES[:0]},
    "a list of images": {"images": [1]},
    "no numbers": {"images": IMAGES * math.nan},
    "whole numbers": {"images": IMAGES.long()},
    "other channels": {"images": torch.rand(4, 4, 8, 8)},
    "not square": {"images": torch.rand(4, 3, 8, 9)},
    "a mean of one channel": {"images": PIXELS, "mean": (0.5,)},
    "a deviation of 0": {"images": PIXELS, "std": (0.0,) * 3},
    "a deviation of no number": {"images": PIXELS, "std": (math.nan,) * 3},
    "one class": {"images": IMAGES, "classes": ["a"]},
    "fewer labels": {"images": IMAGES, "labels": torch.zeros(2).long()},
    "labels of no class": {"images": IMAGES, "labels": torch.full((4,), 99)},
    "no format": {"images": IMAGES, "to": []},
    "a number for a format": {"images": IMAGES, "to": 5},
    "an unknown format": {"images": IMAGES, "to": "../x"},
    "unknown weights": {"images": IMAGES, "weights": "x"},
    "a text for a count": {"images": IMAGES, "count": "x"},
    "a count of 0": {"images": IMAGES, "count": 0},
}


@pytest.mark.parametrize("what", EXPORTS)
def test_exports_of_no_sense(what, tmp_path):
    with in_time(), pytest.raises(OnespikeError) as caught:
        onespike.export(NETWORK, tmp_path / "out", **EXPORTS[what])
    assert str(caught.value).isprintable()
    assert not (tmp_path / "out").exists()


CONVERSIONS = {
    "no images": (NETWORK, IMAGES[:0], {}),
    "a list": (NETWORK, [1], {}),
    "no numbers": (NETWORK, IMAGES * math.nan, {}),
    "whole numbers": (NETWORK, IMAGES.long(), {}),
    "other channels": (NETWORK, torch.rand(4, 5, 8, 8), {}),
    "an unknown option": (NETWORK, IMAGES, {"x": 1}),
    "no time steps": (NETWORK, IMAGES, {"time_steps": 0}),
    "no network": (5, IMAGES, {}),
    "nothing to convert": (nn.Identity(), IMAGES, {}),
}


@pytest.mark.parametrize("what", CONVERSIONS)
def test_conversions_of_no_sense(what):
    model, images, options = CONVERSIONS[what]
    with in_time(), pytest.raises(OnespikeError):
        onespike.convert(model, images, **options)


@pytest.mark.parametrize("frame", [None, 3, torch.rand(3), torch.rand(3, 32, 32), torch.rand(1, 5, 32, 32)])
def test_frames_of_no_sense(frame):
    with pytest.raises((OnespikeError, RuntimeError)):
        onespike.stream(onespike.create_model("spiking-vgg-xs"))(frame)


LOSSES = {
    "no tensor": lambda *_: 1.0,
    "nothing": lambda *_: None,
    "a vector": lambda logits, _: logits,
    "a constant": lambda *_: torch.zeros(()),
    "of other arguments": lambda logits: logits.sum(),
}


@pytest.mark.parametrize("what", LOSSES)
def test_losses_of_no_sense(what):
    with pytest.raises(OnespikeError, match="loss"):
        expect_loss(LOSSES[what], torch.rand(4, 10), soft=False)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        RuntimeError("CUDA out of memory."),
    ],
    ids=str,
)
def test_too_little_memory_is_a_line(error, refused, monkeypatch):
    def raises(_: object) -> None:
        raise error

    monkeypatch.setattr("onespike.cli.main.dispatch", raises)
    refused("models", words=("not enough memory",))
