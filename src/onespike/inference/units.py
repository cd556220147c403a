"""The units as the engine runs them: on bytes of windows (V, B, M, M, C)."""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from onespike.functional import fuse
from onespike.inference.layers import Fire, IntegerConv, IntegerLinear, IntegerTap, LeakyFire, RealLinear, affine
from onespike.units import ConvUnit
from onespike.units.tokens import Recurrent, TravellingUnit


class Arithmetic(NamedTuple):
    """What layers compute in.

    Attributes:
        terms: Terms of 8 bits of the weights that meet spikes.
        real: The type of the linear layers that read real values: the GELU MLPs and patch mergings of networks that
            have them. The stem, the head, recurrent cells and the merging of potentials stay in float32.
    """

    terms: int
    real: torch.dtype


class EngineConvUnit(nn.Module):
    """Two convolutions on spikes, each followed by neurons.

    Args:
        unit: The unit to take over.
        side: Side M of its windows. Of a convolution on windows of one pixel the centre tap alone is left.
        arithmetic: Of its layers.
    """

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
        if self.fusion == "sincos":
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
    """A layer over pixels as tokens, and neurons whose potentials travel from block to block.

    Args:
        unit: The unit to take over.
        arithmetic: Of its layers.
    """

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
            before = self.neuron.handed_on(v[window - 1]) if window else above[min(1, len(above) - 1)]
            self.neuron.charge_(v[window], fuse(above[window], before, self.fusion, self.theta))
        return self.neuron(v), self.neuron.handed_on(v)


class EngineCell(nn.Module):
    """A recurrent layer in float32, and the normalisation behind it as a gain and a shift.

    Args:
        layer: The layer to take over.
        norm: The normalisation.
    """

    def __init__(self, layer: Recurrent, norm: nn.Module) -> None:
        super().__init__()
        self.cell = layer.cell
        gain, shift = affine(norm) if isinstance(norm, nn.BatchNorm2d) else (torch.ones(()), torch.zeros(()))
        self.register_buffer("gain", gain)
        self.register_buffer("shift", shift)

    gain: Tensor
    shift: Tensor

    def forward(self, spikes: Tensor) -> Tensor:
        """Map bytes (N, M, M, C) to (N, M, M, C')."""
        out, _ = self.cell(spikes.flatten(1, 2).float())
        return (out * self.gain + self.shift).unflatten(1, spikes.shape[1:3])


def linear(layer: nn.Linear, norm: nn.Module, reads_spikes: bool, arithmetic: Arithmetic) -> nn.Module:
    """Take over a linear layer and the normalisation behind it: on bytes where it reads spikes, else on real values."""
    if reads_spikes:
        return IntegerLinear(layer, norm, arithmetic.terms)
    return RealLinear(layer, norm, arithmetic.real)


def between(layer: nn.Module) -> nn.Module:
    """Take over what stands between two linear layers: firing, or GELU."""
    return nn.GELU() if isinstance(layer, nn.GELU) else Fire(layer)  # type: ignore[arg-type]
