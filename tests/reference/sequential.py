"""The network written the plain way: one window after the other, NCHW, eager, as the released code does it.

A second implementation of the whole method, which shares no equation with the library's rooms. It has two uses: it is
what the library's speed is measured against, and what its results are tested against. It has the state-dict keys of
`onespike.models.Network`, so that it can load a network's weights.

One thing differs, in training with batch normalisation only: here the statistics are each window's own, since the
windows are not there at the same time.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.models import Network, OnespikeConfig
from tests.reference.plain_units import (
    PlainConvUnit,
    PlainFiring,
    PlainLinear,
    PlainTravellingUnit,
    norm,
    norm_before,
    norm_behind,
)


class PlainBlock(nn.Module):
    """Crop a window, encode it, run the unit, put it back; then the two residual connections."""

    def __init__(self, config: OnespikeConfig, channels: int, size: int, number: int) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        dilated = config.windows == "dilated" or (config.windows == "alternating" and number % 2 == 1)
        self.dilated = dilated and size % 4 == 0
        if config.windows == "none":
            self.padded, self.side, starts = size, size, [0]
        else:
            self.padded = size + size % 2
            self.side = 3 * size // 4 if self.dilated else self.padded // 2
            starts = [0, self.padded - self.side]
        self.size, self.corners = size, [(row, column) for row in starts for column in starts]
        self.encoder = PlainFiring(channels, config) if config.encoding == "threshold" else None
        self.unit: PlainConvUnit | PlainTravellingUnit
        self.unit = (PlainConvUnit if config.unit == "conv" else PlainTravellingUnit)(channels, config)
        self.fc = nn.Sequential(PlainLinear(self.unit.out_channels, channels), norm_behind(config, channels))
        self.norm = norm_before(config, channels)
        hidden, spiking = config.mlp_ratio * channels, config.mlp_activation == "spiking"
        self.mlp = nn.Sequential(
            fired(config, channels) if spiking else norm_before(config, channels),
            PlainLinear(channels, hidden),
            norm(config, hidden),
            PlainFiring(hidden, config) if spiking else nn.GELU(),
            PlainLinear(hidden, channels),
            norm_behind(config, channels),
        )

    def forward(
        self, x: Tensor, potential: Tensor | None, state: tuple[list[Any], Tensor | None] | None, draws: Tensor | None
    ) -> tuple[Tensor, Tensor | None, tuple[list[Any], Tensor | None]]:
        """Run the block on (B, C, L, L) for one time step."""
        kept, mask = state or ([], self._mask(x))
        above = None if potential is None else list(self._crops(potential))
        out, handed, keeping = self.unit(self._encoded(self.norm(x), draws, mask), above, kept)
        joined = self._join(out)
        if self.dilated and self.config.region_threshold is not None:
            whole = joined.detach().masked_fill(joined.detach() > self.config.region_threshold, 1)
            joined = joined + (whole - joined.detach())
        x = x + self.fc(joined)
        x = x + self.mlp(x)
        return x, self._join(handed) if handed else None, (keeping, mask)

    def _mask(self, x: Tensor) -> Tensor | None:
        if not self.training or self.config.dropout == 0:
            return None
        shape = (len(x), self.side, self.side, self.channels)  # the order in which the library draws
        u = torch.rand(shape, dtype=torch.promote_types(x.dtype, torch.float32)).movedim(-1, 1)
        return ((u >= self.config.dropout).to(u.dtype) / (1 - self.config.dropout)).to(x.dtype)

    def _crops(self, x: Tensor) -> Iterator[Tensor]:
        more = self.padded - self.size
        padded = F.pad(x, (0, more, 0, more)) if more else x
        for row, column in self.corners:
            yield padded[:, :, row : row + self.side, column : column + self.side]

    def _encoded(self, x: Tensor, draws: Tensor | None, mask: Tensor | None) -> Iterator[Tensor]:
        for number, window in enumerate(self._crops(x)):
            if self.encoder is not None:
                spikes = self.encoder(window)
            elif self.config.encoding == "direct":
                spikes = window
            else:
                u = torch.rand_like(window) if draws is None else draws[number]
                spikes = (window.detach() > u).to(window.dtype)
                if self.config.encoding == "bernoulli":  # gradient 1 inside, 0 outside
                    inside = (window.detach() > -0.5) & (window.detach() < 1.5)
                    spikes = spikes + torch.where(inside, window - window.detach(), 0)
            yield spikes if mask is None else spikes * mask

    def _join(self, windows: Sequence[Tensor]) -> Tensor:
        count, channels = windows[0].shape[:2]
        total = windows[0].new_zeros(count, channels, self.padded, self.padded)
        cover = windows[0].new_zeros(self.padded, self.padded)
        for (row, column), window in zip(self.corners, windows, strict=True):
            total[:, :, row : row + self.side, column : column + self.side] += window
            cover[row : row + self.side, column : column + self.side] += 1
        return (total / cover)[:, :, : self.size, : self.size]


def fired(config: OnespikeConfig, channels: int) -> nn.Module:
    """Neurons, behind a normalisation if there is one before thresholds."""
    neuron = PlainFiring(channels, config)
    return nn.Sequential(norm_before(config, channels), neuron) if config.norm == "before" else neuron


class PlainMerging(nn.Module):
    """Patch merging of the features and of the potential map, if it travels on."""

    def __init__(self, before: PlainBlock, behind: PlainBlock, config: OnespikeConfig) -> None:
        super().__init__()
        spiking = config.readout == "spiking"
        self.firing = fired(config, before.channels) if spiking else None
        reduction = PlainReduction(before.channels, behind.channels)
        self.features = nn.Sequential(reduction, norm_behind(config, behind.channels))
        merges = config.unit != "conv" and config.fusion != "none" and not spiking
        self.potential = PlainReduction(before.unit.out_channels, behind.unit.out_channels) if merges else None

    def forward(self, x: Tensor, potential: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Halve the side of (B, C, L, L)."""
        merged = self.potential(potential) if self.potential is not None and potential is not None else None
        return self.features(x if self.firing is None else self.firing(x)), merged


