"""What turns a real-valued stream into spikes: draws, the encodings with their gradients, and the dropout of spikes.

In training on a CPU with a C compiler, Bernoulli spikes and their gradient are one pass each (encoding_kernels.c).
Elsewhere PyTorch's functions compute the same.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from onespike.functional.autocast import computed_in
from onespike.functional.kernels import Kernels, is_plain, is_traced, kernels_for, plain
from onespike.functional.spike import Surrogate, exceeds, spike

#: How the real-valued stream becomes spikes, see `encode`.
ENCODINGS = ("bernoulli", "bernoulli-detached", "threshold", "direct")


def uniform(like: Tensor, shape: torch.Size, generator: torch.Generator | None = None) -> Tensor:
    """Draw (..., C, M, M) from U(0, 1), on a tensor's device: the same numbers whatever the layout of the maps.

    They are those of `torch.rand`, and leave the generator as it does. On a CPU, our own loop draws them faster.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)  # bfloat16 has only 256 such numbers
    *outer, channels, height, width = shape
    shape = torch.Size((*outer, height, width, channels))
    source = generator or torch.default_generator
    if like.device == source.device == torch.device("cpu") and dtype == torch.float32 and not is_traced():
        draws = torch.empty(shape, dtype=dtype, device="cpu")
        kernels = _kernels(dtype)
        if kernels and is_plain(draws) and _draws_alike(kernels):
            _fill(draws, source, kernels)
            return draws.movedim(-1, -3)
    return torch.rand(shape, generator=generator, dtype=dtype, device=like.device).movedim(-1, -3)


def _kernels(dtype: torch.dtype) -> Kernels | None:
    return kernels_for(dtype, "encoding_kernels.c")


def _fill(draws: Tensor, generator: torch.Generator, kernels: Kernels) -> None:
    state = generator.get_state()
    kernels("uniform", state, draws.numel(), draws)
    generator.set_state(state)


@cache
def _draws_alike(kernels: Kernels) -> bool:
    """Whether our draws are those of this version of PyTorch, and leave its generator in the same state."""
    theirs, ours = torch.Generator("cpu"), torch.Generator("cpu")
    for count in (3, 1500, 624):
        expected = torch.rand(count, generator=theirs, dtype=torch.float32, device="cpu")
        _fill(draws := torch.empty_like(expected), ours, kernels)
        if not (torch.equal(draws, expected) and torch.equal(ours.get_state(), theirs.get_state())):
            return False
    return True


class _Bernoulli(torch.autograd.Function):
    """s = 1 where x > u; the gradient passes unchanged where -0.5 < x < 1.5 and nowhere else."""

    @staticmethod
    def forward(x: Tensor, u: Tensor) -> Tensor:
        return exceeds(x, u)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # noqa: ARG004
        ctx.save_for_backward((inputs[0] - 0.5).abs_().lt_(1).to(torch.int8))  # a quarter of the memory of x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (inside,) = ctx.saved_tensors
        return inside.to(gradient.dtype).mul_(gradient), None


def _by_pixel(maps: Tensor) -> Tensor:
    """Maps (…, C, M, M) as (…, M, M, C) in memory: gradients, and what hooks saved, come in any layout."""
    return plain(maps.movedim(-3, -1).contiguous())


