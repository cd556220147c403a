"""What strictly spiking networks share: their options, and how they run. After the stem, layers read zeros and ones."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError
from onespike.models.over_time import OverTimeNetwork, expect_floats
from onespike.models.recompute import run_again_later
from onespike.models.refusals import expect_no_reset, expect_region_threshold, expect_spikes_over_time, real_values
from onespike.models.registry import ModelConfig
from onespike.neurons import NeuronConfig
from onespike.neurons.integrate_fire import MOST_NEURONS
from onespike.units import UnitConfig


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
        tied: Whether the neurons of a channel have the same weights in the next layer, not weights of their own. Then
            training, evaluation, ONNX and pt2 add up their spikes first, at a P-th of the cost. Takes the head "mean".
        firing_rate: Share of the neurons that fire before training, above 0, at most 0.5: it sets their initial
            thresholds. Ternary neurons also fire below the negative threshold, which it does not count.
        spacing: Distance of the thresholds of a channel's neurons before training, in deviations of its current: evenly
            spaced from half of it on, whatever `firing_rate` says; at most 4. 0 sets them by `firing_rate`.
        neuron: The neurons.
        stem: The first layer on the image: "whitening" (2x2 patches, from 128 pixels on 4x4, made uncorrelated once by
            the training images, and their negatives; not trained), "rectified" (the same and a ReLU), "spiking" (the
            same and neurons, so that the convolutions behind read spikes), or "none".
        stem_layers: 3x3 convolutions after the first layer, which read real values unless the stem spikes; at least 1.
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
            From one step to the next, a neuron that fired starts at 0; any other keeps `decay` of its potential, but
            those of the stem keep nothing.
        strict: Refuse options by which a layer after the stem would read anything but zeros and ones (or, from ternary
            neurons, minus ones).
    """

    preset: str = ""
    width: int = 48
    stages: tuple[int, ...] = (1, 4, 4)
    depth: int = 2
    population: int = 2
    tied: bool = False
    firing_rate: float = 0.25
    spacing: float = 0.0
    neuron: NeuronConfig = field(default_factory=lambda: NeuronConfig(surrogate="triangle", surrogate_width=2.0))
    stem: Literal["whitening", "rectified", "spiking", "none"] = "whitening"
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
        if not 1 <= self.population <= MOST_NEURONS:
            raise OnespikeError(f"population: expected 1..{MOST_NEURONS}, got {self.population}")
        if self.tied and (self.head, self.attention, self.windows) != ("mean", 0, "none"):
            raise OnespikeError("tied: expected head mean, attention 0 and windows none; set them, or tied false")
        expect_spikes_over_time(self.neuron, self.time_steps)
        if "none" in (self.windows, self.fusion):
            expect_no_reset(self.neuron)
        if self.attention < 0 or self.attention > self.width:
            raise OnespikeError(f"attention: expected 0 or up to width, {self.width}, got {self.attention}")
        if not 1e-6 <= self.firing_rate <= 0.5:
            raise OnespikeError(f"firing_rate: expected 1e-6 <= firing_rate <= 0.5, got {self.firing_rate}")
        if not 0 <= self.spacing <= 4:
            raise OnespikeError(f"spacing: expected 0 <= spacing <= 4, got {self.spacing}")
        assert self.units  # building it checks its ranges
        if self.windows != "none" and (self.depth < 3 or self.depth % 2 == 0):
            odd = "one convolution that changes the width, then pairs in windows"
            raise OnespikeError(f"depth: with windows expected an odd number from 3 on ({odd}), got {self.depth}")
        if self.windows != "none" and self.attention:
            raise OnespikeError(f"attention: expected 0 with windows, whose units have none, got {self.attention}")
        if self.preset == "ann" and self.windows != "none" and self.fusion != "none":
            raise OnespikeError(f"preset ann: with windows expected --model.fusion none, got {self.fusion}")
        expect_region_threshold(self.neuron, self.windows, self.region_threshold)
        if self.strict and (real := real_values(self.neuron, self.windows, self.region_threshold)):
            raise OnespikeError(f"{real[0]}: behind the stem a layer would read real values; set --model.strict false")

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
        expect_floats(images)
        x, again = self.stem(images), self.recompute and torch.is_grad_enabled()
        for part in map(run_again_later, self.segments()) if again else self.parts():
            x = part(x)
        return x
