"""Weights of 8 bits: whole numbers from -127 to 127, and a scale for each output channel."""

import torch
from torch import Tensor

#: The largest whole number that a weight can be. -128 is left out, so that both signs reach as far.
LARGEST = 127


def to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights to 8 bits: integers = round(w / scale), scale = max |w| / 127 over an output channel.

    It gives whole numbers of the shape (C_out, ...) and type of `weight`, and the scales, (C_out, 1, ...), 1 for a
    channel of zeros. Rounding twice is rounding once: such integers times such a scale come out as the same integers.
    """
    largest = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
    scale = torch.where(largest > 0, largest / LARGEST, 1.0)
    return (weight / scale).round_(), scale
