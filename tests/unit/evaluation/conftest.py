"""Run folders that look as training leaves them, and a small folder of images, made in a moment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from noise import TEST_IMAGES, write_images

from onespike.data.config import DataConfig
from onespike.models import model_config
from onespike.training.checkpoint import Checkpoint, ModelCard
from onespike.training.config import TrainConfig
from onespike.training.recipe import Recipe
from onespike.training.run import Run

MakeRun = Callable[..., Run]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/ and test/: grey noise of 16x16 pixels."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "train", dict.fromkeys(TEST_IMAGES, 2), seed=0)
    write_images(folder / "test", TEST_IMAGES, seed=1)
    return folder


@pytest.fixture
def data(images: Path, tmp_path: Path) -> DataConfig:
    return DataConfig(name="folder", root=str(images), cache=str(tmp_path / "cache"), holdout=0.5)


@pytest.fixture
def make_run(tmp_path: Path, data: DataConfig) -> MakeRun:
    """Make a run with random weights, the head's included, so that the guesses differ."""

    def make(
        classes: tuple[str, ...] = tuple(TEST_IMAGES),
        size: int = 16,
        channels: int = 1,
        folder: str = "run",
        channels_of_stages: tuple[int, ...] = (4, 8, 12),
        **overrides: Any,
    ) -> Run:
        config = model_config("conv-tiny", channels=channels_of_stages, **overrides)
        train = TrainConfig(batch_size=8, device="cpu", seed=3)
        run = Run(tmp_path / folder)
        run.begin(Recipe(data, config, train))
        card = ModelCard(config, classes, channels, size, (0.4,) * channels, (0.3,) * channels, "folder")
        for which, epoch in (("best", 1), ("last", 2)):
            torch.manual_seed(epoch)
            network = card.build()
            torch.nn.init.normal_(network.head.weight, std=0.5)
            Checkpoint(card, network.state_dict(), {}, {"progress": {"epoch": epoch}}).save(run.folder / which)
        return run

    return make
