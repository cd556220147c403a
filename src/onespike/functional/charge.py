"""Charging and firing: potentials pass from window to window, V[v] = I[v] + alpha Omega(X[v - behind], V[v-1]).

Where gradients are enabled, on a CPU with a C compiler, a kernel (charge_kernels.c) computes the paper's fusion in one
pass over memory, for the surrogates that it knows. Elsewhere PyTorch's functions compute the same, window by window.
The two agree up to rounding: in bf16 the kernel rounds once, PyTorch after each operation. Operation counters see
PyTorch's functions.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from onespike.functional.fusion import expect_fusion, fuse, fuse_backward, is_sincos
from onespike.functional.kernels import Kernels, is_plain, is_traced, kernels_for
from onespike.functional.norm_fire import KINDS, computes
from onespike.functional.spike import Surrogate, as_number, as_surrogate, spike_backward


class _ChargeAndFire(torch.autograd.Function):
    """Charge all windows in one autograd function, which saves only V and X and recomputes the fusion's derivative.

    If the neurons fire, each window fires as soon as it is charged, while its potentials are in the cache. `firing` is
    None or a threshold and a `Surrogate`; `fusion` is a name in `FUSIONS` and theta.
    """

    @staticmethod
    def forward(ctx, currents, decay, firing, beside, behind, fusion, differentiable):  # type: ignore[no-untyped-def]
        if not 0 <= decay <= 1:
            raise ValueError(f"decay: expected 0 <= decay <= 1, got {decay}")
        expect_fusion(*fusion)
        expect_windows(currents, beside, behind)
        # C would read a number of another type as an address, or as another argument.
        behind, fusion = int(behind), (fusion[0], float(fusion[1]))
        v = torch.empty_like(currents)
        spikes = None if firing is None else torch.empty_like(currents)
        ctx.save_for_backward(v, beside)
        ctx.set_materialize_grads(False)
        ctx.decay, ctx.firing, ctx.behind, ctx.fusion = decay, firing, behind, fusion
        ctx.kernels = _kernels(v, currents, beside, firing, fusion[0]) if differentiable else None
        if ctx.kernels is not None:
            threshold = torch.tensor(firing[0] if firing else 0, dtype=v.dtype, device=v.device).item()  # as `gt` does
            ctx.kernels("charge", *_arguments(ctx, v, beside, threshold), currents, v, spikes)
            return v, spikes
        for window, current in enumerate(currents.unbind()):
            arriving = arriving_at(window, v[window - 1] if window else None, beside, behind, *fusion)
            if arriving is None:
                v[window].copy_(current)
            else:
                torch.add(current, arriving, alpha=decay, out=v[window])
            if spikes is not None:
                torch.gt(v[window], firing[0], out=spikes[window])
        return v, spikes

    @staticmethod
    @once_differentiable
    def backward(ctx, to_v: Tensor | None, to_spikes: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        v, beside = ctx.saved_tensors
        if ctx.kernels is not None:
            beside = _like(beside, v)  # hooks may have moved one of them
        currents = torch.empty_like(v)  # gradient of V, and so of I
        besides: Any = None if beside is None else torch.empty_like(beside)  # gradient of X
        if ctx.kernels is not None:
            width = float(ctx.firing[1].width) if ctx.firing else 1.0
            gradients = (None if gradient is None else _like(gradient, v) for gradient in (to_v, to_spikes))
            arguments = _arguments(ctx, v, beside, float(ctx.firing[0]) if ctx.firing else 0.0)
            ctx.kernels("charge_backward", *arguments, width, v, *gradients, currents, besides)
            return currents, None, None, besides, None, None, None
        if besides is not None and ctx.behind:
            besides[-1:].zero_()  # no window uses the last X
        back: Tensor | None = None  # gradient from the next window, to be multiplied by `share`
        share = ctx.decay if beside is None else 1
        for window in range(len(v) - 1, -1, -1):
            here = currents[window]
            if to_spikes is None:
                here.zero_()
            else:
                spike_backward(to_spikes[window], v[window], ctx.firing[0], ctx.firing[1], out=here)
            if to_v is not None:
                here.add_(to_v[window])
            if back is not None:
                here.add_(back, alpha=share)
            back = here
            pair = _pair(window, v[window - 1] if window else None, beside, ctx.behind)
            if pair is not None:
                to_x, back = fuse_backward(*pair, here * ctx.decay, *ctx.fusion)
                besides[window - ctx.behind].copy_(to_x)
                if window == 0:
                    besides[neighbour(beside)].add_(back)
        return currents, None, None, besides, None, None, None


def expect_windows(currents: Tensor, beside: Tensor | None, behind: int) -> None:
    """Raise a ValueError unless there are windows and X has their shape: broadcasting would hide the mistake."""
    if behind not in (0, 1):
        raise ValueError(f"behind: expected 0 or 1, got {behind}")
    if not currents.dim() or not currents.is_floating_point() or currents.layout != torch.strided:
        found = f"{currents.dtype}, {currents.layout}, of shape {tuple(currents.shape)}"
        raise ValueError(f"currents: expected real numbers (V, B, C, M, M), got {found}")
    if beside is None:
        return
    fits = (beside.shape, beside.device, beside.layout) == (currents.shape, currents.device, currents.layout)
    if not fits or beside.is_complex():
        expected, found = (f"{tuple(one.shape)} on {one.device}, {one.layout}" for one in (currents, beside))
        raise ValueError(f"beside: expected real numbers {expected}, as the currents are, got {beside.dtype} {found}")


def _kernels(
    v: Tensor, currents: Tensor, beside: Tensor | None, firing: tuple[float, Surrogate] | None, fusion: str
) -> Kernels | None:
    """Return the kernels if they compute this fusion and surrogate and can read these tensors, else None."""
    if beside is None or not is_sincos(fusion) or is_traced() or (firing and not computes(firing[1])):
        return None
    if v.device.type != "cpu" or not v.numel() or v.stride(0) != v[0].numel():
        return None
    alike = all((one.dtype, one.shape, one.stride()) == (v.dtype, v.shape, v.stride()) for one in (currents, beside))
    return kernels_for(v.dtype, "charge_kernels.c") if alike and all(map(is_plain, (v, currents, beside))) else None


def _arguments(ctx: Any, v: Tensor, beside: Tensor | None, threshold: float) -> tuple[Tensor | int | float, ...]:
    """The leading arguments of both kernels."""
    assert beside is not None
    kind, angle = KINDS[ctx.firing[1].name] if ctx.firing else 0, ctx.fusion[1] * math.pi / 2
    return beside, len(v), v[0].numel(), ctx.behind, ctx.decay, angle, threshold, kind


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """The tensor, or a copy of it, in the dtype and memory layout of another."""
    fits = tensor.dtype == other.dtype and tensor.stride() == other.stride() and is_plain(tensor)
    return tensor if fits else torch.empty_like(other).copy_(tensor)


def arriving_at(
    window: int, handed: Tensor | None, beside: Tensor | None, behind: int, fusion: str, theta: float
) -> Tensor | None:
    """P of a window, which gets the potential `handed` on by the window before (None at the first); None if P is 0."""
    pair = _pair(window, handed, beside, behind)
    return fuse(*pair, fusion, theta) if pair else handed


def _pair(window: int, handed: Tensor | None, beside: Tensor | None, behind: int) -> tuple[Tensor, Tensor] | None:
    """The two potentials that are fused for a window; None if nothing is fused."""
    if beside is None or window < behind:
        return None
    return beside[window - behind], beside[neighbour(beside)] if handed is None else handed


def neighbour(beside: Tensor) -> int:
    """The window whose X stands in for the first window's missing predecessor: the second, if there is one."""
    return min(1, len(beside) - 1)


