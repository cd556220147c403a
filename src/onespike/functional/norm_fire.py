"""Batch norm and firing as one operation: the normalised currents are never written.

The backward pass computes the surrogate's derivative and the batch norm's gradient together, from currents, mean and
deviation alone.
"""

import math
import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from onespike.errors import warn
from onespike.functional.kernels import Kernels, channels_last, empty_maps, is_plain, is_traced, kernels_for
from onespike.functional.spike import SURROGATES, Surrogate, as_number, as_surrogate

if TYPE_CHECKING:
    from onespike.functional.norm_fire_triton import TritonKernels

#: The surrogates that the kernels compute, by their number there; 0 is a batch norm without neurons.
KINDS = {"rectangle": 1, "triangle": 2}
_KNOWN = {name: SURROGATES[name] for name in KINDS}  # as they are defined here
#: Most channels, and most neurons of a pixel, 16 for each: kernels keep sums for each on a thread's stack.
CHANNELS, NEURONS = 2**12, 2**16
#: Largest squared distance, in variances, of a channel's first pixel from its mean; beyond it too many digits go.
_FAR = 1000


def computes(surrogate: Surrogate) -> bool:
    """Whether the kernels compute a surrogate: it is in `KINDS`, and nobody has put another in its place."""
    return surrogate.name in KINDS and SURROGATES[surrogate.name] is _KNOWN[surrogate.name]


def has_kernels(currents: Tensor) -> bool:
    """Whether the functions here take these currents: (B, C, H, W), channels last, on a device with kernels.

    A CPU needs a C compiler; a GPU needs Triton, and $ONESPIKE_KERNELS = 1.
    """
    if currents.dim() != 4 or currents.numel() == 0 or currents.shape[1] > CHANNELS or is_traced():
        return False
    if currents.numel() == currents.shape[1]:  # one value has no variance: PyTorch refuses it in training
        return False
    if not is_plain(currents) or not currents.is_contiguous(memory_format=torch.channels_last):
        return False
    return _find(currents) is not None


def norm_fire(
    currents: Tensor,
    shift: Tensor,
    norm: nn.BatchNorm2d,
    threshold: float,
    surrogate: Surrogate,
    tied: bool = False,
) -> Tensor:
    """Normalise by the batch's statistics and fire, in training.

        V[k] = (I - mean) / deviation + shift[k]          S[k] = 1 where V[k] > threshold, else 0          k = 1..P

    This is the comparison S[k] = 1 where I > mean + (threshold - shift[k]) * deviation.

    Args:
        currents: I, (B, C, H, W); `has_kernels` must hold for them.
        shift: One value for each neuron, (P*C,); neuron k of channel c has the index k*C + c.
        norm: The batch norm: its epsilon is used, its running mean and variance are updated, weights are ignored.
        threshold: Potential above which a neuron fires.
        surrogate: The surrogate derivative; `computes` must hold for it.
        tied: Whether to add up the spikes of each channel's neurons.

    Returns:
        The spikes, (B, P*C, H, W), or (B, C, H, W) if they are added up.
    """
    expect_kernels(has_kernels, currents, norm)
    threshold = as_number("threshold", threshold)
    expect_neurons(shift, currents, threshold, surrogate)
    return _NormFire.apply(currents, shift, norm, threshold, surrogate, tied)


