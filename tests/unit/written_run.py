"""A run as it is after training, of a network that fires, without the training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onespike.data.config import DataConfig
from onespike.models import ModelConfig
from onespike.training.checkpoint import Checkpoint, ModelCard
from onespike.training.config import TrainConfig
from onespike.training.recipe import Recipe
from onespike.training.run import Run


def write_run(
    folder: Path,
    config: ModelConfig,
    data: DataConfig,
    classes: tuple[str, ...],
    channels: int = 1,
    side: int = 32,
    settle: Callable[[Any], object] | None = None,
) -> Run:
    """Write it; without `settle`, the network has the statistics of noise, and classes that differ."""
    run = Run(folder)
    run.begin(Recipe(data, config, TrainConfig(batch_size=4, device="cpu")))
    card = ModelCard(config, classes, channels, side, (0.3,) * channels, (0.35,) * channels, data.name)
    torch.manual_seed(0)
    network = card.build().train()
    if settle:
        settle(network)
    else:
        network(torch.randn(32, channels, side, side))
        nn.init.normal_(network.head.weight)
    Checkpoint(card, network.state_dict(), {}, {"progress": {"epoch": 1}}).save(run.best)
    return run
