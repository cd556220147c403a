"""A strictly spiking ResNet, for one time step or several: a real-valued stream, and branches that read zeros and ones.

    x = shortcut(x) + norm(conv(fire(x)))

around every convolution, as in networks of 1-bit activations (Liu et al. 2018, Bi-Real Net). No shortcut has weights.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError
from onespike.functional import window_kinds
from onespike.models.over_time import over_time
from onespike.models.registry import register_model
from onespike.models.stem import make_stem
from onespike.models.strict import PRESETS, SIZES, StrictConfig, StrictNetwork
from onespike.models.strict_layers import Firing, Windows, make_conv, make_head
from onespike.neurons import Carry
from onespike.units.base import one_batch
from onespike.units.layers import BatchNorm, Layers, MaxPool


@dataclass(frozen=True)
class SpikingResNetConfig(StrictConfig):
    """A strictly spiking ResNet. Where a stage is narrower than the one before, shortcuts lose their last channels.

    Attributes:
        stream: What follows each addition to the real-valued stream: "plain", nothing; or "rprelu", a PReLU with
            learned shifts of each channel (Liu et al. 2020, ReActNet).
    """

    name: str = "spiking-resnet-m"
    stream: Literal["plain", "rprelu"] = "plain"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.windows != "none" and self.population > 1:
            reason = "the stream takes one spike of each channel from windows"
            raise OnespikeError(f"population: with windows expected 1 ({reason}), got {self.population}")


class RPReLU(nn.Module):
    """PReLU with a shift before and after it, per channel: f(x) = PReLU(x + a) + b."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before, self.behind = (nn.Parameter(torch.zeros(channels, 1, 1)) for _ in range(2))
        self.prelu = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.prelu(x + self.before) + self.behind


class Residual(nn.Module):
    """A branch beside a shortcut without weights: (B, C, L, L) to (B, C', L', L').

    If the branch halves the map, the shortcut takes means of 2x2 pixels. If the branch has more channels, those of the
    shortcut are repeated, up to the branch's number; if it has fewer, the shortcut's last channels are cut off.
    """

    carries = True

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch, self.pool = Layers(*branch), nn.AvgPool2d(2)
        self.halves = any(isinstance(layer, MaxPool) for layer in branch)

    def forward(self, x: Tensor, carry: Carry | None = None) -> Tensor:
        """Add branch and shortcut; with a `carry`, x is (T, B, C, L, L)."""
        if carry is None:
            shortcut = self._shortcut(x)  # first: so it comes last in the backward pass, and no large gradient waits
            return self._add(shortcut, self.branch(x))
        branch = over_time(self.branch, x, carry)
        return self._add(self._shortcut(one_batch(x)), one_batch(branch)).unflatten(0, x.shape[:2])

    def _shortcut(self, x: Tensor) -> Tensor:
        return self.pool(x) if self.halves else x

    @staticmethod
    def _add(x: Tensor, y: Tensor) -> Tensor:
        if (times := -(-y.shape[1] // x.shape[1])) > 1:
            x = torch.cat([x] * times, 1)  # unlike `repeat` it keeps channels last
        return x[:, : y.shape[1]] + y


@register_model(SpikingResNetConfig, {f"spiking-resnet-{size}": one for size, one in SIZES.items()}, PRESETS)
class SpikingResNet(StrictNetwork):
    """Stem; stages of `depth` convolutions, of which the first changes the width and halves the map; fire; head."""

    def __init__(self, config: SpikingResNetConfig, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.config, kinds = config, window_kinds(config.windows)
        self.stem = nn.Sequential(make_stem(config, in_channels, image_size), BatchNorm(config.width))
        blocks: list[nn.Module] = []

        def add(channels: int, width: int, *branch: nn.Module) -> None:
            blocks.append(Residual(Firing(channels, config), *branch, BatchNorm(width)))
            if config.stream == "rprelu":
                blocks.append(RPReLU(width))

        channels = config.width  # of the stream
        for stage, width in enumerate(factor * config.width for factor in config.stages):
            if stage:
                add(channels, width, make_conv(channels, width, config), MaxPool())
                channels = width
            whole = config.windows == "none"
            for _ in range(config.depth - 1 if whole else config.depth // 2):
                add(width, width, make_conv(width, width, config) if whole else Windows(width, next(kinds), config))
        self.blocks, self.fire = nn.Sequential(*blocks), Firing(channels, config)
        self.head = make_head(channels, num_classes, config)

    def parts(self) -> Iterable[nn.Module]:
        """The layers after the stem."""
        return self.blocks, self.fire, self.head
