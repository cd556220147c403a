"""Where weights start: the released code's initialisation."""

import math
from collections.abc import Sequence

import torch
from torch import nn

PAPERS_DEPTH = 12


def initialise(network: nn.Module) -> None:
    """Set the weights: convolutions LeCun normal, linear layers Xavier uniform, biases 0, the head 0.

    Args:
        network: A network whose classifier is its attribute `head`; changed in place.
    """
    from timm.layers import lecun_normal_  # half a second

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            lecun_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.zeros_(network.get_parameter("head.weight"))


def calm(branches: Sequence[nn.Linear], depth: int) -> None:
    """Let a network that is deeper than the paper's begin with a stream that is no larger than the paper's.

    Each residual branch adds about 0.4 of the stream's variance, which without normalisation grows exponentially: in
    36 blocks to a deviation of 480, where 12 end with 13. So the last weights of each branch are scaled by
    sqrt(12 / depth), which makes the growth that of 12 blocks.

    Args:
        branches: The last linear layer of each residual branch; changed in place.
        depth: Number of blocks; up to 12 nothing changes.
    """
    if depth <= PAPERS_DEPTH:
        return
    with torch.no_grad():
        for layer in branches:
            layer.weight.mul_(math.sqrt(PAPERS_DEPTH / depth))
