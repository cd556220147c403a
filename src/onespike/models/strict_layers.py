"""The layers of strictly spiking networks: after the stem, every weight layer reads zeros and ones.

A batch norm stands directly before each threshold:

    V[k] = (I - mean) / deviation + shift[k]          S[k] = 1 where V[k] > threshold, else 0          k = 1..P

The P neurons of a channel, its population, share its current I and differ in their learned shift, that is, in their
threshold. Each has its own weights in the next layer, or all have the same ones: then they are tied,

    sum over k of W * S[k] = W * (sum over k of S[k])

and training computes the right side, at a P-th of the cost. So does, inside `adding_up`, whoever asks for logits or for
what neurons fire, but not for what layers read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import NormalDist
from typing import Any, cast

import torch
from torch import Tensor, nn

from onespike.functional import fire_over_time, has_kernels, has_kernels_over_time, norm_fire
from onespike.functional.norm_fire import computes
from onespike.functional.window import partition, recompose, region_threshold, window_kind_at
from onespike.models.over_time import each_step
from onespike.models.strict import StrictConfig
from onespike.neurons import LIF, Carry, Neuron, make_neuron
from onespike.neurons.over_time import stacked
from onespike.units import ConvUnit
from onespike.units.channel import ChannelLinear
from onespike.units.layers import BatchNorm, Conv3x3, is_watched


class Thresholds(nn.Module):
    """A batch norm and a learned shift for each neuron: currents (B, C, H, W) to potentials (B, P*C, H, W).

    With initial shifts, and normally distributed currents, the P neurons fire at the rates 2r/(P+1), …, 2rP/(P+1),
    whose mean is r = `config.firing_rate`. With a spacing s they start at the thresholds s/2, 3s/2, …, so that together
    they round a normalised current x: as many fire as round(x / s) says, from 0 to P. Neuron k of channel c is channel
    k*C + c.
    """

    def __init__(self, channels: int, config: StrictConfig) -> None:
        super().__init__()
        self.population = config.population
        self.norm = BatchNorm(channels, affine=False)
        self.shift = nn.Parameter(torch.empty(self.population * channels))
        numbers = range(1, self.population + 1)
        if config.spacing:
            above = torch.tensor([config.spacing * (0.5 - k) for k in numbers])
        else:
            shares = [2 * config.firing_rate * k / (self.population + 1) for k in numbers]
            above = torch.tensor([NormalDist().inv_cdf(share) for share in shares])
        threshold = config.neuron.threshold if config.neuron.neuron.spiking else 0.0
        with torch.no_grad():
            driven = make_neuron(1, config.neuron).driven(torch.ones(1, 1), None).flatten()  # by a current of 1
            self.shift.copy_(threshold / driven + above.repeat_interleave(channels))

    def forward(self, currents: Tensor) -> Tensor:
        """Normalise, and add each neuron's shift."""
        normalised = self.norm(currents)
        shared = normalised.repeat(1, self.population, 1, 1) if self.population > 1 else normalised
        return shared + self.shift[:, None, None].to(shared.dtype)


class Firing(nn.Sequential):
    """A batch norm, thresholds and neurons: currents (B, C, H, W) to spikes (B, P*C, H, W), or over time.

    In training, and inside `adding_up`, the spikes of tied neurons are added up: (B, C, H, W).
    """

    carries = True
    adds = False  # whether that is so outside of training

    def __init__(self, channels: int, config: StrictConfig) -> None:
        neuron = make_neuron(config.population * channels, config.neuron)
        super().__init__(Thresholds(channels, config), neuron)
        self.population, self.tied = config.population, config.tied

    def forward(self, currents: Tensor, carry: Carry | None = None) -> Tensor:
        """Fire; with a `carry`, currents are (T, B, C, H, W).

        In training this is one fused operation where possible, unless a hook looks in between: at one time step, or
        over time if no state comes in and none goes out.
        """
        thresholds, neuron = cast("tuple[Thresholds, Neuron]", tuple(self))
        fused = self._fused()
        if carry is None:
            if fused and has_kernels(currents):
                return norm_fire(currents, *fused, neuron.surrogate, self.tied)
            return self._added(neuron.charge_and_fire(thresholds(currents))[1])  # as at a first time step
        alone = carry.ends and carry.before() is None and neuron.raw_decay is None
        if fused and alone and has_kernels_over_time(currents):
            carry.after.append(None)
            return self._added(fire_over_time(currents, *fused, neuron.constant_decay, neuron.surrogate))
        return self._added(neuron.over_time(each_step(currents, thresholds), carry))

    def _added(self, spikes: Tensor) -> Tensor:
        added = self.tied and (self.training or self.adds)
        return spikes.unflatten(-3, (self.population, -1)).sum(-4) if added else spikes

    def _fused(self) -> tuple[Tensor, BatchNorm, float] | None:
        """The kernels' arguments; None unless both layers are the library's own, in training, and unwatched."""
        thresholds, neuron = cast("tuple[Thresholds, LIF]", tuple(self))
        if type(thresholds) is not Thresholds or type(neuron) is not LIF or type(thresholds.norm) is not BatchNorm:
            return None
        norm = thresholds.norm
        known = computes(neuron.surrogate) and neuron.raw_threshold is None and not norm.affine
        if not (known and thresholds.training and norm.training) or is_watched(thresholds, norm, neuron):
            return None
        return thresholds.shift, norm, neuron.constant_threshold


