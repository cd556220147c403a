from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """Real handwritten digits, (N, 32, 32, 1)."""
    cache = str(tmp_path_factory.mktemp("cache"))
    test = open_dataset(DataConfig(name="digits", image_size=32, cache=cache)).test
    return test.gather(torch.arange(len(test)).numpy())[0]


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
