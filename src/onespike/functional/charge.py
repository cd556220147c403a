"""Charging: potentials that pass from window to window, V[v] = I[v] + alpha Omega(X[v - behind], V[v-1])."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from onespike.functional.fusion import fuse, fuse_backward


class _Charge(torch.autograd.Function):
    """All windows in one function, which saves the potentials once and X, and nothing in between.

    In the backward pass the fusion is differentiated again, window by window.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, currents: Tensor, beside: Tensor | None, behind: int, decay: float, fusion: str, theta: float
    ) -> Tensor:
        v = torch.empty_like(currents)
        for window, current in enumerate(currents.unbind()):
            handed = v[window - 1] if window else None
            if beside is not None:
                pair = _pair(beside, v, window, behind)
                handed = fuse(*pair, fusion, theta) if pair else None
            if handed is None:
                v[window].copy_(current)
            else:
                torch.add(current, handed, alpha=decay, out=v[window])
        ctx.save_for_backward(v, beside)
        ctx.behind, ctx.decay, ctx.fusion = behind, decay, (fusion, theta)
        return v

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        v, beside = ctx.saved_tensors
        currents = torch.empty_like(v)  # gradient of V, and so of I, with what the next window sends back
        currents[-1].copy_(gradient[-1])
        if beside is None:
            for window in range(len(v) - 1, 0, -1):
                torch.add(gradient[window - 1], currents[window], alpha=ctx.decay, out=currents[window - 1])
            return currents, None, None, None, None, None
        besides = torch.empty_like(beside)
        if ctx.behind:
            besides[-1].zero_()  # no window meets the last X
        for window in range(len(v) - 1, -1, -1):
            pair = _pair(beside, v, window, ctx.behind)
            if pair is None:
                continue
            to_x, to_y = fuse_backward(*pair, currents[window] * ctx.decay, *ctx.fusion)
            besides[window - ctx.behind].copy_(to_x)
            if window:
                torch.add(gradient[window - 1], to_y, out=currents[window - 1])
            else:
                besides[neighbour(beside)].add_(to_y)
        return currents, besides, None, None, None, None


def _pair(beside: Tensor, v: Tensor, window: int, behind: int) -> tuple[Tensor, Tensor] | None:
    """The two potentials that meet in a window; None if nothing comes in there."""
    if window:
        return beside[window - behind], v[window - 1]
    return (beside[0], beside[neighbour(beside)]) if behind == 0 else None


def neighbour(beside: Tensor) -> int:
    """Number of the window whose X the first window meets, since none is before it: the second's, if there is one."""
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

    The first window has no predecessor. Where X is its own (`behind` is 0), it meets X of the second window; else
    nothing comes in.

    Args:
        currents: I, (V, B, C, M, M).
        decay: alpha, 0..1.
        beside: X, (V, B, C, M, M); without it Omega is V[v-1] alone.
        behind: How many windows X lies behind, 0 or 1.
        fusion: A name in `FUSIONS`.
        theta: The fusion's radian factor.

    Returns:
        V, (V, B, C, M, M). Can be differentiated once.

    Raises:
        ValueError: `behind` is neither 0 nor 1.
    """
    if behind not in (0, 1):
        raise ValueError(f"behind: expected 0 or 1, got {behind}")
    return _Charge.apply(currents, beside, behind, decay, fusion, theta)