class PlainReduction(nn.Module):
    """Four pixels become one."""

    def __init__(self, before: int, behind: int) -> None:
        super().__init__()
        self.reduction = PlainLinear(4 * before, behind, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, L, L) to (B, C', L/2, L/2)."""
        corners = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(torch.cat(corners, 1))


class SequentialNetwork(nn.Module):
    """The whole network, the plain way, with the weights of another.

    Args:
        network: The network to copy architecture, weights and mode from.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.config = config = network.config
        stride = network.image_size // network.blocks()[0].size
        first = config.channels[0]
        stem = [nn.Conv2d(network.in_channels, first, stride, stride=stride)]
        if config.stem == "conv":
            conv = nn.Conv2d(network.in_channels, first, 3, stride // 2, padding=1, bias=False)
            stem = [conv, nn.BatchNorm2d(first), nn.ReLU()]
            stem += [nn.Conv2d(first, first, 3, padding=1, bias=False), nn.MaxPool2d(2)]
        self.stem = nn.Sequential(*stem, norm_behind(config, first))
        self.layers = nn.ModuleList()
        number, size, before = 0, network.image_size // stride, None
        for depth, channels in zip(config.depths, config.channels, strict=True):
            blocks = [PlainBlock(config, channels, size, number + k) for k in range(depth)]
            if before is not None:
                self.layers.append(PlainMerging(before, blocks[0], config))
            self.layers.extend(blocks)
            number, size, before = number + depth, size // 2, blocks[-1]
        self.readout = fired(config, config.channels[-1]) if config.readout == "spiking" else None
        before_head = config.norm == "before" and self.readout is None
        self.norm = nn.BatchNorm2d(config.channels[-1]) if before_head else nn.Identity()
        self.head = nn.Linear(config.channels[-1], network.num_classes)
        self.to(network.head.weight.dtype)
        self.load_state_dict(network.state_dict())
        self.train(network.training)

    def forward(self, images: Tensor, draws: Sequence[Tensor] | None = None) -> Tensor:
        """Classify images.

        Args:
            images: (B, C, H, W).
            draws: What `Network.draw` returns; drawn on the way if None.

        Returns:
            Logits, (B, K).
        """
        remaining = iter(draws) if draws is not None else None
        states: dict[nn.Module, Any] = {}
        embedded = self.stem(images).to(images.dtype)
        logits = []
        for _ in range(self.config.time_steps):
            x, potential = embedded, None
            for layer in self.layers:
                if isinstance(layer, PlainBlock):
                    drawn = next(remaining) if remaining is not None else None
                    x, potential, states[layer] = layer(x, potential, states.get(layer), drawn)
                else:
                    x, potential = layer(x, potential)
            if self.readout is None:
                logits.append(self.head(self.norm(x).mean((-2, -1))))
            else:
                logits.append(self.head(self.readout(x).permute(0, 2, 3, 1)).mean((1, 2)))
        return torch.stack(logits).mean(0)
