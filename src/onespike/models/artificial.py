"""Artificial networks: ResNet-18, ResMLP, and a vision transformer."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError
from onespike.models.affine import BRANCH_SCALE, Affine
from onespike.models.attention import WindowAttention
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
#: mixes channels, PM merges patches to that width. The supplement leaves out the PM before 384, but the width needs it.
#: We read MLP-96 in the transformer's third stage as a slip for MLP-192.
LAYERS: tuple[str, ...] = ("48", "F-48", "48", "PM-96", "96", "F-96", "96", "PM-192", *("192", "F-192") * 3)
LAYERS += ("PM-384", "384", "F-384", "384")


@dataclass(frozen=True)
class ArtificialConfig(ModelConfig):
    """Options of every artificial network.

    Attributes:
        activation: "relu", "relu6", "gelu", "silu", or "qcfs", a clipped staircase with a learned threshold.
        levels: Steps of that staircase; other activations have none.
    """

    activation: Literal["relu", "relu6", "gelu", "silu", "qcfs"] = "relu"
    levels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels > 1 and self.activation != "qcfs":
            expected = "expected 1, as only qcfs has steps; set model.activation qcfs"
            raise OnespikeError(f"levels: {self.levels}, and activation is {self.activation}: {expected}")

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
    """A residual network. All its layers but the first read activations.

    Attributes:
        downsample: The shortcut where a stage halves the map and doubles the channels: "conv", a 1x1 convolution and
            batch norm; or "pool", without weights: means of 2x2 pixels, and the channels twice.
    """

    name: str = "resnet18"
    downsample: Literal["conv", "pool"] = "conv"


class PooledShortcut(nn.Module):
    """Means of 2x2 pixels, and every channel twice: (B, C, L, L) to (B, 2C, L / 2, L / 2), rounded up."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2, ceil_mode=True)  # as many pixels as a convolution of stride 2 makes

    def forward(self, x: Tensor) -> Tensor:
        """Halve the map and double the channels."""
        x = self.pool(x)
        return torch.cat([x, x], 1)


@register_model(ResNetConfig, {"resnet18": {}})
def resnet18(config: ResNetConfig, num_classes: int, in_channels: int, image_size: int) -> nn.Module:  # noqa: ARG001
    """Build timm's ResNet-18 (He et al. 2016) for small images of any size, without max pooling."""
    import timm  # the import takes half a second

    make = config.make_activation
    network = timm.create_model("resnet18", num_classes=num_classes, in_chans=in_channels, act_layer=make)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, stride=2, padding=1, bias=False)  # four times the cost without stride
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    if config.downsample == "pool":
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].downsample = PooledShortcut()
    return network


class TokenMixing(nn.Module):
    """A linear layer over the pixels of a map, the same for every channel, with a shortcut; `before` runs first."""

    def __init__(self, channels: int, side: int, before: nn.Module) -> None:
        super().__init__()
        self.channels, self.side, self.before = channels, side, before
        self.linear, self.after = nn.Linear(side**2, side**2), Affine(channels, BRANCH_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, L, L) to the same shape."""
        return x + self.after(self.linear(self.before(x).flatten(2)).unflatten(2, (self.side, self.side)))


class FeedForward(nn.Module):
    """Linear, activation, linear over the channels of each pixel, with a shortcut; `before` runs first."""

    def __init__(self, channels: int, activation: Callable[[], nn.Module], before: nn.Module) -> None:
        super().__init__()
        self.channels, self.before, hidden = channels, before, 3 * channels
        self.expand, self.activation = ChannelLinear(channels, hidden), activation()
        self.reduce, self.after = ChannelLinear(hidden, channels), Affine(channels, BRANCH_SCALE)

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
        channels, side = int(LAYERS[0]), image_size // 2
        self.stem = PatchEmbedding(in_channels, channels, 2)
        self.layers = nn.Sequential()
        for kind, _, width in (layer.rpartition("-") for layer in LAYERS):
            before, channels = channels, int(width)
            if kind == "PM":
                self.layers.append(PatchMerging(before, channels))
                side //= 2
            else:
                self.layers.append(feed_forward(channels) if kind == "F" else mixing(channels, side))
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
