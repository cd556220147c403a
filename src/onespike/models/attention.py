"""Attention inside the windows of a map, with softmax or between spikes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError
from onespike.models.affine import BRANCH_SCALE, Affine
from onespike.units.channel import ChannelLinear

#: Channels of one attention head; largest side of a window: a map that is no larger is one window.
HEAD, WINDOW = 24, 4


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

    def __init__(self, channels: int, side: int, shifted: bool, activation: Callable[[], nn.Module] | None) -> None:
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
        self.project, self.after = ChannelLinear(channels, channels), Affine(channels, BRANCH_SCALE)

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
