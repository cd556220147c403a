"""Integrate-and-fire neurons of converted networks, and the activation that is trained for them.

The batch axis holds time: a tensor (T*B, …) is T time steps of B images, one step after the other.
"""

import math
from typing import SupportsFloat

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError, shown
from onespike.neurons.base import NeuronConfig
from onespike.neurons.lif import LIF

#: Most neurons for one activation: a convention, the largest graded value that the audit counts in accumulates.
MOST_NEURONS = 16


class IntegrateFire(nn.Module):
    """Integrate-and-fire neurons without leak, reset by subtraction.

        V(0) = threshold / 2
        V(t) = V(t-1) + I(t)                 S(t) = 1 where V(t) > threshold, else 0
        V(t) = V(t) - threshold * S(t)       out(t) = threshold * S(t)

    At one time step a population of P neurons may stand for one activation. They receive the same current and project
    with the same weights, but their thresholds are evenly spaced:

        size = threshold / P                 V = size / 2 + I
        S_k = 1 where V > k * size, else 0   out = size * (S_1 + … + S_P)

    The factor in `out` belongs to the weights of the next layer; kept here, it leaves these comparable with the
    artificial network's. Potentials are in units of one spike's size. At each step a forward hook on `firing` sees the
    spikes and the potentials, (P, B, …). Each neuron's potential is shifted so that all compare with the first neuron's
    threshold.

    Args:
        channels: Number of channels, for a threshold per channel; None for one of the whole layer.
        axis: Axis of the channels, for a threshold per channel.
        time_steps: T.
        surrogate: Stand-in for the derivative of firing, over the potential in units of one spike.
        population: P, 1..16; 1 if there are several time steps.
        surrogate_width: Width of the surrogate, in the same units.
    """

    def __init__(
        self,
        channels: int | None,
        axis: int,
        time_steps: int,
        surrogate: str,
        population: int = 1,
        surrogate_width: float = 1.0,
    ) -> None:
        super().__init__()
        expect_neurons(time_steps, population)
        self.axis, self.time_steps, self.population = axis, time_steps, population
        # Learned as its logarithm, so it cannot leave its range.
        self.raw_threshold = nn.Parameter(torch.zeros(() if channels is None else (channels,)))
        config = NeuronConfig(threshold=1.0, surrogate=surrogate, surrogate_width=surrogate_width)
        self.firing = LIF(1, config, integrates=False)
        self.firing.grouped = True

    @property
    def threshold(self) -> Tensor:
        """The thresholds, () or (C,): what the spikes of a whole population add up to."""
        return self.raw_threshold.exp()

    @property
    def size(self) -> Tensor:
        """The size of one spike, () or (C,)."""
        return self.threshold / self.population

    def forward(self, currents: Tensor) -> Tensor:
        """Map currents (T*B, …) to the number of spikes times the size of one, of the same shape."""
        rows = currents.shape[0]  # `len`, and `chunk` below, would fix it in a graph for any number of images
        if rows % self.time_steps:
            expected = f"expected {self.time_steps} time steps of as many images each"
            raise ValueError(f"currents: {expected}, one step after the other, got {tuple(currents.shape)}")
        size = spread(self.size, self.axis, currents)
        # Potentials are at least as precise as the thresholds, whatever dtype autocast gives the currents.
        charges = currents.to(torch.promote_types(currents.dtype, size.dtype)) / size
        left: Tensor | float = 0.5
        spikes: list[Tensor] = []
        # The gradients of `split` and `squeeze` keep maps channels-last, those of `unbind` and of an index do not.
        for charge in charges.split([rows // self.time_steps] * self.time_steps):
            potential = charge + left
            if self.population == 1:
                fired = self.firing(potential[None]).squeeze(0)
            else:
                fired = self.firing(torch.stack([potential - place for place in range(self.population)])).sum(0)
            spikes.append(fired)
            left = potential - fired if len(spikes) < self.time_steps else left
        return (torch.cat(spikes) if self.time_steps > 1 else spikes[0]) * size

    def kept_over_time(self, spikes: Tensor, currents: Tensor) -> tuple[int, int]:  # noqa: ARG002
        """How many potentials a time step keeps for the next, and the number of steps, given output and input."""
        return currents.numel() // self.time_steps, self.time_steps


class QCFS(nn.Module):
    """A clipped staircase of L = `levels` steps (Bu et al. 2022, "QCFS"): the firing rates that a neuron can have.

        n = ceil(levels * x / threshold - 1/2), clipped to 0..levels          out = threshold * n / levels

    A population of L integrate-and-fire neurons computes the same in one time step, to the bit; one neuron computes the
    same in L time steps, if its input is constant. The threshold, > 0, is learned; the gradient of rounding is 1.
    """

    def __init__(self, levels: int, threshold: float = 2.0) -> None:
        super().__init__()
        if not isinstance(levels, int) or isinstance(levels, bool) or levels < 1:
            raise OnespikeError(f"levels: expected a whole number above 0, got {shown(repr(levels))}")
        if not isinstance(threshold, SupportsFloat) or not 0 < (size := float(threshold)) < math.inf:
            raise OnespikeError(f"threshold: expected a finite number above 0, got {shown(repr(threshold))}")
        self.levels, self.raw_threshold = levels, nn.Parameter(torch.tensor(math.log(size)))

    @property
    def size(self) -> Tensor:
        """The height of one step, ()."""
        return self.raw_threshold.exp() / self.levels

    def forward(self, x: Tensor) -> Tensor:
        """Map values of any shape."""
        size = self.size
        charge = x.to(torch.promote_types(x.dtype, size.dtype)) / size
        clipped = charge.clamp(0, self.levels)
        # The operations have the neuron's order, so that both round alike. The gradient is that of `clipped`.
        steps = ((charge + 0.5) - 1).ceil().clamp(0, self.levels)
        return (clipped + (steps - clipped).detach()) * size


def expect_neurons(time_steps: int, population: int) -> None:
    """Raise `OnespikeError` unless this many neurons can stand for one activation over this many time steps."""
    for name, number in (("time_steps", time_steps), ("population", population)):
        if not isinstance(number, int) or isinstance(number, bool):
            raise OnespikeError(f"{name}: expected a whole number, got {shown(repr(number))}")
    if time_steps < 1:
        raise OnespikeError(f"time_steps: expected at least 1, got {time_steps}")
    if not 1 <= population <= MOST_NEURONS:
        raise OnespikeError(f"population: expected 1..{MOST_NEURONS}, got {population}")
    if min(time_steps, population) > 1:
        raise OnespikeError(f"population: expected 1 where there are {time_steps} time steps, got {population}")


def spread(values: Tensor, axis: int, like: Tensor) -> Tensor:
    """Shape values per channel, (C,) or (), so that they broadcast along an axis of another tensor."""
    return values if not values.ndim else values.view(-1, *[1] * (like.ndim - 1 - axis % like.ndim))