class _InOnePass(torch.autograd.Function):
    """The same in the dtype of the layers behind, times the mask if there is one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, mask: Tensor | None, kernels: Kernels) -> Tensor:
        spikes = torch.empty_like(x, dtype=computed_in(x))
        inside = torch.empty(x.numel(), dtype=torch.int8, device=x.device)
        ctx.wide, ctx.count, ctx.size = int(x.dtype != spikes.dtype), len(x), x[0].numel()
        kernels("bernoulli", x, ctx.wide, u, mask, ctx.count, ctx.size, spikes, inside)
        ctx.save_for_backward(inside, mask)
        ctx.kernels, ctx.dtype = kernels, x.dtype
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inside, mask = ctx.saved_tensors
        gradient, mask = _by_pixel(gradient), None if mask is None else _by_pixel(mask)
        to_x = torch.empty_like(gradient, dtype=ctx.dtype)
        ctx.kernels("bernoulli_backward", gradient, ctx.wide, inside, mask, ctx.count, ctx.size, to_x)
        return to_x.movedim(-1, -3), None, None, None


def _kernels_of(x: Tensor, u: Tensor, mask: Tensor | None) -> Kernels | None:
    """The kernels if they can read these tensors, and compute the gradient of x; else None."""
    if not torch.is_grad_enabled() or x.device.type != "cpu" or not x.numel() or x.dim() < 4 or is_traced():
        return None
    if u.dtype != torch.promote_types(x.dtype, torch.float32) or (mask is not None and mask.dtype != x.dtype):
        return None
    read = [one for one in (x, u, mask) if one is not None]
    dense = all(is_plain(one) and one.movedim(-3, -1).is_contiguous() for one in read)
    return _kernels(computed_in(x)) if dense else None


def bernoulli(x: Tensor, u: Tensor, mask: Tensor | None = None) -> Tensor:
    """Spike with probability x, 0..1: s = 1 if x > u else 0, for draws u from U(0, 1) of the shape of x.

    The gradient passes straight through where -0.5 < x < 1.5, and nowhere else. Below 0 none fire, above 1 all do. The
    spikes have the dtype that layers compute in: autocast's where it is on, else that of x.

    Args:
        x: Probabilities.
        u: Draws.
        mask: What the spikes of each window (V, B, C, M, M) are multiplied by, (B, C, M, M), see `constant_mask`.

    Raises:
        ValueError: The draws or the mask have another shape.
    """
    if u.shape != x.shape:
        raise ValueError(f"draws: expected {tuple(x.shape)}, got {tuple(u.shape)}")
    if mask is not None and mask.shape != x.shape[1:]:
        raise ValueError(f"mask: expected {tuple(x.shape[1:])}, got {tuple(mask.shape)}")
    if kernels := _kernels_of(x, u, mask):
        return _InOnePass.apply(x, u, mask, kernels)
    spikes = _Bernoulli.apply(x, u)
    return (spikes if mask is None else spikes * mask).to(computed_in(x))


def encode(
    x: Tensor,
    kind: str,
    draws: Tensor | None = None,
    threshold: float | Tensor = 0.5,
    surrogate: str | Surrogate = "rectangle",
    mask: Tensor | None = None,
) -> Tensor:
    """Turn the real-valued stream into the input spikes of a block.

    Args:
        x: Values of any shape.
        kind: "bernoulli" (x > draws, straight-through gradient), "bernoulli-detached" (the same, no gradient),
            "threshold" (`spike`, deterministic) or "direct" (x unchanged: an analog input).
        draws: Draws from U(0, 1) of the shape of `x`; only the Bernoulli encodings need them.
        threshold: For "threshold".
        surrogate: For "threshold".
        mask: What each window is multiplied by, (B, C, M, M) for x (V, B, C, M, M); see `constant_mask`.

    Raises:
        ValueError: The kind does not exist, a Bernoulli encoding got no draws, or draws or mask have another shape.
    """
    if kind not in ENCODINGS:
        raise ValueError(f"encoding: expected one of {', '.join(ENCODINGS)}, got {kind!r}")
    if kind in ("direct", "threshold"):
        spikes = x if kind == "direct" else spike(x, threshold, surrogate)
        return spikes if mask is None else spikes * mask
    if draws is None:
        raise ValueError(f"encoding {kind!r}: expected draws from U(0, 1) of the shape {tuple(x.shape)}, got none")
    return bernoulli(x if kind == "bernoulli" else x.detach(), draws, mask)


def constant_mask(u: Tensor, probability: float) -> Tensor:
    """Make a dropout mask for all windows and time steps of a forward pass (Srivastava et al. 2014, held constant).

    The mask is 0 where u < p, as if that neuron were dead, else 1 / (1 - p), with 0 <= p < 1: the expected value of an
    input does not change. u are draws from U(0, 1), (B, C, M, M).

    Raises:
        ValueError: The probability is out of its range.
    """
    if not 0 <= probability < 1:
        raise ValueError(f"probability: expected 0 <= probability < 1, got {probability}")
    return (u >= probability).to(u.dtype) / (1 - probability)
