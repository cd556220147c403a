"""A training so small that a trial takes a second, and a class of one's own for it."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

TINY = {
    "data.limit": 60,
    "data.holdout": 0.3,
    "model.depths": "[1,1]",
    "model.channels": "[4,8]",
    "train.epochs": 1,
    "train.batch_size": 10,
    "train.warmup_epochs": 0,
    "train.track": "[]",
    "train.device": "cpu",
}


class Net(nn.Module):
    """A network whose options have no types."""

    def __init__(self, widths=(4, 8), bias=True, num_classes=10):
        super().__init__()
        assert isinstance(bias, bool)
        first, second = widths
        self.body = nn.Sequential(nn.Linear(32 * 32, first, bias=bias), nn.ReLU(), nn.Linear(first, second))
        self.head = nn.Linear(second, num_classes)

    def forward(self, x):
        return self.head(self.body(x.flatten(1)))


class Viewed(nn.Module):
    """A view of maps behind a convolution: those that lie channels-last have none such."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 8, 8), nn.Linear(4 * 4 * 4, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).view(x.size(0), -1))


class Folds(TensorDataset):
    """Images of which an argument chooses the held-out ones, and another how bright they are."""

    classes = tuple("0123456789")

    def __init__(self, split="train", fold=0, gain=1.0):
        count = {"train": 40, "val": 20, "test": 10}[split]
        images = gain * torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(count))
        super().__init__(images, torch.arange(count).add(fold if split == "val" else 0) % 10)
