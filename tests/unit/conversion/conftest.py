"""Small artificial networks, and a run of one on scikit-learn's digits."""

from pathlib import Path

import pytest
import torch
from torch import nn

from onespike.training import Run, load_recipe, train

ANN = {
    "data.image_size": 16,
    "data.limit": 200,
    "data.flip": 0,
    "data.crop_padding": 0,
    "model.name": "resmlp12",
    "train.epochs": 1,
    "train.batch_size": 20,
    "train.warmup_epochs": 0,
    "train.mixup": 0,
    "train.device": "cpu",
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def ann_run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Run:
    """A ResMLP after one epoch; nobody changes it."""
    folder = tmp_path_factory.mktemp("runs") / "ann"
    train(load_recipe("digits", {**ANN, "data.cache": str(cache)}), folder)
    return Run(folder)


@pytest.fixture
def convolutional() -> nn.Module:
    """Convolutions, batch norm, a residual addition by a function, pooling of both kinds; activations of both kinds."""
    torch.manual_seed(0)
    network = Convolutional().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.relu = (
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
        )
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8, 5)

    def forward(self, x):
        x = self.pool(self.relu(self.bn1(self.conv1(x))))
        x = torch.relu(x + self.bn2(self.conv2(x)))
        x = nn.functional.max_pool2d(x, 2)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
