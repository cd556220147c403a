"""Fusion: the bounded projection Omega that merges the two potentials which meet at a neuron.

The plain sum X + Y drives a neuron above its threshold wherever either potential is high (over-activation). Over the
range [th, 2 th], where that happens, Omega's volume is smaller than the plane's; the radian factor theta says by how
much. Section 4.2 and Eq. 6 of the supplement.
"""

import math

import torch
from torch import Tensor

FUSIONS = ("sincos", "sinsum", "nested", "mean", "sum", "none")


class _SinCos(torch.autograd.Function):
    """2 sin(a X) cos(a Y); of all that the derivatives need it saves X and Y alone."""

    @staticmethod
    def forward(x: Tensor, y: Tensor, angle: float) -> Tensor:
        return torch.sin(angle * x).mul_(torch.cos(angle * y)).mul_(2)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # noqa: ARG004
        x, y, ctx.angle = inputs
        ctx.save_for_backward(x, y)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def]
        x, y = (ctx.angle * saved for saved in ctx.saved_tensors)
        gradient = gradient * (2 * ctx.angle)
        return x.cos() * y.cos() * gradient, x.sin().neg_() * y.sin() * gradient, None


def fuse(x: Tensor, y: Tensor, kind: str = "sincos", theta: float = 0.5) -> Tensor:
    """Merge two potentials into the one that is handed on: Omega(X, Y).

    Args:
        x: Potential from the layer or block before; any shape.
        y: Potential from the window before; a shape that broadcasts against `x`.
        kind: A name in `FUSIONS`: "sincos" 2 sin(theta pi/2 X) cos(theta pi/2 Y), the default reading of the paper;
            "sinsum" sin(theta pi/2 (X + Y)), with the same integral but symmetric; "nested"
            2 sin(theta pi/2 X cos(theta pi/2 Y)), the released code's; "mean" (X + Y) / 2; "sum" X + Y, the linear
            plane; "none" 0: nothing is handed on.
        theta: The radian factor, 0 < theta <= 1.

    Returns:
        The fused potential, in the dtype of the inputs.

    Raises:
        ValueError: The kind does not exist.
    """
    angle = theta * math.pi / 2
    match kind:
        case "sincos":
            return _SinCos.apply(x, y, angle)
        case "sinsum":
            return torch.sin(angle * (x + y))
        case "nested":
            return 2 * torch.sin(angle * x * torch.cos(angle * y))
        case "mean":
            return (x + y) / 2
        case "sum":
            return x + y
        case "none":
            return torch.zeros_like(x + y)
        case _:
            raise ValueError(f"fusion: expected one of {', '.join(FUSIONS)}, got {kind!r}")
