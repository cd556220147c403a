from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
from onespike.models import model_config
from onespike.training.run import Run
from tests.unit.written_run import write_run

#: The results of `run`.
SUMMARY = {"test_top1": 90.0, "test_top5": 99.0, "test_loss": 0.4, "test_images": 360, "epochs": 1, "valid_top1": 91.0}
SUMMARY |= {"best_epoch": 1, "seconds": 1.0, "parameters": 1000}


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """Real handwritten digits, (N, 32, 32, 1)."""
    cache = str(tmp_path_factory.mktemp("cache"))
    test = open_dataset(DataConfig(name="digits", image_size=32, cache=cache)).test
    return test.gather(torch.arange(len(test)).numpy())[0]


@pytest.fixture
def photographs(shared_data: Path, tmp_path: Path) -> Tensor:
    """Photographs of CIFAR-10, (1000, 32, 32, 3)."""
    config = DataConfig(name="cifar10", root=str(shared_data / "cifar10"), cache=str(tmp_path / "cache"))
    return open_dataset(config).test.gather(torch.arange(1000).numpy())[0]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A complete run of a strict network with random weights, on digits."""
    data = DataConfig(name="digits", cache=str(tmp_path / "cache"), image_size=32)
    run = write_run(tmp_path / "run", model_config("spiking-vgg-xs", width=4), data, tuple("0123456789"))
    run.finish(SUMMARY)
    return run


@pytest.fixture
def settled() -> Callable[[nn.Module, Tensor], nn.Module]:
    """Give a fresh network the statistics of images, and norms and thresholds that differ from channel to channel."""

    def settle(network: nn.Module, images: Tensor) -> nn.Module:
        torch.manual_seed(1)
        network.train()
        for _ in range(3):
            with torch.no_grad():
                network(images[torch.randperm(len(images))[:32]])
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                nn.init.normal_(module.weight, 0.8, 0.5)  # some of them negative
                nn.init.normal_(module.bias, 0, 0.4)
            if isinstance(module, nn.PReLU):
                nn.init.normal_(module.weight, 0, 0.4)
        if hasattr(network, "head"):
            nn.init.normal_(network.head.weight)
        return network.eval()

    return settle
