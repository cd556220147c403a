"""What strictly spiking networks share: their config, and neurons after a batch norm.

After the stem, every weight layer reads zeros and ones. A batch norm stands directly before each threshold:

    V[k] = (I - mean) / deviation + shift[k]          S[k] = 1 where V[k] > threshold, else 0          k = 1..P

The P neurons of a channel, its population, share its current I and differ in their learned shift, that is, in their
threshold. Each has its own weights in the next layer.
"""

from dataclasses import dataclass, field
from functools import partial
from statistics import NormalDist
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError
from onespike.functional import (
    fire_over_time,
    has_kernels,
    has_kernels_over_time,
    norm_fire,
    partition,
    recompose,
    region_threshold,
)
from onespike.functional.norm_fire import computes
from onespike.functional.window import window_kind_at
from onespike.models.over_time import OverTimeNetwork, each_step
from onespike.models.recompute import run_again_later
from onespike.models.refusals import DILATED, expect_spikes_over_time, expect_whole_spikes, leaves_fractions
from onespike.models.registry import ModelConfig
from onespike.neurons import LIF, Carry, Neuron, NeuronConfig, make_neuron
from onespike.neurons.base import stacked
from onespike.neurons.integrate_fire import MOST
from onespike.units import ConvUnit, UnitConfig
from onespike.units.channel import ChannelLinear
from onespike.units.layers import BatchNorm, Conv3x3, is_watched


