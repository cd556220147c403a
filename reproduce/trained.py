"""Trained networks to look into: a run of the user's, or a small one that is trained on the spot."""

from pathlib import Path
from typing import Any

import torch

from onespike.data.dataset import open_dataset
from onespike.data.loader import EvalLoader, Share
from onespike.errors import OnespikeError
from onespike.evaluation.evaluate import expect_same_images
from onespike.models import OnespikeConfig
from onespike.training.checkpoint import Checkpoint
from onespike.training.loop import complete
from onespike.training.recipe import load_recipe
from onespike.training.run import Run

#: Images in a batch when a trained network is looked into.
BATCH = 64


def open_or_train(folder: Path | None, name: str, overrides: dict[str, Any], work: Path) -> Run:
    """Open the user's run, or else WORK/NAME: a network trained there once, by the recipe "digits" with `overrides`."""
    if folder is not None:
        return Run.open(folder)
    run = Run(work / name)
    complete(load_recipe("digits", overrides), run)
    return run


def describe(checkpoint: Checkpoint, config: OnespikeConfig) -> str:
    """Say which network of spiking blocks, of this config, a checkpoint holds, in words for a table's head."""
    card, epochs = checkpoint.card, checkpoint.state["progress"]["epoch"]
    norm = "batch normalisation" if config.norm == "batch" else "no normalisation"
    return (
        f"{config.name} (unit {config.unit}, {sum(config.depths)} blocks, encoding {config.encoding}, {norm}) on "
        f"{card.data}, after {epochs} epochs"
    )


def expect_images(images: int) -> None:
    """Raise an `OnespikeError` if there is nothing to look at, before anything is trained."""
    if images < 1:
        raise OnespikeError(f"images: expected at least 1, got {images}")


def some_test_images(run: Run, checkpoint: Checkpoint, images: int, device: torch.device | str = "cpu") -> EvalLoader:
    """Batches of some of the test images of a run, spread evenly over the test set; all of them if there are fewer."""
    expect_images(images)
    dataset = open_dataset(run.recipe.data)
    expect_same_images(dataset, checkpoint.card)
    return EvalLoader(dataset.test.spread(images), checkpoint.card.mean, checkpoint.card.std, BATCH, Share(device))
