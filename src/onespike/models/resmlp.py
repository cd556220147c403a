"""ResMLP (Touvron et al. 2022), in stages: token mixing and channel feed-forward, each behind an affine map."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from onespike.models.affine import Affine
from onespike.models.artificial import BranchedConfig
from onespike.models.initialise import initialise
from onespike.models.patch import PatchEmbedding, PatchMerging
from onespike.models.registry import expect_multiple, register_model
from onespike.units.channel import ChannelLinear

#: The supplement's network, in its own notation: a number is a token-mixing layer of that width, F a feed-forward layer
#: over the channels, PM patch merging. The PM before 384 is not in the supplement, which needs one to get there.
RESMLP12 = (
    *("48", "F-48", "48", "PM"),
    *("96", "F-96", "96", "PM"),
    *("192", "F-192") * 3,
    *("PM", "384", "F-384", "384"),
)


class TokenMixing(nn.Module):
    """A linear layer over the pixels of a map, the same for every channel, with a shortcut.

    Args:
        channels: Number of channels.
        side: Side of the map.
        scale: What the branch's learnable factors start from.
        before: What the branch begins with.
    """

    def __init__(self, channels: int, side: int, scale: float, before: nn.Module) -> None:
        super().__init__()
        self.channels, self.side, self.before = channels, side, before
        self.linear, self.after = nn.Linear(side**2, side**2), Affine(channels, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, L, L) to the same shape."""
        mixed = self.linear(self.before(x).flatten(2)).unflatten(2, (self.side, self.side))
        return x + self.after(mixed)


class FeedForward(nn.Module):
    """Linear, activation, linear over the channels of each pixel, with a shortcut.

    Args:
        channels: Number of channels.
        activation: Makes the activation.
        scale: What the branch's learnable factors start from.
        before: What the branch begins with.
        ratio: Hidden width, in channels.
    """

    def __init__(
        self, channels: int, activation: Callable[[], nn.Module], scale: float, before: nn.Module, ratio: int = 3
    ) -> None:
        super().__init__()
        self.channels, self.before = channels, before
        self.expand, self.activation = ChannelLinear(channels, ratio * channels), activation()
        self.reduce, self.after = ChannelLinear(ratio * channels, channels), Affine(channels, scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.after(self.reduce(self.activation(self.expand(self.before(x)))))


class Stages(nn.Module):
    """Patch embedding, layers in the supplement's notation, mean over the map, classifier.

    Args:
        notation: The layers, such as `RESMLP12`.
        mixing: Makes a layer that mixes pixels, out of channels and side of the map.
        feed_forward: Makes a layer that mixes channels, out of their number.
        num_classes: Number of classes K.
        in_channels: Channels of the images.
        image_size: Side of the images, in pixels.
    """

    def __init__(
        self,
        notation: tuple[str, ...],
        mixing: Callable[[int, int], nn.Module],
        feed_forward: Callable[[int], nn.Module],
        num_classes: int,
        in_channels: int,
        image_size: int,
    ) -> None:
        super().__init__()
        widths = [int(layer.split("-")[-1]) if layer != "PM" else 0 for layer in notation]
        channels, side = widths[0], image_size // 2
        self.stem = PatchEmbedding(in_channels, channels, 2)
        self.layers = nn.Sequential()
        for position, (layer, width) in enumerate(zip(notation, widths, strict=True)):
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
    """A ResMLP in stages."""

    name: str = "resmlp12"


@register_model(ResMLPConfig, {"resmlp12": {}})
def resmlp(config: ResMLPConfig, num_classes: int, in_channels: int, image_size: int) -> Stages:
    """Build it, for images whose side is a multiple of 16: the stem halves it, and so does each patch merging."""
    expect_multiple(config.name, image_size, 16)
    make, scale = config.make_activation, 0.1  # ResMLP's LayerScale for up to 18 layers

    def before(channels: int) -> nn.Module:
        return nn.Sequential(Affine(channels), make()) if config.branches == "spiking" else Affine(channels)

    return Stages(
        RESMLP12,
        lambda channels, side: TokenMixing(channels, side, scale, before(channels)),
        lambda channels: FeedForward(channels, make, scale, before(channels)),
        num_classes,
        in_channels,
        image_size,
    )
