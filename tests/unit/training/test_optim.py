"""Optimisers: the fused ones step as the others do, whatever the weights' layout in memory."""

import pytest
import torch
from torch import nn

from onespike.training.config import TrainConfig
from onespike.training.optim import FUSED, make_optimizer


@pytest.mark.parametrize("name", FUSED)
def test_fused_optimisers_step_as_the_others_do(name: str) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)).to(memory_format=torch.channels_last)
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    theirs.load_state_dict(ours.state_dict())
    fused, other = (make_optimizer(TrainConfig(optimizer=name, lr=0.1), model) for model in (ours, theirs))
    assert all(group["fused"] for group in fused.param_groups)
    for group in other.param_groups:
        group.update(fused=False, foreach=False)
    for _ in range(4):
        images = torch.randn(2, 3, 8, 8)
        for model, optimizer in ((ours, fused), (theirs, other)):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, two)
