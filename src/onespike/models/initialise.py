"""Initial weights, as in the released code."""

import math
from collections.abc import Sequence

import torch
from torch import nn

PAPERS_DEPTH = 12


def initialise(network: nn.Module) -> None:
    """Set the weights: convolutions LeCun normal, linear layers Xavier uniform, biases and the layer `head` 0."""
    from timm.layers import lecun_normal_  # the import takes half a second

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            lecun_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.zeros_(network.get_parameter("head.weight"))


@torch.no_grad()
def scale_branches(branch_ends: Sequence[nn.Linear], depth: int) -> None:
    """Scale the last layer of each residual branch by sqrt(12 / depth) in a network of more than 12 blocks.

    Each branch adds about 0.4 of the residual stream's variance, so without normalisation the stream grows
    exponentially: to a standard deviation of 13 in 12 blocks, of 480 in 36. Scaled, it grows as in 12 blocks.
    """
    for layer in branch_ends if depth > PAPERS_DEPTH else ():
        layer.weight.mul_(math.sqrt(PAPERS_DEPTH / depth))
