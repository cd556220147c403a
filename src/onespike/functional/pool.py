"""Max pooling over 2x2 pixels that saves one byte for each window, where PyTorch saves the input and eight bytes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import max_pool2d

from onespike.functional.kernels import channels_last, empty_maps, kernels_for
from onespike.functional.norm_fire import has_kernels


def max_pool(x: Tensor) -> Tensor:
    """Pool (B, C, H, W) to (B, C, H // 2, W // 2), as `max_pool2d` does; by a kernel on a CPU, where `has_kernels`."""
    ours = x.device.type == "cpu" and min(x.shape[-2:]) > 1 and has_kernels(x)
    return _MaxPool.apply(x) if ours else max_pool2d(x, 2)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out, which = largest(x)
        ctx.save_for_backward(which)
        ctx.sides = x.shape[2:]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (which,) = ctx.saved_tensors
        return to_largest(channels_last(gradient), channels_last(which), ctx.sides)


def largest(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each 2x2 pixels' maximum, and its index among the four: (B, C, H, W) to two of (B, C, H // 2, W // 2)."""
    images, channels, *sides = x.shape
    kernels = kernels_for(x.dtype)
    assert kernels  # see has_kernels
    out = empty_maps(x, (images, channels, sides[0] // 2, sides[1] // 2))
    which = torch.empty_like(out, dtype=torch.uint8)
    kernels("pool", x, images, *sides, channels, out, which)
    return out, which


def to_largest(gradient: Tensor, which: Tensor, sides: Sequence[int]) -> Tensor:
    """Gradient of the input, (B, C, H, W) for the sides H, W: the output's at each window's maximum, else 0."""
    kernels, (images, channels) = kernels_for(gradient.dtype), gradient.shape[:2]
    assert kernels
    dx = empty_maps(gradient, (images, channels, *sides))
    if any(side % 2 for side in sides):  # no window covers the last row, or column
        dx.zero_()
    kernels("pool_backward", gradient, which, images, *sides, channels, dx)
    return dx