def batch_norm(currents: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Normalise (B, C, H, W) by the batch's statistics, as `norm` does in training; `has_kernels` must hold for it."""
    expect_kernels(has_kernels, currents, norm)
    weight = currents.new_ones(norm.num_features) if norm.weight is None else norm.weight
    bias = currents.new_zeros(norm.num_features) if norm.bias is None else norm.bias
    return _BatchNorm.apply(currents, weight, bias, norm)


def expect_kernels(has: Callable[[Tensor], bool], currents: Tensor, norm: nn.BatchNorm2d) -> None:
    """Raise a ValueError unless it `has` kernels for the currents, and the norm fits them: no kernel checks it."""
    if not has(currents) or norm.num_features != currents.shape[-3]:
        strides = currents.stride() if currents.layout == torch.strided else currents.layout
        expected = f"such as {has.__name__} takes, of {norm.num_features} channels"
        found = f"{currents.dtype} of shape {tuple(currents.shape)}, strides {strides}"
        raise ValueError(f"currents: expected {expected}, got {found}")
    for one in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        if one is not None and one.device != currents.device:
            raise ValueError(f"norm: expected its tensors on {currents.device}, as the currents are, got {one.device}")


def expect_neurons(shift: Tensor, currents: Tensor, threshold: float, surrogate: Surrogate) -> None:
    """Raise a ValueError unless each channel has equally many shifts and the kernels compute the surrogate."""
    channels = currents.shape[-3]
    if shift.dim() != 1 or not 0 < len(shift) <= NEURONS or len(shift) % channels:
        raise ValueError(f"shift: expected (P*{channels},), at most {NEURONS}, got {tuple(shift.shape)}")
    if shift.device != currents.device or shift.is_complex() or not is_plain(shift.resolve_neg()):
        found = f"{type(shift).__name__} of {shift.dtype} on {shift.device}"
        raise ValueError(f"shift: expected real numbers on {currents.device}, as the currents are, got {found}")
    as_surrogate(surrogate)
    if not computes(surrogate):
        got = f"another {surrogate.name!r}, put in its place" if surrogate.name in KINDS else repr(surrogate.name)
        raise ValueError(f"surrogate: expected one of {', '.join(KINDS)}, got {got}")
    if not math.isfinite(threshold):
        raise ValueError(f"threshold: expected a finite number, got {threshold}")


class _NormFire(torch.autograd.Function):
    @staticmethod
    def forward(ctx, currents, shift, norm, threshold, surrogate, tied):  # type: ignore[no-untyped-def]
        mean, scale = moments_of(currents, norm)
        (images, channels, *sides), neurons = currents.shape, len(shift)
        limit = (threshold - shift.to(mean.dtype).view(-1, channels)) / scale + mean
        spikes = empty_maps(currents, (images, channels if tied else neurons, *sides))
        fire = "fire_tied" if tied else "fire"
        _kernels(currents)(fire, currents, _rows(currents), channels, neurons // channels, limit, spikes)
        ctx.save_for_backward(currents, mean, scale, limit)
        ctx.surrogate, ctx.dtype, ctx.apart = surrogate, shift.dtype, 0 if tied else channels
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        currents, mean, scale, limit = ctx.saved_tensors
        kind, width = KINDS[ctx.surrogate.name], float(ctx.surrogate.width)
        out, sums = _backward(currents, gradient, ctx.apart, mean, scale, limit, kind, width, scale)
        return out, sums[0].flatten().to(ctx.dtype), None, None, None, None


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, currents, weight, bias, norm):  # type: ignore[no-untyped-def]
        mean, scale = moments_of(currents, norm)
        factor = scale * weight.to(mean.dtype)
        shift = bias - mean * factor
        out = empty_maps(currents, currents.shape)
        _kernels(currents)("affine", currents, _rows(currents), currents.shape[1], factor, shift.to(mean.dtype), out)
        ctx.save_for_backward(currents, mean, scale, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        currents, mean, scale, weight = ctx.saved_tensors
        out, sums = _backward(currents, gradient, 0, mean, scale, mean[None], 0, 1.0, scale * weight)
        return out, sums[1, 0].to(weight.dtype), sums[0, 0].to(weight.dtype), None


def _backward(currents, gradient, apart, mean, scale, limit, kind, width, factor):  # type: ignore[no-untyped-def]
    """Return the currents' gradient, by each channel's factor, and each neuron's sums of dx and dx * x, (2, P, C)."""
    kernels, (population, channels), rows = _kernels(currents), limit.shape, _rows(currents)
    currents, gradient = channels_last(currents), channels_last(gradient)
    arguments = kind, currents, gradient, rows, channels, population, apart, mean, scale, limit, width
    sums = torch.empty(2, population, channels, dtype=torch.float64, device=currents.device)
    kernels("backward_sums", *arguments, sums)
    offset, slope = (sums.sum(1) / rows).to(kernels.real)
    out = empty_maps(currents, currents.shape)
    kernels("backward_currents", *arguments, factor.to(kernels.real), offset, slope, out)
    return out, sums.to(kernels.real)


def _kernels(currents: Tensor) -> "Kernels | TritonKernels":
    kernels = _find(currents)
    assert kernels  # see has_kernels
    return kernels


def _find(currents: Tensor) -> "Kernels | TritonKernels | None":
    if currents.device.type == "cuda":
        return _on_gpu(currents.dtype, currents.device)
    return kernels_for(currents.dtype) if currents.device.type == "cpu" else None


@cache
def _on_gpu(dtype: torch.dtype, device: torch.device) -> "TritonKernels | None":
    """Triton's kernels, if asked for and if they work on this GPU: Triton needs a C compiler and a recent card."""
    if os.environ.get("ONESPIKE_KERNELS") != "1":  # nobody has measured yet whether they are faster
        return None
    try:
        from onespike.functional.norm_fire_triton import TritonKernels
    except ImportError:
        return None
    kernels = TritonKernels(dtype)
    one = torch.ones(1, 1, 1, 1, dtype=dtype, device=device)
    try:
        kernels("affine", one, 1, 1, *torch.ones(2, 1, dtype=kernels.real, device=device), torch.empty_like(one))
    except Exception as error:  # whatever Triton's compiler, the system's or the driver raises
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        warn(f"{device} takes PyTorch's functions for norm and fire: Triton's kernels failed there ({reason})")
        return None
    return kernels


def moments_of(currents: Tensor, norm: nn.BatchNorm2d, times: int = 1) -> tuple[Tensor, Tensor]:
    """Return each channel's mean and 1 / sqrt(variance + epsilon), and update the norm's running statistics.

    Both are over all pixels of the batch; for the running variance, each pixel counts `times` times.
    """
    rows, real = _rows(currents), _kernels(currents).real
    mean, variance, far = _around(currents, currents[0, :, 0, 0].to(real))
    if far.any():  # the first pixel is an outlier of its channel; a GPU is waited for
        again = _around(currents, mean.to(real))
        mean, variance = (torch.where(far, new, old) for new, old in zip(again, (mean, variance), strict=False))
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        momentum = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
        unbiased = variance * (times * rows / (times * rows - 1))
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), momentum)
    scale = (variance + norm.eps).rsqrt()
    return mean.to(real), scale.to(real)


def _around(currents: Tensor, pivot: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each channel's mean and variance, from differences to a pivot, and where the pivot was too far off.

    The variance is the mean of their squares less the square of their mean: the further off, the more digits are lost.
    """
    sums = torch.empty(2, len(pivot), dtype=torch.float64, device=currents.device)
    _kernels(currents)("moments", currents, _rows(currents), len(pivot), pivot, sums)
    offset, square = sums / _rows(currents)
    lost = offset**2
    variance = square - lost
    return pivot + offset, variance, lost > _FAR * variance


def _rows(currents: Tensor) -> int:
    return currents.numel() // currents.shape[1]
