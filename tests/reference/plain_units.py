"""Units, neurons and layers of `tests.reference.sequential`: each written for one window of (B, C, M, M)."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from onespike.models import OnespikeConfig

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
BIDIRECTIONAL = ("lstm", "bigru", "birnn")


class Step(torch.autograd.Function):
    """1 where v > threshold, else 0; differentiated as if it were smooth."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, threshold: Tensor, surrogate: str, width: float) -> Tensor:
        """Fire."""
        ctx.save_for_backward(v, threshold)
        ctx.surrogate, ctx.width = surrogate, width
        return (v > threshold).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Multiply by the surrogate's derivative."""
        v, threshold = ctx.saved_tensors
        d = (v - threshold) / ctx.width
        match ctx.surrogate:
            case "rectangle":
                slope = (d.abs() < 0.5).to(d.dtype)
            case "triangle":
                slope = (1 - d.abs()).clamp(min=0)
            case "sigmoid":
                slope = 4 * torch.sigmoid(4 * d) * torch.sigmoid(-4 * d)
            case "gaussian":
                slope = (-math.pi * d * d).exp()
            case _:
                slope = 1 / (1 + (math.pi * d) ** 2)
        slope = slope / ctx.width
        to_threshold = (-gradient * slope).sum_to_size(threshold.shape) if ctx.needs_input_grad[1] else None
        return gradient * slope, to_threshold, None, None


class PlainFiring(nn.Module):
    """Fires above a threshold, or, in an artificial network, lets pass what is positive."""

    def __init__(self, channels: int, config: OnespikeConfig) -> None:
        super().__init__()
        self.config = config
        self.raw_threshold = _parameter(config.neuron.learnable_threshold, channels)

    def threshold(self, like: Tensor) -> Tensor:
        """The threshold, in the type of a tensor."""
        return like.new_tensor(self.config.neuron.threshold) if self.raw_threshold is None else self.raw_threshold.exp()

    def forward(self, v: Tensor) -> Tensor:
        """Map (B, C, M, M) to spikes."""
        if self.config.neuron.name == "relu":
            return v.relu()
        neuron = self.config.neuron
        return Step.apply(v, self.threshold(v), neuron.surrogate, neuron.surrogate_width)


class PlainNeuron(PlainFiring):
    """Leaky integrate-and-fire neurons, for a single window."""

    def __init__(self, channels: int, config: OnespikeConfig) -> None:
        super().__init__(channels, config)
        self.raw_decay = _parameter(config.neuron.learnable_decay, channels)

    def forward(self, v: Tensor) -> Tensor:
        """Map (B, C, M, M) to spikes."""
        return super().forward(v)

    def charge(self, current: Tensor, handed: Tensor | None, own: Tensor | None) -> Tensor:
        """V = alpha * P + alpha * V(t-1) * (1 - S(t-1)) + I."""
        decay = self.config.neuron.decay if self.raw_decay is None else self.raw_decay.sigmoid()
        v = current if own is None else current + decay * own
        return v if handed is None else v + decay * handed

    def handed_on(self, v: Tensor, s: Tensor) -> Tensor:
        """What the next window receives."""
        match self.config.neuron.reset:
            case "zero":
                return v * (1 - s)
            case "subtract":
                return v - self.threshold(v) * s
            case _:
                return v


class PlainConvUnit(nn.Module):
    """Two convolutional layers; what it carries from window to window are the potentials of both."""

    def __init__(self, channels: int, config: OnespikeConfig) -> None:
        super().__init__()
        self.out_channels, self.config = channels, config
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = norm(config, channels), norm(config, channels)
        self.neuron1, self.neuron2 = PlainNeuron(channels, config), PlainNeuron(channels, config)

    def forward(self, windows: Iterator[Tensor], _above: Any, kept: list[Any]) -> tuple[list[Tensor], None, list[Any]]:
        """Run the windows; `kept` is what the neurons keep of the time step before, for each window."""
        out: list[Tensor] = []
        keeping: list[Any] = []
        handed1: Any = None
        handed2: Any = None
        for number, spikes in enumerate(windows):
            own1, own2 = kept[number] if kept else (None, None)
            v1 = self.neuron1.charge(self.norm1(self.conv1(spikes)), handed1, own1)
            s1 = self.neuron1(v1)
            fused = None if handed1 is None else fuse(handed1, handed2, self.config)
            v2 = self.neuron2.charge(self.norm2(self.conv2(s1)), fused, own2)
            s2 = self.neuron2(v2)
            if self.config.fusion != "none":
                handed1, handed2 = self.neuron1.handed_on(v1, s1), self.neuron2.handed_on(v2, s2)
            if self.config.time_steps > 1:
                keeping.append((v1 * (1 - s1), v2 * (1 - s2)))
            out.append(s2)
        return out, None, keeping


