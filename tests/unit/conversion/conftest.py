"""Small artificial networks, and a run of one on scikit-learn's digits."""

from pathlib import Path

import pytest
import torch
from torch import nn

from onespike.training import Run, load_recipe, train
from tests.forward import Forward

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
def ann_run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Run:
    """A ResMLP after one epoch; nobody changes it."""
    folder = tmp_path_factory.mktemp("runs") / "ann"
    train(load_recipe("digits", {**ANN, "data.cache": str(cache)}), folder)
    return Run(folder)


@pytest.fixture
def convolutional() -> nn.Module:
    """Convolutions, batch norm, a residual addition by a function, pooling of both kinds; activations of both kinds."""

    def forward(net, x):
        x = net.pool(net.relu(net.bn1(net.conv1(x))))
        x = torch.relu(x + net.bn2(net.conv2(x)))
        x = nn.functional.max_pool2d(x, 2)
        return net.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

    torch.manual_seed(0)
    first = {
        "conv1": nn.Conv2d(3, 8, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(8),
        "relu": nn.ReLU(inplace=True),
    }
    second = {"conv2": nn.Conv2d(8, 8, 3, padding=1, bias=False), "bn2": nn.BatchNorm2d(8)}
    network = Forward(forward, **first, **second, pool=nn.MaxPool2d(2), head=nn.Linear(8, 5)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
