"""Weights of 8 bits: whole numbers from -127 to 127, and a scale for each output channel."""

import torch
from torch import Tensor

#: The largest whole number that a weight can be. -128 is left out, so that both signs reach as far.
LARGEST = 127
#: How far from whole numbers times a scale weights may be, of the largest of them, to count as such.
_WHOLE = 1e-9


def to_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round weights to 8 bits: integers = round(w / scale), scale = max |w| / 127 over an output channel.

    It gives whole numbers of the shape (C_out, ...) and type of `weight`, and the scales, (C_out, 1, ...), 1 for a
    channel of zeros. A scale is at least the smallest normal number of that type: a channel of far smaller weights
    becomes zeros. Rounding twice is rounding once: such integers times such a scale come out as the same integers.

    Raises:
        ValueError: A weight is infinite, or no number.
    """
    largest = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
    if not largest.is_meta and not largest.isfinite().all():
        raise ValueError(f"weight: expected finite numbers, got {largest[~largest.isfinite()][0].item()} among them")
    scale = largest / LARGEST
    scale = torch.where(largest > 0, scale.clamp(min=torch.finfo(scale.dtype).tiny), 1.0)
    return (weight / scale).round_(), scale


def find_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Find the integers and scales that weights of 8 bits are, where they may be a part of a layer's, such as a tap.

    The largest weight of a channel is then any of 1..127 times the scale. It gives both in double precision; where no
    scale makes a channel whole, their product is not the weight.
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
