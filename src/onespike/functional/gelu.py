"""GELU of bf16 values by our own loops on a CPU: in a training step PyTorch's takes longer (results/speed-notes.md)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from onespike.functional.kernels import Kernels, is_plain, is_traced, kernels_for


def gelu(x: Tensor) -> Tensor:
    """Return x Phi(x) of any shape, as `F.gelu` does; Phi is the normal distribution (Hendrycks and Gimpel 2016).

    By a kernel, it is the nearest bf16 number, or one within 1e-7. It can be differentiated once, backward.
    """
    ours = x.device.type == "cpu" and x.dtype == torch.bfloat16 and not is_traced() and is_plain(x)
    return _Gelu.apply(x) if ours and _kernels() else F.gelu(x)


def _kernels() -> Kernels | None:
    return kernels_for(torch.bfloat16, "gelu_kernels.c")


def _like(out: Tensor, x: Tensor) -> Tensor:
    """The values of x in the order in which memory holds those of `out`: x itself, or a copy."""
    return x if is_plain(x) and x.stride() == out.stride() else torch.empty_like(out).copy_(x)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kernels = _kernels()
        out = torch.empty_like(x)  # without gaps, whatever x has
        ctx.kernels("gelu", _like(out, x), out.numel(), out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        ctx.kernels("gelu_backward", _like(out, gradient), _like(out, x), out.numel(), out)
        return out
