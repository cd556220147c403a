"""Run folders that look as training leaves them, and a command line that runs in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from onespike.data.config import DataConfig
from onespike.models import model_config
from onespike.training.checkpoint import Checkpoint, ModelCard
from onespike.training.config import TrainConfig
from onespike.training.recipe import Recipe
from onespike.training.run import Run

MakeRun = Callable[..., Run]


#: A complete summary.
SUMMARY = {"test_top1": 0.0, "test_top5": 0.0, "test_loss": 0.0, "test_images": 10, "epochs": 1, "valid_top1": None}
SUMMARY |= {"best_epoch": 1, "seconds": 1.0, "parameters": 1}


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a run on the digits with random weights; `top1` is what its summary says."""

    def make(folder: str = "run", top1: float | None = None, size: int = 32, **overrides: Any) -> Run:
        config = model_config("conv-tiny", channels=(4, 6, 8), depths=(1, 1, 1), **overrides)
        data = DataConfig(cache=str(tmp_path / "cache"))
        run = Run(tmp_path / folder)
        run.begin(Recipe(data, config, TrainConfig(device="cpu")))
        classes = tuple(str(digit) for digit in range(10))
        card = ModelCard(config, classes, 1, size, (0.3,), (0.4,), "digits")
        torch.manual_seed(1)
        Checkpoint(card, card.build().state_dict(), {}, {"progress": {"epoch": 1}}).save(run.best)
        if top1 is not None:
            run.finish(SUMMARY | {"test_top1": top1})
        return run

    return make
