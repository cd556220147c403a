"""A 3x3 convolution whose weights' gradient is one product for each tap, where the processor has matrix tiles."""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_input

from onespike.functional.kernels import Kernels, kernels_for

#: Maps of up to so many pixels a side: above, PyTorch's own gradient is as fast.
MOST = 16


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve (B, C, H, W) by weights (O, C, 3, 3), stride 1, padding 1, as `conv2d` does.

    Where the gradient is our own, spikes are kept for it as bits, and weights in their own type.
    """
    dtype = x.dtype
    if torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    x, bias = x.to(dtype), None if bias is None else bias.to(dtype)
    if weight.requires_grad and _is_faster(x):
        return _Conv3x3.apply(x, weight, bias)
    return conv2d(x, weight.to(dtype), bias, padding=1)


def _is_faster(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or x.dim() != 4 or torch.compiler.is_compiling():
        return False
    small = max(x.shape[2:]) <= MOST and x.numel() > 0
    return small and x.is_contiguous(memory_format=torch.channels_last) and tiles() is not None


@cache
def tiles() -> Kernels | None:
    """The kernels, where this processor has tiles and the system lets this process use them."""
    kernels = kernels_for(torch.bfloat16, "conv_kernels.c")
    return kernels if kernels and kernels.ask("available") else None


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.shape, bits, kernels = x.shape, torch.empty(-(-x.numel() // 32), dtype=torch.int32), tiles()
        assert kernels
        ctx.are_spikes = not kernels.ask("to_bits", x, x.numel(), bits)
        ctx.save_for_backward(bits if ctx.are_spikes else x, weight)
        return conv2d(x, weight.to(x.dtype), bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), kernels = ctx.saved_tensors, tiles()
        assert kernels
        (images, inputs, *sides), outputs = ctx.shape, len(weight)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = conv2d_input(ctx.shape, weight.to(gradient.dtype), gradient, padding=1)
        of_bias = gradient.movedim(1, -1).reshape(-1, outputs).sum(0) if ctx.needs_input_grad[2] else None
        if ctx.are_spikes:
            bits, x = x, torch.empty(ctx.shape, dtype=gradient.dtype, memory_format=torch.channels_last)
            kernels("from_bits", bits, x.numel(), x)
        of_weight = torch.empty(outputs, 3, 3, inputs)
        kernels("weight_gradient", x, gradient, images, *sides, inputs, outputs, of_weight)
        return of_x, of_weight.to(weight.dtype).permute(0, 3, 1, 2), of_bias