class PlainTravellingUnit(nn.Module):
    """A layer over a window's pixels; the potentials of the block before meet those of the window before."""

    def __init__(self, channels: int, config: OnespikeConfig) -> None:
        super().__init__()
        self.config = config
        self.out_channels = channels * (2 if config.unit in BIDIRECTIONAL else 1)
        self.layer = PlainMlp(channels, config) if config.unit == "mlp" else PlainCell(channels, config)
        self.norm = norm(config, self.out_channels)
        self.neuron = PlainNeuron(self.out_channels, config)

    def forward(
        self, windows: Iterator[Tensor], above: list[Tensor] | None, kept: list[Any]
    ) -> tuple[list[Tensor], list[Tensor] | None, list[Any]]:
        """Run the windows; `above` are the potentials of the block before, None at the first."""
        out: list[Tensor] = []
        handed: list[Tensor] = []
        keeping: list[Any] = []
        for number, spikes in enumerate(windows):
            current = self.norm(self.layer(spikes))
            fused = None
            if self.config.fusion != "none":
                before = above or [torch.zeros_like(current)] * 2
                neighbour = handed[-1] if handed else before[min(1, len(before) - 1)]
                fused = fuse(before[number if above else 0], neighbour, self.config)
            v = self.neuron.charge(current, fused, kept[number] if kept else None)
            s = self.neuron(v)
            out.append(s)
            handed.append(self.neuron.handed_on(v, s))
            if self.config.time_steps > 1:
                keeping.append(v * (1 - s))
        return out, handed if self.config.fusion != "none" else None, keeping


class PlainCell(nn.Module):
    """The framework's recurrent layer over pixels in row-major order."""

    def __init__(self, channels: int, config: OnespikeConfig) -> None:
        super().__init__()
        kind = CELLS[config.unit.removesuffix("-forward").removeprefix("bi")]
        self.cell = kind(channels, channels, batch_first=True, bidirectional=config.unit in BIDIRECTIONAL)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, M, M) to (B, C', M, M)."""
        out, _ = self.cell(x.flatten(2).transpose(1, 2))
        return out.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])


class PlainLinear(nn.Linear):
    """A linear layer over the channels of an NCHW map."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        return super().forward(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(len(x), -1, *x.shape[2:])


class PlainMlp(nn.Sequential):
    """The layer of the unit "mlp"."""

    def __init__(self, channels: int, config: OnespikeConfig) -> None:
        between = PlainFiring(channels, config) if config.mlp_activation == "spiking" else nn.GELU()
        super().__init__(
            PlainLinear(channels, channels), norm(config, channels), between, PlainLinear(channels, channels)
        )


def fuse(x: Tensor, y: Tensor, config: OnespikeConfig) -> Tensor:
    """Omega of the potential of the layer or block before, and that of the window before."""
    angle = config.theta * math.pi / 2
    match config.fusion:
        case "sincos":
            return 2 * torch.sin(angle * x) * torch.cos(angle * y)
        case "sinsum":
            return torch.sin(angle * (x + y))
        case "nested":
            return 2 * torch.sin(angle * x * torch.cos(angle * y))
        case "mean":
            return (x + y) / 2
        case _:
            return x + y


def norm(config: OnespikeConfig, channels: int) -> nn.Module:
    """Batch normalisation inside a branch, if the architecture has any."""
    return nn.Identity() if config.norm == "none" else nn.BatchNorm2d(channels)


def norm_behind(config: OnespikeConfig, channels: int) -> nn.Module:
    """Batch normalisation where a branch ends."""
    return nn.BatchNorm2d(channels) if config.norm == "batch" else nn.Identity()


def norm_before(config: OnespikeConfig, channels: int) -> nn.Module:
    """Batch normalisation where a branch begins."""
    return nn.BatchNorm2d(channels) if config.norm == "before" else nn.Identity()


def _parameter(learnable: str, channels: int) -> nn.Parameter | None:
    """A place for a learned threshold or decay; its value is loaded."""
    if learnable == "none":
        return None
    return nn.Parameter(torch.zeros((channels, 1, 1) if learnable == "channel" else ()))
