"""Spikes: the firing of neurons, with a surrogate for its gradient.

Fire:      S = 1 where V > threshold, else 0.
Surrogate: dS/dV is replaced by a bump around the threshold, a function of the distance d = V - threshold alone:
           h(d / width) / width, whose integral is 1 whatever the width.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, SupportsFloat

import torch
from torch import Tensor


def _rectangle(d: Tensor) -> Tensor:
    return d.abs().lt_(0.5)


#: Surrogate derivatives h of width 1, functions of the distance d = V - threshold. Each has a peak of 1 at d = 0 and,
#: like the derivative of any step from 0 to 1, an integral of 1. To add one, add an entry.
SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "rectangle": _rectangle,
    "triangle": lambda d: (1 - d.abs()).clamp(min=0),
    "sigmoid": lambda d: 4 * torch.sigmoid(4 * d) * torch.sigmoid(-4 * d),
    "arctan": lambda d: 1 / (1 + (math.pi * d) ** 2),
    "gaussian": lambda d: torch.exp(-math.pi * d**2),
}


class Surrogate(NamedTuple):
    """A surrogate derivative: h(d / width) / width at a distance d from the threshold.

    Attributes:
        name: The name of h, an entry of `SURROGATES`.
        width: The width, > 0.
    """

    name: str = "rectangle"
    width: float = 1.0

    def of_peak(self, distance: Tensor) -> Tensor:
        """Return the derivative at distances V - threshold, as a share of its peak: h(d / width)."""
        return SURROGATES[self.name](distance if self.width == 1 else distance / self.width)


def exceeds(x: Tensor, limit: float | Tensor) -> Tensor:
    """Compare: 1 where x > limit, else 0, in the shape and type of x. No gradient passes."""
    if torch.compiler.is_compiling():  # the compiler takes an `out` in the default memory layout only
        return (x > limit).to(x.dtype)
    return torch.gt(x, limit, out=torch.empty_like(x))  # on a CPU ten times as fast as a cast of booleans


class _Fire(torch.autograd.Function):
    """Heaviside step at a constant threshold, with the surrogate as its derivative."""

    @staticmethod
    def forward(v: Tensor, threshold: float, surrogate: Surrogate) -> Tensor:  # noqa: ARG004 - for setup_context
        return exceeds(v, threshold)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # noqa: ARG004
        v, ctx.threshold, ctx.surrogate = inputs
        ctx.save_for_backward(v)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        (v,) = ctx.saved_tensors
        return spike_backward(gradient, v, ctx.threshold, ctx.surrogate), None, None


def spike_backward(
    gradient: Tensor, v: Tensor, threshold: float, surrogate: Surrogate, out: Tensor | None = None
) -> Tensor:
    """Multiply the gradient of spikes by the surrogate's derivative at V - threshold, into `out` if that is given."""
    width = surrogate.width
    if SURROGATES[surrogate.name] is not _rectangle:
        product = torch.mul(surrogate.of_peak(v - threshold), gradient, out=out)
    else:  # the derivative of a clamp: one pass instead of four
        ends = threshold - width / 2, threshold + width / 2
        if out is None:
            product = torch.ops.aten.hardtanh_backward(gradient, v, *ends)
        else:
            product = torch.ops.aten.hardtanh_backward.grad_input(gradient, v, *ends, grad_input=out)
    return product if width == 1 else product.div_(width)


def as_surrogate(surrogate: str | Surrogate) -> Surrogate:
    """Return a `Surrogate`, of width 1 if given by name; `ValueError` if its name or width is not valid."""
    name, width = surrogate = Surrogate(surrogate) if isinstance(surrogate, str) else surrogate
    if name not in SURROGATES:
        raise ValueError(f"surrogate: expected one of {', '.join(SURROGATES)}, got {name!r}")
    if not 0 < width < math.inf:
        raise ValueError(f"surrogate: expected a finite width above 0, got {width}")
    return surrogate


def as_number(name: str, value: float | Tensor) -> float:
    """Return a plain number; NaN, a tensor of several values or one that requires a gradient is a `ValueError`."""
    if isinstance(value, Tensor) and (value.numel() != 1 or (value.requires_grad and torch.is_grad_enabled())):
        found = f"a tensor {tuple(value.shape)}{', which requires a gradient' if value.requires_grad else ''}"
        remedy = f"use {'`spike`, or ' if name == 'threshold' else ''}a neuron with learnable_{name}"
        raise ValueError(f"{name}: expected a number; {remedy}; got {found}")
    if not isinstance(value, SupportsFloat) or isinstance(value, bool):
        raise ValueError(f"{name}: expected a number, got {value!r}")
    if math.isnan(number := float(value)):  # no potential exceeds such a threshold, or remains after such a decay
        raise ValueError(f"{name}: expected a number, got {number}")
    return number


def spike(v: Tensor, threshold: float | Tensor = 0.5, surrogate: str | Surrogate = "rectangle") -> Tensor:
    """Fire where the potential exceeds the threshold: S = 1 if V > threshold else 0.

    Args:
        v: Potentials of any shape; the spikes have their dtype (that of `v - threshold`, if the threshold is a tensor).
        threshold: A number, or a tensor that broadcasts against `v` and receives a gradient if it requires one.
        surrogate: The derivative used in the backward pass: a name in `SURROGATES`, or a `Surrogate` of any width.

    Raises:
        ValueError: The surrogate does not exist, or the threshold is NaN.
    """
    surrogate = as_surrogate(surrogate)
    if isinstance(threshold, Tensor):
        v, threshold = v - threshold, 0.0
    return _Fire.apply(v, as_number("threshold", threshold), surrogate)
