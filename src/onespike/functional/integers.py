"""Weights of 8 bits: whole numbers from -127 to 127, and a scale for each output channel."""

import torch
from torch import Tensor

from onespike.tensors import wide

#: The largest whole number that a weight can be. -128 is left out, so that both signs reach as far.
LARGEST = 127
#: Largest distance from whole numbers times a scale, relative to the largest weight, that still counts as exact.
_WHOLE = 1e-9


def to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights to 8 bits: integers = round(w / scale), scale = max |w| / 127 over an output channel.

    Returns the integers, in the shape (C_out, ...) and dtype of `weight`, and the scales, (C_out, 1, ...), in float32
    at least. A channel of zeros has the scale 1. A scale is at least the smallest normal number of the weights' dtype,
    so a channel of far smaller weights becomes zeros. Rounding twice equals rounding once: integers times their scale,
    in the weights' dtype, come out as the same integers.

    Raises:
        ValueError: A weight is infinite or NaN, or the shape has no axis behind the output channels, or an empty one.
    """
    if weight.ndim < 2 or not weight.shape[1:].numel():
        raise ValueError(f"weight: expected (C_out, ...) with weights of each channel, got {tuple(weight.shape)}")
    largest = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
    if not largest.is_meta and not largest.isfinite().all():
        raise ValueError(f"weight: expected finite numbers, got {largest[~largest.isfinite()][0].item()} among them")
    scale = wide(largest) / LARGEST  # in bfloat16 the largest weight could be 127.5 of them
    scale = torch.where(largest > 0, scale.clamp(min=torch.finfo(weight.dtype).tiny), 1.0)
    return (weight / scale).round_().to(weight.dtype), scale


def find_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Recover the integers and scales of 8-bit weights, even from a part of a layer's weights, such as one tap.

    In a part, the largest weight of a channel may be any of 1..127 times the scale. Returns both in double precision.
    Where no scale makes a channel's weights whole, integers times scale is not the weight.
    """
    weight = weight.double()
    integers, scale = to_integers(weight)
    largest = LARGEST * scale
    for peak in range(LARGEST - 1, 0, -1):
        miss = ((integers * scale - weight).abs() / largest).flatten(1).amax(1) > _WHOLE
        if not miss.any():
            break
        scale[miss] = largest[miss] / peak
        integers[miss] = (weight[miss] / scale[miss]).round()
    return integers, scale
