"""What does not suit a training is refused in one line, before anything is written."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onespike
from onespike import OnespikeError


class Scaled(nn.Module):
    """A loss with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits * self.scale, labels)


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": nn.Sequential(nn.Flatten(), nn.LazyLinear(10))}, "model: it has layers without a shape yet"),
        ({"model": 3}, "model: expected a torch.nn.Module, got a int"),
        ({"model": plain(), "callbacks": [3]}, "callbacks: expected onespike.Callback, got a int"),
        (
            {"model": plain(), "loss": nn.CrossEntropyLoss(reduction="none")},
            r"loss: expected a tensor of one number for logits \(2, 10\) and labels \(2,\), got shape \(2,\)",
        ),
        (
            {"model": plain(), "loss": lambda logits, labels: F.cross_entropy(logits[:1], labels)},
            r"loss: it does not take logits \(2, 10\) and labels \(2,\)",
        ),
        ({"model": plain(), "loss": Scaled()}, "loss: its weight scale would not be trained: put it into the model"),
    ],
)
def test_parts_that_do_not_suit(given: dict[str, Any], message: str, tmp_path: Path):
    recipe = onespike.load_recipe("digits", {"train.epochs": 1, "data.limit": 100})
    with pytest.raises(OnespikeError, match=message):
        onespike.train(recipe, tmp_path / "run", quiet=True, **given)
    assert not (tmp_path / "run").exists()
