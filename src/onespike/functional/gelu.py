"""GELU of bf16 values, which are only 65,536: on a CPU they are looked up (results/speed-notes.md)."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from onespike.functional.kernels import Kernels, is_plain, is_traced, kernels_for


def gelu(x: Tensor) -> Tensor:
    """Return x Phi(x) of any shape, as `F.gelu` does; Phi is the normal distribution (Hendrycks and Gimpel 2016).

    Looked up, it is the bf16 number nearest to the exact value. It can be differentiated once, backward.
    """
    ours = x.device.type == "cpu" and x.dtype == torch.bfloat16 and not is_traced() and is_plain(x)
    return _Gelu.apply(x) if ours and _kernels() else F.gelu(x)


def _kernels() -> Kernels | None:
    return kernels_for(torch.bfloat16, "gelu_kernels.c")


@cache
def _tables() -> tuple[Tensor, Tensor]:
    """The bits of x Phi(x), and its derivative, for each bf16 number x, in the order of its bits."""
    with torch.no_grad(), torch.inference_mode(False):  # autograd would save tensors, which checkpointing counts
        every = torch.arange(1 << 16, dtype=torch.int32, device="cpu").to(torch.int16).view(torch.bfloat16)
        x = every.double()
        y, derivative = F.gelu(x), torch.ops.aten.gelu_backward(torch.ones_like(x), x)
    return y.bfloat16().view(torch.int16).int(), derivative.float()


def _like(out: Tensor, x: Tensor) -> Tensor:
    """The values of x in the order in which memory holds those of `out`: x itself, or a copy."""
    return x if is_plain(x) and x.stride() == out.stride() else torch.empty_like(out).copy_(x)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.kernels = _kernels()
        out = torch.empty_like(x)  # without gaps, whatever x has
        ctx.kernels("look_up", _like(out, x), _tables()[0], out.numel(), out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        out = torch.empty_like(x)
        ctx.kernels("look_up_gradient", _like(out, gradient), _like(out, x), _tables()[1], out.numel(), out)
        return out