@dataclass(frozen=True)
class StrictConfig(ModelConfig):
    """Options of a strictly spiking network.

    Attributes:
        name: The registered model these values started from.
        preset: The preset that changed them: "ann" (ReLU instead of neurons: the twin that comparisons are made with;
            with windows it takes fusion "none", with dilated ones region_threshold null), or "windows" (the paper's
            windows, potentials handed on and fused; depth 3, one neuron a channel, no whitening).
        width: Channels of the first stage, and of the stem.
        stages: Channels of each stage, in units of `width`; the first is 1. Each stage but the first halves the map.
        depth: 3x3 convolutions in each stage; with windows an odd number, from 3 on.
        population: Neurons P of each channel, 1..16. They share a current and have a threshold each.
        firing_rate: Share of the neurons that fire before training, above 0, at most 0.5: it sets their initial
            thresholds. Ternary neurons also fire below the negative threshold, which it does not count.
        neuron: The neurons.
        stem: The first layer on the image: "whitening" (2x2 patches, made uncorrelated once by the training images,
            and their negatives; not trained), or "none".
        stem_layers: 3x3 convolutions that read real values, after the first layer; at least 1.
        head: What the head reads of the last map: "or" (the largest spike of a neuron), or "mean" (all of it: linear,
            then the mean over the map).
        attention: Channel attention: one hidden neuron for this many channels, such as 8; 0 is off. Not with windows.
        windows: How two convolutions in a row, at one width, see the map: as a whole ("none"), or cut into windows with
            potentials handed from one to the next: "average", "dilated", or "alternating".
        fusion: How the two potentials that meet at a neuron are merged: a name in `onespike.functional.FUSIONS`, or
            "none", which hands nothing on. Without windows nothing is handed on.
        theta: Radian factor of the fusion, 0 < theta <= 1.
        region_threshold: Threshold, 0..1, above which fractions of a spike become whole spikes where dilated windows
            overlap; null leaves the fractions.
        time_steps: Time steps T for which an image is shown; logits are averaged. Frames of events bring their own.
            From one step to the next, a neuron that fired starts at 0; any other keeps `decay` of its potential.
        strict: Refuse options by which a layer after the stem would read anything but zeros and ones (or, from ternary
            neurons, minus ones).
    """

    preset: str = ""
    width: int = 48
    stages: tuple[int, ...] = (1, 4, 4)
    depth: int = 2
    population: int = 2
    firing_rate: float = 0.25
    neuron: NeuronConfig = field(default_factory=lambda: NeuronConfig(surrogate="triangle", surrogate_width=2.0))
    stem: Literal["whitening", "none"] = "whitening"
    stem_layers: int = 1
    head: Literal["or", "mean"] = "or"
    attention: int = 0
    windows: Literal["none", "average", "dilated", "alternating"] = "none"
    fusion: str = "sincos"
    theta: float = 0.5
    region_threshold: float | None = 0.1
    time_steps: int = 1
    strict: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages:
            raise OnespikeError("stages: expected the channels of at least one stage, got none")
        if self.stages[0] != 1:
            raise OnespikeError(f"stages: expected 1 as the first, since `width` is the stem's, got {self.stages[0]}")
        if not 1 <= self.population <= MOST:
            raise OnespikeError(f"population: expected 1..{MOST}, got {self.population}")
        expect_spikes_over_time(self.neuron, self.time_steps)
        if self.attention < 0 or self.attention > self.width:
            raise OnespikeError(f"attention: expected 0 or up to width, {self.width}, got {self.attention}")
        if not 1e-6 <= self.firing_rate <= 0.5:
            raise OnespikeError(f"firing_rate: expected 1e-6 <= firing_rate <= 0.5, got {self.firing_rate}")
        assert self.units  # building it checks its ranges
        if self.region_threshold is not None and not 0 <= self.region_threshold < 1:
            raise OnespikeError(f"region_threshold: expected 0 <= region_threshold < 1, got {self.region_threshold}")
        if self.windows != "none" and (self.depth < 3 or self.depth % 2 == 0):
            odd = "one convolution that changes the width, then pairs in windows"
            raise OnespikeError(f"depth: with windows expected an odd number from 3 on ({odd}), got {self.depth}")
        if self.windows != "none" and self.attention:
            raise OnespikeError(f"attention: expected 0 with windows, whose units have none, got {self.attention}")
        if self.preset == "ann" and self.windows != "none" and self.fusion != "none":
            raise OnespikeError(f"preset ann: with windows expected --model.fusion none, got {self.fusion}")
        if self.windows in DILATED:
            expect_whole_spikes(self.neuron, self.region_threshold)
        kind, threshold = self.neuron.neuron, "null" if self.region_threshold is None else self.region_threshold
        fractions = f"region_threshold {threshold} (expected below 0.25)"
        real = {f"neuron {self.neuron.name}": not kind.spiking or kind.levels > 1}
        real |= {fractions: leaves_fractions(self.windows, self.region_threshold)}
        for name, is_real in real.items():
            if self.strict and is_real:
                raise OnespikeError(f"{name}: behind the stem a layer would read real values; set --model.strict false")

    @property
    def units(self) -> UnitConfig:
        """The options that a unit in windows needs."""
        return UnitConfig(self.neuron, self.fusion, self.theta)


#: Sizes by one rule: the first stage has `width` channels, the others 4 times as many; the larger ones are deeper.
SIZES: dict[str, dict[str, int]] = {
    "m": {},
    "xs": {"width": 16},
    "s": {"width": 32},
    "l": {"width": 64, "depth": 3},
    "xl": {"width": 96, "depth": 3},
}

#: The fields that each preset changes in any of the models.
PRESETS: dict[str, dict[str, Any]] = {
    "ann": {"neuron": {"name": "relu", "surrogate": "rectangle", "surrogate_width": 1.0}, "strict": False},
    "windows": {"windows": "alternating", "depth": 3, "stem": "none", "population": 1},
}


