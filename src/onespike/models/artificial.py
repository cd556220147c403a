"""Artificial networks: ResNet-18, ResMLP, and a vision transformer."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError
from onespike.models.affine import Affine
from onespike.models.initialise import initialise
from onespike.models.patch import PatchEmbedding, PatchMerging
from onespike.models.registry import ModelConfig, expect_multiple, register_model
from onespike.neurons import QCFS
from onespike.units.channel import ChannelLinear

#: Activations by name: functions from the number of levels to a module.
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda _: nn.ReLU(),
    "relu6": lambda _: nn.ReLU6(),
    "gelu": lambda _: nn.GELU(),
    "silu": lambda _: nn.SiLU(),
    "qcfs": QCFS,
}

#: The supplement's ResMLP and its vision transformer: a number is a layer of that width that mixes pixels, F one that
#: mixes channels, PM patch merging. The supplement leaves out the PM before 384, but the width needs it. We read MLP-96
#: in the transformer's third stage as a slip for MLP-192.
LAYERS = ("48", "F-48", "48", "PM", "96", "F-96", "96", "PM", *("192", "F-192") * 3, "PM", "384", "F-384", "384")
#: Channels of one attention head; largest side of a window: a map that is no larger is one window.
HEAD, WINDOW = 24, 4
#: Initial value of the learned factors at the end of residual branches: ResMLP's LayerScale for up to 18 layers.
SCALE = 0.1


@dataclass(frozen=True)
class ArtificialConfig(ModelConfig):
    """Options of every artificial network.

    Attributes:
        activation: "relu", "relu6", "gelu", "silu", or "qcfs", a clipped staircase with a learned threshold.
        levels: Steps of that staircase.
    """

    activation: Literal["relu", "relu6", "gelu", "silu", "qcfs"] = "relu"
    levels: int = 1

    def make_activation(self, inplace: bool = False) -> nn.Module:  # noqa: ARG002 - how timm's networks ask for one
        """Make one activation."""
        return ACTIVATIONS[self.activation](self.levels)


@dataclass(frozen=True)
class BranchedConfig(ArtificialConfig):
    """Options of artificial networks with residual branches.

    Attributes:
        branches: What the layers of a block read: "real", the residual stream, or "spiking", an activation of it, so
            that they read spikes after conversion; attention then has no softmax.
    """

    branches: Literal["real", "spiking"] = "real"


@dataclass(frozen=True)
class ResNetConfig(ArtificialConfig):
    """A residual network. All its layers but the first read activations."""

    name: str = "resnet18"


@register_model(ResNetConfig, {"resnet18": {}})
def resnet18(config: ResNetConfig, num_classes: int, in_channels: int, image_size: int) -> nn.Module:  # noqa: ARG001
    """Build timm's ResNet-18 (He et al. 2016) for small images of any size, without max pooling."""
    import timm  # the import takes half a second

    make = config.make_activation
    network = timm.create_model("resnet18", num_classes=num_classes, in_chans=in_channels, act_layer=make)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, stride=2, padding=1, bias=False)  # four times the cost without stride
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


class TokenMixing(nn.Module):
    """A linear layer over the pixels of a map, the same for every channel, with a shortcut; `before` runs first."""

    def __init__(self, channels: int, side: int, before: nn.Module) -> None:
        super().__init__()
        self.channels, self.side, self.before = channels, side, before
        self.linear, self.after = nn.Linear(side**2, side**2), Affine(channels, SCALE)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, L, L) to the same shape."""
        return x + self.after(self.linear(self.before(x).flatten(2)).unflatten(2, (self.side, self.side)))


class FeedForward(nn.Module):
    """Linear, activation, linear over the channels of each pixel, with a shortcut; `before` runs first."""

    def __init__(self, channels: int, activation: Callable[[], nn.Module], before: nn.Module) -> None:
        super().__init__()
        self.channels, self.before, hidden = channels, before, 3 * channels
        self.expand, self.activation = ChannelLinear(channels, hidden), activation()
        self.reduce, self.after = ChannelLinear(hidden, channels), Affine(channels, SCALE)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.after(self.reduce(self.activation(self.expand(self.before(x)))))


class Stages(nn.Module):
    """Patch embedding, `LAYERS`, mean over the map, classifier.

    `mixing` makes a layer that mixes pixels, given the channels and the side of the map; `feed_forward` one that mixes
    channels, given their number. `sizes` are the number of classes, and the channels and the side of the images.
    """

    def __init__(
        self, name: str, mixing: Callable[[int, int], nn.Module], feed_forward: Callable[[int], nn.Module], *sizes: int
    ) -> None:
        super().__init__()
        num_classes, in_channels, image_size = sizes
        expect_multiple(name, image_size, 16)  # the stem halves it, and so does each patch merging
        widths = [int(layer.split("-")[-1]) if layer != "PM" else 0 for layer in LAYERS]
        channels, side = widths[0], image_size // 2
        self.stem = PatchEmbedding(in_channels, channels, 2)
        self.layers = nn.Sequential()
        for position, (layer, width) in enumerate(zip(LAYERS, widths, strict=True)):
            if layer == "PM":
                self.layers.append(PatchMerging(channels, widths[position + 1]))
                channels, side = widths[position + 1], side // 2
            else:
                self.layers.append(feed_forward(width) if "-" in layer else mixing(width, side))
        self.head = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, C, H, W); logits (B, K)."""
        return self.head(self.layers(self.stem(images)).mean((-2, -1)))