def charge(
    currents: Tensor,
    decay: float,
    beside: Tensor | None = None,
    behind: int = 0,
    fusion: str = "sincos",
    theta: float = 0.5,
) -> Tensor:
    """Charge the windows one after the other: V[v] = I[v] + alpha Omega(X[v - behind], V[v-1]).

    The first window has no predecessor. If X is given and `behind` is 0, X of the second window takes the place of
    V[v-1]; otherwise the first window receives its current alone.

    Args:
        currents: I, (V, B, C, M, M). V has the same shape and can be differentiated once.
        decay: alpha, 0..1.
        beside: X, of the same shape; without it Omega is V[v-1] alone.
        behind: How many windows X lies behind, 0 or 1.
        fusion: A name in `FUSIONS`.
        theta: The fusion's radian factor.

    Raises:
        ValueError: `behind` is neither 0 nor 1, decay or theta is out of its range, the fusion does not exist, or X has
            another shape than I.
    """
    decay = as_number("decay", decay)
    return _ChargeAndFire.apply(currents, decay, None, beside, behind, (fusion, theta), torch.is_grad_enabled())[0]


def charge_and_fire(
    currents: Tensor,
    decay: float,
    threshold: float,
    surrogate: str | Surrogate = "rectangle",
    beside: Tensor | None = None,
    behind: int = 0,
    fusion: str = "sincos",
    theta: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Charge the windows (`charge`) and fire where V exceeds the threshold (`spike`), in fewer passes over memory.

    Returns V and the spikes, S = 1 where V > threshold, else 0. Both are (V, B, C, M, M) and can be differentiated
    once. `surrogate` is a name in `SURROGATES` or a `Surrogate`; the other arguments are those of `charge`.

    Raises:
        ValueError: The surrogate does not exist, the threshold is NaN, or as for `charge`.
    """
    decay, threshold = as_number("decay", decay), as_number("threshold", threshold)
    firing = threshold, as_surrogate(surrogate)
    return _ChargeAndFire.apply(currents, decay, firing, beside, behind, (fusion, theta), torch.is_grad_enabled())
