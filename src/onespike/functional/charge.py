"""Charging: potentials that pass from window to window, V[v] = I[v] + alpha Omega(X[v], V[v-1])."""

import torch
from torch import Tensor

from onespike.functional.fusion import fuse


class _Charge(torch.autograd.Function):
    """All windows in one function, which saves the potentials once and X, and nothing in between.

    In the backward pass the fusion is computed again, window by window, to be differentiated: any fusion will do.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        currents: Tensor,
        first: Tensor | None,
        beside: Tensor | None,
        behind: int,
        decay: float,
        fusion: str,
        theta: float,
    ) -> Tensor:
        v = torch.empty_like(currents)
        v[0].copy_(currents[0] if first is None else torch.add(currents[0], first, alpha=decay))
        for window in range(1, len(currents)):
            handed = v[window - 1]
            if beside is not None:
                handed = fuse(beside[window - behind], handed, fusion, theta)
            v[window].copy_(torch.add(currents[window], handed, alpha=decay))
        ctx.save_for_backward(v, beside)
        ctx.has_first, ctx.behind, ctx.decay, ctx.fusion = first is not None, behind, decay, (fusion, theta)
        return v

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        v, beside = ctx.saved_tensors
        currents = gradient.clone()  # of V, and so of I: each window's also receives what the next one sends back
        besides = None if beside is None else torch.zeros_like(beside)
        for window in range(len(v) - 1, 0, -1):
            sent = currents[window] * ctx.decay
            if beside is not None and besides is not None:
                x, y = (t.detach().requires_grad_() for t in (beside[window - ctx.behind], v[window - 1]))
                with torch.enable_grad():
                    fused = fuse(x, y, *ctx.fusion)
                # A fusion may leave out one of the two.
                to_x, sent = torch.autograd.grad(fused, (x, y), sent, allow_unused=True, materialize_grads=True)
                besides[window - ctx.behind].add_(to_x)
            currents[window - 1].add_(sent)
        return currents, currents[0] * ctx.decay if ctx.has_first else None, besides, None, None, None, None


def charge(
    currents: Tensor,
    decay: float,
    first: Tensor | None = None,
    beside: Tensor | None = None,
    behind: int = 0,
    fusion: str = "sincos",
    theta: float = 0.5,
) -> Tensor:
    """Charge the windows one after the other: V[v] = I[v] + alpha Omega(X[v - behind], V[v-1]).

    Args:
        currents: I, (V, B, C, M, M).
        decay: alpha, 0..1.
        first: What is handed to the first window, (B, C, M, M); None if nothing is.
        beside: X, (V, B, C, M, M); without it Omega is V[v-1] alone.
        behind: How many windows X lies behind.
        fusion: A name in `FUSIONS`.
        theta: The fusion's radian factor.

    Returns:
        V, (V, B, C, M, M).
    """
    return _Charge.apply(currents, first, beside, behind, decay, fusion, theta)