@dataclass(frozen=True)
class ResMLPConfig(BranchedConfig):
    """A ResMLP (Touvron et al. 2022) in stages: token mixing and channel feed-forward, each behind an affine map."""

    name: str = "resmlp12"


@register_model(ResMLPConfig, {"resmlp12": {}})
def resmlp(config: ResMLPConfig, *sizes: int) -> Stages:
    """Build a ResMLP, for images whose side is a multiple of 16."""
    make = config.make_activation

    def before(channels: int) -> nn.Module:
        return nn.Sequential(Affine(channels), make()) if config.branches == "spiking" else Affine(channels)

    def mixing(channels: int, side: int) -> nn.Module:
        return TokenMixing(channels, side, before(channels))

    return Stages(config.name, mixing, lambda channels: FeedForward(channels, make, before(channels)), *sizes)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of a map, with a shortcut; a learned bias for each relative position.

        real:     softmax(q k^T / sqrt(d) + bias) v
        spiking:  a((a(q) a(k)^T / (M^2 sqrt(d)) + bias) a(v))

    In the spiking kind, a is the activation, and q, k and v read their input through it, too. M^2 is the number of
    pixels of a window: without it, nothing would keep a sum over them from growing.

    Windows start at the corner, or are shifted by half their side and wrap around the edges: two layers in a row see
    across each other's borders. (Swin masks pairs across the edge; here they may attend.) A map of one window is never
    shifted. Channels are a multiple of `HEAD`. `activation` makes the activation of the spiking kind; None stands for
    the real kind.
    """

    def __init__(
        self, channels: int, side: int, shifted: bool, activation: Callable[[], nn.Module] | None, scale: float = SCALE
    ) -> None:
        super().__init__()
        self.channels, self.side, self.window = channels, side, min(WINDOW, side)
        if side % self.window:
            needs = f"attention in windows needs a multiple of {self.window} pixels in each map, got {side}"
            raise OnespikeError(f"image_size: {needs}; resize with --data.image_size")
        self.shift = self.window // 2 if shifted and side > self.window else 0
        self.heads, self.count, self.spiking = channels // HEAD, side // self.window, activation is not None
        self.scale = HEAD**-0.5 / (self.window**2 if self.spiking else 1)
        make = activation or nn.Identity
        self.before, self.between = make(), make()
        self.query, self.key, self.value = (nn.Sequential(ChannelLinear(channels, channels), make()) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(self.heads, (2 * self.window - 1) ** 2))
        self.places = nn.Buffer(relative_places(self.window), persistent=False)
        self.project, self.after = ChannelLinear(channels, channels), Affine(channels, scale)

    def cut(self, x: Tensor) -> Tensor:
        """Cut (B, C, L, L) into windows and heads: (B, N, heads, M*M, d)."""
        n, m = self.count, self.window
        cut = x.unflatten(1, (self.heads, HEAD)).unflatten(4, (n, m)).unflatten(3, (n, m))  # (B, h, d, n, m, n, m)
        return cut.permute(0, 3, 5, 1, 4, 6, 2).flatten(4, 5).flatten(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """Put windows and heads together again, the inverse of `cut`."""
        cut = x.unflatten(1, (self.count, self.count)).unflatten(4, (self.window, self.window))  # (B, n, n, h, m, m, d)
        return cut.permute(0, 3, 6, 1, 4, 2, 5).flatten(5, 6).flatten(3, 4).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, L, L) to the same shape."""
        moved = self.before(x)
        moved = torch.roll(moved, (-self.shift, -self.shift), (2, 3)) if self.shift else moved
        query, key, value = (self.cut(project(moved)) for project in (self.query, self.key, self.value))
        weights = torch.matmul(query, key.transpose(-2, -1)) * self.scale + self.bias[:, self.places]
        weights = weights if self.spiking else torch.softmax(weights, -1)
        mixed = self.after(self.project(self.between(self.join(torch.matmul(weights, value)))))
        return x + (torch.roll(mixed, (self.shift, self.shift), (2, 3)) if self.shift else mixed)


def relative_places(side: int) -> Tensor:
    """Number the relative positions of a window's pixels: (M*M, M*M), values 0..(2M-1)^2-1."""
    pixels = torch.cartesian_prod(torch.arange(side), torch.arange(side))
    down, right = (pixels[:, None] - pixels + side - 1).unbind(-1)
    return down * (2 * side - 1) + right


@dataclass(frozen=True)
class ViTConfig(BranchedConfig):
    """A vision transformer in stages (after Swin, Liu et al. 2021): attention inside windows, no normalisation."""

    name: str = "vit12"


@register_model(ViTConfig, {"vit12": {}})
def vit(config: ViTConfig, *sizes: int) -> Stages:
    """Build a vision transformer, for images of 16, 32, or a multiple of 64 pixels a side."""
    make, number, spiking = config.make_activation, itertools.count(), config.branches == "spiking"

    def mixing(channels: int, side: int) -> nn.Module:
        return WindowAttention(channels, side, next(number) % 2 == 1, make if spiking else None)

    def feed_forward(channels: int) -> nn.Module:
        return FeedForward(channels, make, make() if spiking else nn.Identity())

    return Stages(config.name, mixing, feed_forward, *sizes)
