"""Initial weights, as in the released code."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

PAPERS_DEPTH = 12
#: The standard deviation of a standard normal distribution that is cut at 2 standard deviations.
CUT_AT_TWO = 0.87962566103423978


def initialise(network: nn.Module) -> None:
    """Set the weights: convolutions LeCun normal, linear layers Xavier uniform, biases and the layer `head` 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            _lecun_normal(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.zeros_(network.get_parameter("head.weight"))


@torch.no_grad()
def _lecun_normal(weight: Tensor) -> None:
    """Draw from a normal distribution that is cut at 2 standard deviations, so that the variance is 1 / inputs.

    The draws are those of timm's `lecun_normal_`, whose import takes as long as all else that evaluation imports;
    PyTorch's `trunc_normal_` draws otherwise from version to version.
    """
    if weight.is_meta:  # a shape without values; PyTorch would import its compiler to know it
        return
    share = math.erf(math.sqrt(2))  # of a normal distribution, within 2 standard deviations
    weight.uniform_(-share, share).erfinv_().mul_(math.sqrt(2)).clamp_(-2, 2)
    weight.mul_(math.sqrt(1 / weight[0].numel()) / CUT_AT_TWO)


@torch.no_grad()
def scale_branches(branch_ends: Sequence[nn.Linear], depth: int) -> None:
    """Scale the last layer of each residual branch by sqrt(12 / depth) in a network of more than 12 blocks.

    Each branch adds about 0.4 of the residual stream's variance, so without normalisation the stream grows
    exponentially: to a standard deviation of 13 in 12 blocks, of 480 in 36. Scaled, it grows as in 12 blocks.
    """
    for layer in branch_ends if depth > PAPERS_DEPTH else ():
        layer.weight.mul_(math.sqrt(PAPERS_DEPTH / depth))