class StrictNetwork(OverTimeNetwork):
    """A stem, and parts after it; at one time step, these take maps (B, C, H, W) without a time axis."""

    stem: nn.Module

    @property
    def encoder(self) -> nn.Module:
        """The stem."""
        return self.stem

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, K); frames (T, B, C, H, W) to (T, B, K)."""
        if images.ndim == 5 or self.config.time_steps > 1:
            return super().forward(images)
        x, again = self.stem(images), self.recompute and torch.is_grad_enabled()
        for part in map(run_again_later, self.segments()) if again else self.parts():
            x = part(x)
        return x


class Thresholds(nn.Module):
    """A batch norm and a learned shift for each neuron: currents (B, C, H, W) to potentials (B, P*C, H, W).

    With initial shifts, and normally distributed currents, the P neurons fire at the rates 2r/(P+1), …, 2rP/(P+1),
    whose mean is r = `config.firing_rate`. Neuron k of channel c is channel k*C + c.
    """

    def __init__(self, channels: int, config: StrictConfig) -> None:
        super().__init__()
        self.population = config.population
        self.norm = BatchNorm(channels, affine=False)
        self.shift = nn.Parameter(torch.empty(self.population * channels))
        shares = [2 * config.firing_rate * k / (self.population + 1) for k in range(1, self.population + 1)]
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
    """A batch norm, thresholds and neurons: currents (B, C, H, W) to spikes (B, P*C, H, W), or over time."""

    carries = True

    def __init__(self, channels: int, config: StrictConfig) -> None:
        neuron = make_neuron(config.population * channels, config.neuron)
        super().__init__(Thresholds(channels, config), neuron)
        self.population = config.population

    def forward(self, currents: Tensor, carry: Carry | None = None) -> Tensor:
        """Fire; with a `carry`, currents are (T, B, C, H, W).

        In training this is one fused operation where possible, unless a hook looks in between: at one time step, or
        over time if no state comes in and none goes out.
        """
        thresholds, neuron = cast("tuple[Thresholds, Neuron]", tuple(self))
        fused = self._can_fuse()
        if carry is None:
            if fused and has_kernels(currents):
                shift, norm, threshold = thresholds.shift, thresholds.norm, neuron.constant_threshold
                return norm_fire(currents, shift, norm, threshold, neuron.surrogate)
            return neuron(neuron.driven(thresholds(currents), None))  # as at a first time step
        alone = fused and carry.ends and carry.before() is None and neuron.raw_decay is None
        if alone and has_kernels_over_time(currents):
            carry.after.append(None)
            shift, norm, threshold = thresholds.shift, thresholds.norm, neuron.constant_threshold
            return fire_over_time(currents, shift, norm, threshold, neuron.constant_decay, neuron.surrogate)
        return neuron.over_time(each_step(currents, thresholds), carry)

    def _can_fuse(self) -> bool:
        """Whether the kernels compute what its two layers do: both are the library's own, in training, unwatched."""
        thresholds, neuron = cast("tuple[Thresholds, LIF]", tuple(self))
        if type(thresholds) is not Thresholds or type(neuron) is not LIF or type(thresholds.norm) is not BatchNorm:
            return False
        known = computes(neuron.surrogate) and neuron.raw_threshold is None and not thresholds.norm.affine
        training = thresholds.training and thresholds.norm.training
        return known and training and not is_watched(thresholds, thresholds.norm, neuron)

    def kept_over_time(self, spikes: Tensor, currents: Tensor, carry: Carry | None = None) -> tuple[int, int]:  # noqa: ARG002
        """How many values a time step keeps for the next, and the number of steps, as `OverTime` says it."""
        neuron = cast("Neuron", self[1])
        return (spikes[0].numel() * neuron.values_kept, len(spikes)) if spikes.ndim == 5 else (0, 1)


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


class Head(nn.Linear):
    """Linear, from spikes of the last map to logits: on each neuron's largest one, or averaged over all pixels."""

    def __init__(self, channels: int, num_classes: int, kind: str) -> None:
        super().__init__(channels, num_classes)
        self.kind = kind

    def forward(self, spikes: Tensor) -> Tensor:
        """Map (B, C, L, L) to (B, K)."""
        if self.kind == "or":
            return super().forward(spikes.amax((-2, -1)))
        return super().forward(spikes.movedim(1, -1)).mean((1, 2))  # linear first: a mean of spikes is no spike


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


def make_conv(in_channels: int, out_channels: int, config: StrictConfig) -> nn.Module:
    """A 3x3 convolution that reads spikes, with attention if the config asks for it."""
    conv = Conv3x3(in_channels, out_channels)
    return Attended(conv, config) if config.attention else conv