@contextmanager
def adding_up(network: nn.Module) -> Iterator[None]:
    """Let a network add up the spikes of tied neurons outside of training, too: the same logits, up to rounding.

    As in training, only a `TiedConv` or a `Head` may read what a tied `Firing` gives.
    """
    before = [(one, one.adds) for one in network.modules() if isinstance(one, Firing)]
    try:
        for one, _ in before:
            one.adds = True
        yield
    finally:
        for one, was in before:
            one.adds = was


class Windows(nn.Module):
    """Two convolutions in windows, potentials handed from window to window: spikes (B, P*C, L, L) to spikes."""

    carries = True

    def __init__(self, channels: int, kind: str, config: StrictConfig) -> None:
        super().__init__()
        self.kind, self.region_threshold = kind, config.region_threshold
        self.signed = config.neuron.neuron.signed
        self.unit = ConvUnit(channels, config.units, partial(Thresholds, config=config), config.population)

    def forward(self, spikes: Tensor, carry: Carry | None = None) -> Tensor:
        """Cut into windows, run the unit, recompose; with a `carry` step by step, (T, B, P*C, L, L)."""
        if carry is None:
            return self._step(spikes, None)[0]
        memory, steps = carry.before(), []
        for step in spikes.unbind():
            out, memory = self._step(step, memory)
            steps.append(out)
        carry.after.append(memory)
        return stacked(steps)

    def _step(self, spikes: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """One time step; a side that does not allow dilated windows has average ones."""
        size = spikes.shape[-1]
        kind = window_kind_at(self.kind, size)
        found = self.unit(partition(spikes, kind), None, memory)
        out = recompose(found.spikes, size, kind)
        if kind == "dilated" and self.region_threshold is not None:
            out = region_threshold(out, self.region_threshold, self.signed)
        return out, found.memory


class TiedConv(Conv3x3):
    """A 3x3 convolution with the same weights for all neurons of a channel: it reads their spikes, or their sums."""

    def __init__(self, channels: int, out_channels: int, population: int) -> None:
        super().__init__(channels, out_channels)
        self.adds_up = population

    def forward(self, spikes: Tensor) -> Tensor:
        """Map (B, P*C, H, W), or sums (B, C, H, W), to (B, C', H, W)."""
        if spikes.shape[-3] == self.in_channels:
            return super().forward(spikes)
        return self._conv_forward(spikes, self.weight.repeat(1, self.adds_up, 1, 1), None)


class Head(nn.Linear):
    """Linear, from spikes of the last map to logits: on each neuron's largest one, or averaged over all pixels."""

    def __init__(self, channels: int, num_classes: int, kind: str, adds_up: int = 1) -> None:
        super().__init__(channels, num_classes)
        self.kind, self.adds_up = kind, adds_up

    def reads(self, spikes: Tensor) -> Tensor:
        """What the weights meet of maps (B, C, L, L): (B, C), or (B, L, L, C)."""
        return spikes.amax((-2, -1)) if self.kind == "or" else spikes.movedim(1, -1)

    def forward(self, spikes: Tensor) -> Tensor:
        """Map (B, C, L, L) to (B, K); for tied neurons (B, P*C, L, L), or their sums."""
        spikes = self.reads(spikes)
        weight = self.weight if spikes.shape[-1] == self.in_features else self.weight.repeat(1, self.adds_up)
        logits = nn.functional.linear(spikes, weight, self.bias)  # first: a mean of spikes is no spike
        return logits if self.kind == "or" else logits.mean((1, 2))


class Attended(nn.Module):
    """A convolution whose currents are scaled, channel by channel, by gains that depend on the spikes of the whole map.

        gain = 2 sigmoid(W2 fire(norm(mean over the map of W1 S)))          I = gain * conv(S)

    This is squeeze and excitation (Hu et al. 2018) that stays spiking: both layers read zeros and ones.
    """

    carries = True

    def __init__(self, conv: nn.Conv2d, config: StrictConfig) -> None:
        super().__init__()
        inputs, channels = conv.in_channels, conv.out_channels
        self.conv, hidden = conv, max(1, channels // config.attention)
        self.squeeze, self.fire = ChannelLinear(inputs, hidden, bias=False), Firing(hidden, config)
        self.excite = nn.Linear(config.population * hidden, channels)
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)

    def forward(self, spikes: Tensor, carry: Carry | None = None) -> Tensor:
        """Map spikes (B, C, L, L) to currents (B, C', L, L), or over time."""
        if carry is None:
            said = self.fire(self.squeeze(spikes).mean((-2, -1), keepdim=True))
            return self.conv(spikes) * (2 * self.excite(said.flatten(1)).sigmoid())[..., None, None]
        said = self.fire(each_step(spikes, self.squeeze).mean((-2, -1), keepdim=True), carry)
        gain = 2 * each_step(said.flatten(2), self.excite).sigmoid()
        return each_step(spikes, self.conv) * gain[..., None, None]


def make_conv(channels: int, out_channels: int, config: StrictConfig) -> nn.Module:
    """A 3x3 convolution that reads the spikes of so many channels, with attention if the config asks for it."""
    if config.tied:
        return TiedConv(channels, out_channels, config.population)
    conv = Conv3x3(config.population * channels, out_channels)
    return Attended(conv, config) if config.attention else conv


def make_head(channels: int, num_classes: int, config: StrictConfig) -> Head:
    """The head, which reads the spikes of so many channels."""
    inputs, adds_up = (channels, config.population) if config.tied else (config.population * channels, 1)
    return Head(inputs, num_classes, config.head, adds_up)
