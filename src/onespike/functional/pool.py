"""Max pooling over 2x2 pixels that keeps a byte for each window, where PyTorch keeps the input and eight."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from onespike.functional.kernels import kernels_for


def max_pool(x: Tensor) -> Tensor:
    """Pool (B, C, H, W), for which `has_kernels`, to (B, C, H // 2, W // 2), as `max_pool2d` does."""
    return _MaxPool.apply(x)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        images, channels, *sides = x.shape
        shape, kernels = (images, channels, sides[0] // 2, sides[1] // 2), kernels_for(x.dtype)
        assert kernels  # see has_kernels
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        which = torch.empty_like(out, dtype=torch.uint8)
        kernels("pool", x, images, *sides, channels, out, which)
        ctx.save_for_backward(which)
        ctx.shape = x.shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (which,), (images, channels, *sides), kernels = ctx.saved_tensors, ctx.shape, kernels_for(gradient.dtype)
        assert kernels
        dx = torch.empty(ctx.shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        if any(side % 2 for side in sides):  # no window reaches the last row, or column
            dx.zero_()
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        kernels("pool_backward", gradient, which, images, *sides, channels, dx)
        return dx
