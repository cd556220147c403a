"""Batch norm and firing over time as one operation: it writes neither the normalised currents nor the potentials.

It saves the currents and recomputes the potentials in the backward pass, pixel by pixel.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from onespike.functional.kernels import channels_last, empty_maps, is_plain, is_traced, kernels_for, plain
from onespike.functional.norm_fire import CHANNELS, KINDS, expect_kernels, expect_neurons, moments_of
from onespike.functional.spike import Surrogate, as_number

#: Most potentials of one pixel (time steps times channels), which are on a thread's stack.
_MOST = 2**15
_SOURCE = "over_time_kernels.c"


def has_kernels_over_time(currents: Tensor) -> bool:
    """Whether `fire_over_time` takes these currents, (T, B, C, H, W): channels last, on a CPU with a C compiler.

    The time steps lie one behind the other in memory, or are a single step, expanded.
    """
    if currents.device.type != "cpu" or currents.dim() != 5 or not currents.numel() or is_traced():
        return False
    one, (steps, _, channels) = currents[0], currents.shape[:3]
    if currents.numel() == channels:  # as for `has_kernels`
        return False
    fits = steps * channels <= _MOST and channels <= CHANNELS and _stride(currents) in (0, one.numel())
    if not fits or not is_plain(currents) or not one.is_contiguous(memory_format=torch.channels_last):
        return False
    return None not in (kernels_for(currents.dtype), kernels_for(currents.dtype, _SOURCE))


def fire_over_time(
    currents: Tensor, shift: Tensor, norm: nn.BatchNorm2d, threshold: float, decay: float, surrogate: Surrogate
) -> Tensor:
    """Normalise by the batch's statistics, charge and fire over time, in training; potentials start at 0.

        V[t] = (I[t] - mean) / deviation + shift + decay * V[t-1] * (1 - S[t-1])        S[t] = 1 where V[t] > threshold

    starting from V[-1] = 0, with each channel's mean and deviation over all time steps.

    Args:
        currents: I, (T, B, C, H, W); `has_kernels_over_time` must hold for them.
        shift: One value for each neuron, (P*C,); neuron k of channel c has the index k*C + c.
        norm: The batch norm: its epsilon is used, its running mean and variance are updated, weights are ignored.
        threshold: Potential above which a neuron fires, > 0.
        decay: Share of its potential that a neuron which did not fire keeps, 0..1.
        surrogate: The surrogate derivative; `norm_fire.computes` must hold for it.

    Returns:
        The spikes, (T, B, P*C, H, W).
    """
    expect_kernels(has_kernels_over_time, currents, norm)
    threshold, decay = as_number("threshold", threshold), as_number("decay", decay)
    expect_neurons(shift, currents, threshold, surrogate)
    if threshold <= 0:
        raise ValueError(f"threshold: expected a number above 0, got {threshold}")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay: expected 0 <= decay <= 1, got {decay}")
    return _FireOverTime.apply(currents, shift, norm, threshold, decay, surrogate)


class _FireOverTime(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, currents: Tensor, shift: Tensor, norm: nn.BatchNorm2d, *constants: Any) -> Tensor:
        (steps, batch, _, *sides), once = currents.shape, _stride(currents) == 0
        mean, scale = moments_of(currents[0] if once else currents.flatten(0, 1), norm, steps if once else 1)
        vectors = mean, scale, plain(shift.to(mean.dtype).contiguous())
        spikes = empty_maps(currents, (steps * batch, len(shift), *sides))
        threshold, decay, _ = constants
        ctx.kernels = kernels_for(currents.dtype, _SOURCE)
        ctx.kernels("fire_over_time", *_sized(currents, len(shift)), *vectors, threshold, decay, spikes)
        ctx.save_for_backward(currents, *vectors)
        ctx.constants, ctx.dtype = constants, shift.dtype
        return spikes.unflatten(0, (steps, batch))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (currents, mean, scale, shift), (threshold, decay, surrogate) = ctx.saved_tensors, ctx.constants
        steps, batch, channels, *sides = currents.shape
        if _stride(currents):
            currents = channels_last(currents.flatten(0, 1)).unflatten(0, (steps, batch))
        else:
            currents = channels_last(currents[0]).expand(currents.shape)
        gradient = channels_last(gradient.flatten(0, 1))
        sums = currents.new_empty(2, len(shift) // channels, channels, dtype=torch.float64)
        out = empty_maps(currents, (steps * batch, channels, *sides))
        arguments = *_sized(currents, len(shift)), mean, scale, shift, threshold, decay
        way = KINDS[surrogate.name], gradient, float(surrogate.width)
        ctx.kernels("backward_over_time", *arguments, *way, sums, out)
        offset, slope = (sums.sum(1) / (out.numel() // channels)).to(mean.dtype)
        ctx.kernels("normalise_over_time", *_sized(currents, channels)[:-1], mean, scale, offset, slope, out)
        return out.unflatten(0, (steps, batch)), sums[0].flatten().to(ctx.dtype), None, None, None, None


def _sized(currents: Tensor, neurons: int) -> tuple[Tensor, int, int, int, int, int]:
    """The kernels' leading arguments: currents, steps, stride and pixels of a step, channels, neurons of a channel."""
    steps, _, channels = currents.shape[:3]
    return currents, steps, _stride(currents), currents[0].numel() // channels, channels, neurons // channels


def _stride(currents: Tensor) -> int:
    """Numbers from one time step to the next: 0 if a single step is expanded, a whole step if there is only one."""
    return currents.stride(0) if len(currents) > 1 else currents.numel()
