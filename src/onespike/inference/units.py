"""Windows and units as the engine runs them: on bytes, (V, B, M, M, C)."""

import math
from itertools import pairwise, product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.functional import fuse, window_side
from onespike.functional.charge import neighbour
from onespike.functional.fusion import is_sincos
from onespike.inference.layers import Fire, IntegerConv, IntegerLinear, IntegerTap, LeakyFire, RealLinear, affine
from onespike.units import ConvUnit
from onespike.units.tokens import Recurrent, TravellingUnit


class Arithmetic(NamedTuple):
    """The arithmetic of an engine; stem, head, recurrent cells and the merging of potentials stay in float32."""

    terms: int  # terms of 8 bits for weights that meet spikes
    real: torch.dtype  # dtype of linear layers that read real values: GELU MLPs and patch mergings


class EngineConvUnit(nn.Module):
    """Two convolutions on spikes, each followed by neurons. On windows of side 1 only their centre taps are left."""

    def __init__(self, unit: ConvUnit, side: int, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.fusion, self.theta, terms = unit.fusion, unit.theta, arithmetic.terms
        kind = IntegerTap if side == 1 else IntegerConv
        self.conv1, self.neuron1 = kind(unit.conv1, unit.norm1, terms), LeakyFire(unit.neuron1)
        self.conv2, self.neuron2 = kind(unit.conv2, unit.norm2, terms), LeakyFire(unit.neuron2)

    def forward(self, spikes: Tensor, potential: None = None) -> tuple[Tensor, None]:  # noqa: ARG002
        """Map bytes (V, B, M, M, C) to bytes of the same shape."""
        shape, passes = spikes.shape[:2], self.fusion != "none"
        v1 = self.conv1(spikes.flatten(0, 1)).unflatten(0, shape)
        windows1 = v1.unbind()
        for before, current in pairwise(windows1) if passes else ():
            self.neuron1.charge_(current, self.neuron1.handed_on(before))
        v2 = self.conv2(self.neuron1(v1).flatten(0, 1)).unflatten(0, shape)
        if is_sincos(self.fusion):
            # alpha * 2 sin(angle * V1) * cos(angle * V2): the first factor is known for all windows at once.
            angle = self.theta * math.pi / 2
            sines = (self.neuron1.handed_on(v1) * angle).sin_().mul_(2 * self.neuron2.decay).unbind()
            for sine, (before, current) in zip(sines, pairwise(v2.unbind()), strict=False):
                current.addcmul_(sine, (self.neuron2.handed_on(before) * angle).cos_())
        elif passes:
            for above, (before, current) in zip(windows1, pairwise(v2.unbind()), strict=False):
                handed = self.neuron1.handed_on(above), self.neuron2.handed_on(before)
                self.neuron2.charge_(current, fuse(*handed, self.fusion, self.theta))
        return self.neuron2(v2), None


class EngineTravellingUnit(nn.Module):
    """A layer over pixels as tokens, and neurons whose potentials travel from block to block."""

    def __init__(self, unit: TravellingUnit, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.fusion, self.theta, self.travels = unit.fusion, unit.theta, unit.travels
        if isinstance(unit.layer, Recurrent):
            self.layer: nn.Module = EngineCell(unit.layer, unit.norm)
        else:
            linear1, norm, middle, linear2 = unit.layer.children()
            second = linear(linear2, unit.norm, not isinstance(middle, nn.GELU), arithmetic)  # type: ignore[arg-type]
            first = IntegerLinear(linear1, norm, arithmetic.terms)  # type: ignore[arg-type]
            self.layer = nn.Sequential(first, between(middle), second)
        self.neuron = LeakyFire(unit.neuron)

    def forward(self, spikes: Tensor, potential: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Map bytes (V, B, M, M, C) and potentials to bytes and potentials (V, B, M, M, C')."""
        v = self.layer(spikes.flatten(0, 1)).float().unflatten(0, spikes.shape[:2])
        if not self.travels:
            return self.neuron(v), None
        above = torch.zeros_like(v) if potential is None else potential
        for window in range(len(v)):
            before = self.neuron.handed_on(v[window - 1]) if window else above[neighbour(above)]
            self.neuron.charge_(v[window], fuse(above[window], before, self.fusion, self.theta))
        return self.neuron(v), self.neuron.handed_on(v)


class EngineCell(nn.Module):
    """A recurrent layer in float32, and the normalisation after it as a gain and a shift."""

    def __init__(self, layer: Recurrent, norm: nn.Module) -> None:
        super().__init__()
        self.cell, (gain, shift) = layer.cell, affine(norm)
        self.gain, self.shift = nn.Buffer(gain), nn.Buffer(shift)

    def forward(self, spikes: Tensor) -> Tensor:
        """Map bytes (N, M, M, C) to (N, M, M, C')."""
        out, _ = self.cell(spikes.flatten(1, 2).float())
        return (out * self.gain + self.shift).unflatten(1, spikes.shape[1:3])


class Windows:
    """Maps (B, L, L, C) cut into windows (V, B, M, M, C) and put together again: `functional.window`, on bytes."""

    def __init__(self, size: int, kind: str) -> None:
        self.size, self.side = size, window_side(size, kind)
        self.padded = size if kind == "whole" else size + size % 2
        self.step = max(self.padded - self.side, 1)  # pixels from one window to the next
        self.corners = list(product(sorted({0, self.padded - self.side}), repeat=2))
        self.overlap = kind == "dilated"
        cover = torch.zeros(self.padded, self.padded, 1, dtype=torch.uint8)
        for corner in self._corners(cover[None]):
            corner += 1
        self._quarters = 4 // cover

    def cut(self, x: Tensor) -> Tensor:
        """Cut (B, L, L, C) into windows (V, B, M, M, C)."""
        if more := self.padded - self.size:
            x = F.pad(x, (0, 0, 0, more, 0, more))
        views = x.unfold(1, self.side, self.step).unfold(2, self.side, self.step)  # (B, rows, columns, C, M, M)
        return views.permute(1, 2, 0, 4, 5, 3).flatten(0, 1).contiguous()

    def union(self, spikes: Tensor) -> Tensor:
        """Put windows of spikes into one map; where they overlap, one spike is enough."""
        if not self.overlap:
            count = self.padded // self.side  # of windows side by side
            joined = spikes.unflatten(0, (count, count)).permute(2, 0, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)
            return joined[:, : self.size, : self.size].contiguous()
        joined = spikes.new_zeros(spikes.shape[1], self.padded, self.padded, spikes.shape[-1])
        for corner, window in zip(self._corners(joined), spikes.unbind(), strict=True):
            corner |= window
        return joined[:, : self.size, : self.size]

    def quarters(self, windows: Tensor) -> Tensor:
        """Put windows into one map of four times their values; overlaps get four times the mean, exact on bytes."""
        total = windows.new_zeros(windows.shape[1], self.padded, self.padded, windows.shape[-1])
        for corner, window in zip(self._corners(total), windows.unbind(), strict=True):
            corner += window
        return (total * self._quarters)[:, : self.size, : self.size].contiguous()

    def _corners(self, x: Tensor) -> list[Tensor]:
        return [x[:, row : row + self.side, column : column + self.side] for row, column in self.corners]


def linear(layer: nn.Linear, norm: nn.Module, reads_spikes: bool, arithmetic: Arithmetic) -> nn.Module:
    """Make the engine's layer for a linear layer and its norm: on bytes if it reads spikes, else on real values."""
    return IntegerLinear(layer, norm, arithmetic.terms) if reads_spikes else RealLinear(layer, norm, arithmetic.real)


def between(layer: nn.Module) -> nn.Module:
    """Make the engine's layer between two linear layers: firing, or GELU."""
    return nn.GELU() if isinstance(layer, nn.GELU) else Fire(layer)  # type: ignore[arg-type]
