"""The network written the plain way: one window after the other, NCHW, eager, as the released code does it.

A second implementation of the whole method, which shares no equation with the library's rooms. It has two uses: it is
what the library's speed is measured against, and what its results are tested against. It has the state-dict keys of
`onespike.model.Network`, so that it can load a network's weights.

One thing differs, in training with batch normalisation only: here the statistics are each window's own, since the
windows are not there at the same time.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.model import ModelConfig, Network

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
BIDIRECTIONAL = ("lstm", "bigru", "birnn")


class Step(torch.autograd.Function):
    """1 where v > threshold, else 0; differentiated as if it were smooth."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, threshold: Tensor, surrogate: str) -> Tensor:
        """Fire."""
        ctx.save_for_backward(v, threshold)
        ctx.surrogate = surrogate
        return (v > threshold).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Multiply by the surrogate's derivative."""
        v, threshold = ctx.saved_tensors
        d = v - threshold
        match ctx.surrogate:
            case "rectangle":
                slope = (d.abs() < 0.5).to(d.dtype)
            case "triangle":
                slope = (1 - d.abs()).clamp(min=0)
            case "sigmoid":
                slope = 4 * torch.sigmoid(4 * d) * torch.sigmoid(-4 * d)
            case _:
                slope = 1 / (1 + (math.pi * d) ** 2)
        to_threshold = (-gradient * slope).sum_to_size(threshold.shape) if ctx.needs_input_grad[1] else None
        return gradient * slope, to_threshold, None


class PlainFiring(nn.Module):
    """Fires above a threshold, or, in an artificial network, lets pass what is positive."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.raw_threshold = _parameter(config.learnable_threshold, channels)

    def threshold(self, like: Tensor) -> Tensor:
        """The threshold, in the type of a tensor."""
        return like.new_tensor(self.config.threshold) if self.raw_threshold is None else self.raw_threshold.exp()

    def forward(self, v: Tensor) -> Tensor:
        """Map (B, C, M, M) to spikes."""
        if self.config.activation == "relu":
            return v.relu()
        return Step.apply(v, self.threshold(v), self.config.surrogate)


class PlainNeuron(PlainFiring):
    """Leaky integrate-and-fire neurons, for a single window."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__(channels, config)
        self.raw_decay = _parameter(config.learnable_decay, channels)

    def forward(self, v: Tensor) -> Tensor:
        """Map (B, C, M, M) to spikes."""
        return super().forward(v)

    def charge(self, current: Tensor, handed: Tensor | None, own: Tensor | None) -> Tensor:
        """V = alpha * P + alpha * V(t-1) * (1 - S(t-1)) + I."""
        decay = self.config.decay if self.raw_decay is None else self.raw_decay.sigmoid()
        v = current if own is None else current + decay * own
        return v if handed is None else v + decay * handed

    def handed_on(self, v: Tensor, s: Tensor) -> Tensor:
        """What the next window receives."""
        match self.config.reset:
            case "zero":
                return v * (1 - s)
            case "subtract":
                return v - self.threshold(v) * s
            case _:
                return v


class PlainConvUnit(nn.Module):
    """Two convolutional layers; what it carries from window to window are the potentials of both."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.out_channels, self.config = channels, config
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = _norm(config, channels), _norm(config, channels)
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
            fused = None if handed1 is None else _fuse(handed1, handed2, self.config)
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

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.out_channels = channels * (2 if config.unit in BIDIRECTIONAL else 1)
        self.layer = PlainMlp(channels, config) if config.unit == "mlp" else PlainCell(channels, config)
        self.norm = _norm(config, self.out_channels)
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
                fused = _fuse(before[number if above else 0], neighbour, self.config)
            v = self.neuron.charge(current, fused, kept[number] if kept else None)
            s = self.neuron(v)
            out.append(s)
            handed.append(self.neuron.handed_on(v, s))
            if self.config.time_steps > 1:
                keeping.append(v * (1 - s))
        return out, handed if self.config.fusion != "none" else None, keeping


class PlainCell(nn.Module):
    """The framework's recurrent layer over pixels in row-major order."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
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

    def __init__(self, channels: int, config: ModelConfig) -> None:
        between = PlainFiring(channels, config) if config.mlp_activation == "spiking" else nn.GELU()
        super().__init__(
            PlainLinear(channels, channels), _norm(config, channels), between, PlainLinear(channels, channels)
        )


class PlainBlock(nn.Module):
    """Crop a window, encode it, run the unit, put it back; then the two residual connections."""

    def __init__(self, config: ModelConfig, channels: int, size: int, number: int) -> None:
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
        self.fc = nn.Sequential(PlainLinear(self.unit.out_channels, channels), _norm(config, channels))
        hidden, spiking = config.mlp_ratio * channels, config.mlp_activation == "spiking"
        self.mlp = nn.Sequential(
            PlainFiring(channels, config) if spiking else nn.Identity(),
            PlainLinear(channels, hidden),
            _norm(config, hidden),
            PlainFiring(hidden, config) if spiking else nn.GELU(),
            PlainLinear(hidden, channels),
            _norm(config, channels),
        )

    def forward(
        self, x: Tensor, potential: Tensor | None, state: tuple[list[Any], Tensor | None] | None, draws: Tensor | None
    ) -> tuple[Tensor, Tensor | None, tuple[list[Any], Tensor | None]]:
        """Run the block on (B, C, L, L) for one time step."""
        kept, mask = state or ([], self._mask(x))
        above = None if potential is None else list(self._crops(potential))
        out, handed, keeping = self.unit(self._encoded(x, draws, mask), above, kept)
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


class PlainMerging(nn.Module):
    """Patch merging of the features and of the potential map, if it travels on."""

    def __init__(self, before: PlainBlock, behind: PlainBlock, config: ModelConfig) -> None:
        super().__init__()
        spiking = config.readout == "spiking"
        self.firing = PlainFiring(before.channels, config) if spiking else None
        self.features = nn.Sequential(PlainReduction(before.channels, behind.channels), _norm(config, behind.channels))
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
        stem = nn.Conv2d(network.in_channels, config.channels[0], stride, stride=stride)
        self.stem = nn.Sequential(stem, _norm(config, config.channels[0]))
        self.layers = nn.ModuleList()
        number, size, before = 0, network.image_size // stride, None
        for depth, channels in zip(config.depths, config.channels, strict=True):
            blocks = [PlainBlock(config, channels, size, number + k) for k in range(depth)]
            if before is not None:
                self.layers.append(PlainMerging(before, blocks[0], config))
            self.layers.extend(blocks)
            number, size, before = number + depth, size // 2, blocks[-1]
        self.readout = PlainFiring(config.channels[-1], config) if config.readout == "spiking" else None
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
                logits.append(self.head(x.mean((-2, -1))))
            else:
                logits.append(self.head(self.readout(x).permute(0, 2, 3, 1)).mean((1, 2)))
        return torch.stack(logits).mean(0)


def _fuse(x: Tensor, y: Tensor, config: ModelConfig) -> Tensor:
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


def _norm(config: ModelConfig, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if config.norm == "batch" else nn.Identity()


def _parameter(learnable: str, channels: int) -> nn.Parameter | None:
    """A place for a learned threshold or decay; its value is loaded."""
    if learnable == "none":
        return None
    return nn.Parameter(torch.zeros((channels, 1, 1) if learnable == "channel" else ()))
