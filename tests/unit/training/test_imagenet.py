"""The recipes for ImageNet: their shapes, and a training on a folder of 100 classes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onespike.training import load_recipe


@pytest.mark.parametrize("name", ["imagenet/fast", "imagenet/best"])
def test_maps_of_28_14_and_7_pixels(name):
    recipe = load_recipe(name)
    network = recipe.model.build(1000, 3, recipe.data.image_size).eval()
    sides = []
    halving = [block for block in network.blocks if block.halves]
    for layer in (network.stem, *halving, network.head):
        layer.register_forward_pre_hook(lambda _, args: sides.append(args[0].shape[-1]))
    with torch.no_grad():
        assert network(torch.rand(1, 3, 224, 224)).shape == (1, 1000)
    assert sides == [224, 28, 14, 7]


@pytest.mark.slow
def test_a_folder_of_a_hundred_classes(command, tmp_path: Path):
    draw = np.random.default_rng(0)
    for part, number in (("train", 2), ("val", 1)):
        for name in range(100):
            folder = tmp_path / "images" / part / f"n{name:08}"
            folder.mkdir(parents=True)
            for image in range(number):
                shape = (*draw.integers(200, 400, 2), 3)
                pixels = draw.integers(0, 256, shape, np.uint8)
                Image.fromarray(pixels).save(folder / f"{image}.JPEG")
    where = ["--data.root", tmp_path / "images", "--data.cache", tmp_path / "cache", "--data.workers", 0]
    small = ["--model.width", 8, "--train.batch_size", 50, "--train.epochs", 1]
    code, _, error = command("train", "--recipe", "imagenet/fast", *where, *small, "--out", tmp_path / "run")
    assert code == 0, error
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test_images"] == 100
