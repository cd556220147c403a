"""Fusion: the bounded projection Omega merges the two potentials that meet at a neuron.

The plain sum X + Y drives a neuron above its threshold wherever either potential is high (over-activation). That
happens over the range [th, 2 th], where Omega's volume is smaller than the plane's; the radian factor theta sets by how
much. Reference: section 4.2 and Eq. 6 of the supplement.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _sincos_backward(x: Tensor, y: Tensor, gradient: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    # 2 cos(aX) cos(aY) and -2 sin(aX) sin(aY) are the sum and difference of two cosines: two functions, not four.
    x, gradient = x.to(torch.promote_types(x.dtype, y.dtype)) * angle, gradient * angle
    plus, minus = torch.add(x, y, alpha=angle).cos_(), x.sub_(y, alpha=angle).cos_()
    return (plus + minus).mul_(gradient), plus.sub_(minus).mul_(gradient)


class _SinCos(torch.autograd.Function):
    """2 sin(a X) cos(a Y); it saves only X and Y for the backward pass."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, angle: float) -> Tensor:
        return (angle * x).sin_().mul_((angle * y).cos_()).mul_(2)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # noqa: ARG004
        x, y, ctx.angle = inputs
        ctx.save_for_backward(x, y)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        x, y = ctx.saved_tensors
        return *_sincos_backward(x, y, gradient, ctx.angle), None


def _sincos(x: Tensor, y: Tensor, angle: float) -> Tensor:
    if (x.shape, x.dtype) != (y.shape, y.dtype):  # the function writes into what has the shape and dtype of X
        dtype = torch.promote_types(x.dtype, y.dtype)
        x, y = torch.broadcast_tensors(x.to(dtype), y.to(dtype))
    return _SinCos.apply(x, y, angle)


#: Fusions as functions of X, Y and the angle a = theta pi/2. To add one, add an entry: `FUSIONS["mine"] = …`.
FUSIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "sincos": _sincos,
    "sinsum": lambda x, y, a: torch.sin(a * (x + y)),
    "nested": lambda x, y, a: 2 * torch.sin(a * x * torch.cos(a * y)),
    "mean": lambda x, y, _: (x + y) / 2,
    "sum": lambda x, y, _: x + y,
    "none": lambda x, y, _: 0 * (x + y),
}


def fuse(x: Tensor, y: Tensor, kind: str = "sincos", theta: float = 0.5) -> Tensor:
    """Merge two potentials into the one that is handed on: Omega(X, Y).

    Args:
        x: Potential from the layer or block before; any shape.
        y: Potential from the window before; a shape that broadcasts against `x`.
        kind: A name in `FUSIONS`: "sincos" 2 sin(theta pi/2 X) cos(theta pi/2 Y), the default reading of the paper;
            "sinsum" sin(theta pi/2 (X + Y)), with the same integral but symmetric; "nested"
            2 sin(theta pi/2 X cos(theta pi/2 Y)), as in the released code; "mean" (X + Y) / 2; "sum" X + Y, the linear
            plane; "none" 0: nothing is handed on.
        theta: The radian factor, 0 < theta <= 1.

    Raises:
        ValueError: The kind does not exist, or theta is out of its range.
    """
    expect_fusion(kind, theta)
    return FUSIONS[kind](x, y, theta * math.pi / 2)


def expect_fusion(kind: str, theta: float) -> None:
    """Raise the errors of `fuse`."""
    if kind not in FUSIONS:
        raise ValueError(f"fusion: expected one of {', '.join(FUSIONS)}, got {kind!r}")
    if not 0 < theta <= 1:
        raise ValueError(f"theta: expected 0 < theta <= 1, got {theta}")


def is_sincos(kind: str) -> bool:
    """Whether a fusion is the paper's, whose derivatives are written out."""
    return FUSIONS[kind] is _sincos


def fuse_backward(x: Tensor, y: Tensor, gradient: Tensor, kind: str, theta: float) -> tuple[Tensor, Tensor]:
    """Differentiate `fuse` from its inputs alone: the gradients of X and Y, given that of the fused potential."""
    if is_sincos(kind):  # the closed form is cheaper than autograd
        return _sincos_backward(x, y, gradient, theta * math.pi / 2)
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    with torch.enable_grad():
        fused = fuse(x, y, kind, theta)
    if not fused.requires_grad:  # the fusion depends on neither
        return torch.zeros_like(x), torch.zeros_like(y)
    to_x, to_y = torch.autograd.grad(fused, (x, y), gradient, materialize_grads=True)  # it may leave out one of the two
    return to_x, to_y
