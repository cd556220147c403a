"""A vision transformer in stages (after Swin, Liu et al. 2021): attention inside windows, no normalisation."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onespike.models.affine import Affine
from onespike.models.artificial import BranchedConfig
from onespike.models.registry import expect_multiple, register_model
from onespike.models.resmlp import FeedForward, Stages
from onespike.units.channel import ChannelLinear

#: The supplement's network, in its own notation: a number is an attention layer of that width, MLP a feed-forward layer
#: over the channels, PM patch merging. The supplement has MLP-96 in the third stage, which we read as a slip for
#: MLP-192, and no PM before 384.
VIT12 = (
    *("48", "MLP-48", "48", "PM"),
    *("96", "MLP-96", "96", "PM"),
    *("192", "MLP-192") * 3,
    *("PM", "384", "MLP-384", "384"),
)

#: Channels of one attention head; the side of a window, which is the whole map where that is no larger.
HEAD, WINDOW = 24, 4


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of a map, with a shortcut; a learned bias for each relative position.

        real:     softmax(q k^T / sqrt(d) + bias) v
        spiking:  a((a(q) a(k)^T / (M^2 sqrt(d)) + bias) a(v)), a the activation, through which q, k, v see their
                  input too; M^2, the pixels of a window, as nothing else keeps a sum over them from growing

    Windows are laid from the corner, or shifted by half their side around the edges: two layers together see across
    the borders of both. (Swin masks what meets around the edge; here it may attend.)

    Args:
        channels: Number of channels, a multiple of `HEAD`.
        side: Side of the map.
        shifted: Whether the windows are shifted; a map of one window needs no shift.
        scale: What the branch's learnable factors start from.
        activation: Makes the activation of the spiking kind; None for the real one.
    """

    places: Tensor

    def __init__(
        self, channels: int, side: int, shifted: bool, scale: float, activation: Callable[[], nn.Module] | None
    ) -> None:
        super().__init__()
        self.channels, self.side, self.window = channels, side, min(WINDOW, side)
        self.shift = self.window // 2 if shifted and side > self.window else 0
        self.heads, self.count, self.spiking = channels // HEAD, side // self.window, activation is not None
        self.scale = HEAD**-0.5 / (self.window**2 if self.spiking else 1)
        make = activation or nn.Identity
        self.before, self.between = make(), make()
        self.query, self.key, self.value = (nn.Sequential(ChannelLinear(channels, channels), make()) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(self.heads, (2 * self.window - 1) ** 2))
        self.register_buffer("places", relative_places(self.window), persistent=False)
        self.project, self.after = ChannelLinear(channels, channels), Affine(channels, scale)

    def cut(self, x: Tensor) -> Tensor:
        """Cut (B, C, L, L) into windows and heads: (B, N, heads, M*M, d)."""
        n, m = self.count, self.window
        cut = x.unflatten(1, (self.heads, HEAD)).unflatten(4, (n, m)).unflatten(3, (n, m))  # (B, h, d, n, m, n, m)
        return cut.permute(0, 3, 5, 1, 4, 6, 2).flatten(4, 5).flatten(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """Put windows and heads together again, the inverse of `cut`."""
        n, m = self.count, self.window
        cut = x.unflatten(1, (n, n)).unflatten(4, (m, m))  # (B, n, n, h, m, m, d)
        return cut.permute(0, 3, 6, 1, 4, 2, 5).flatten(5, 6).flatten(3, 4).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, L, L) to the same shape."""
        moved = self.before(x)
        if self.shift:
            moved = torch.roll(moved, (-self.shift, -self.shift), (2, 3))
        query, key, value = self.cut(self.query(moved)), self.cut(self.key(moved)), self.cut(self.value(moved))
        weights = torch.matmul(query, key.transpose(-2, -1)) * self.scale + self.bias[:, self.places]
        if not self.spiking:
            weights = torch.softmax(weights, -1)
        mixed = self.between(self.join(torch.matmul(weights, value)))
        mixed = self.after(self.project(mixed))
        return x + (torch.roll(mixed, (self.shift, self.shift), (2, 3)) if self.shift else mixed)


def relative_places(side: int) -> Tensor:
    """Number the relative positions of a window's pixels: (M*M, M*M), values 0..(2M-1)^2-1."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    down, right = rows[:, None] - rows + side - 1, columns[:, None] - columns + side - 1
    return down * (2 * side - 1) + right


@dataclass(frozen=True)
class ViTConfig(BranchedConfig):
    """A vision transformer in stages."""

    name: str = "vit12"


@register_model(ViTConfig, {"vit12": {}})
def vit(config: ViTConfig, num_classes: int, in_channels: int, image_size: int) -> Stages:
    """Build it, for images whose side is a multiple of 16: the stem halves it, and so does each patch merging."""
    expect_multiple(config.name, image_size, 16)
    make, scale, number = config.make_activation, 0.1, itertools.count()
    spiking = config.branches == "spiking"

    def mixing(channels: int, side: int) -> nn.Module:
        return WindowAttention(channels, side, next(number) % 2 == 1, scale, make if spiking else None)

    def feed_forward(channels: int) -> nn.Module:
        return FeedForward(channels, make, scale, make() if spiking else nn.Identity())

    return Stages(VIT12, mixing, feed_forward, num_classes, in_channels, image_size)
