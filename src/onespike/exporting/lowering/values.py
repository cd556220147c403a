"""Tensors of a network in a lowered program: each element is gain * q + shift, with q an element of a map."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Value:
    """A tensor of the network, element by element: gain * (element `index` of the maps) + shift; -1 is a constant."""

    index: Tensor
    gain: Tensor
    shift: Tensor

    @property
    def shape(self) -> torch.Size:
        """The tensor's shape."""
        return self.index.shape

    def each(self, change: Callable[[Tensor], Tensor]) -> "Value":
        """Move elements: index, gain and shift alike."""
        return Value(change(self.index), change(self.gain), change(self.shift))

    def expand(self, shape: Sequence[int]) -> "Value":
        """Broadcast to a shape."""
        return self.each(lambda part: part.expand(shape))

    def rows(self, axis: int) -> "Value":
        """See it as (pixels, channels), with its channels along an axis."""
        return self.each(lambda part: part.movedim(axis, -1).reshape(-1, self.shape[axis]))

    def __mul__(self, factor: Tensor | float) -> "Value":
        return self._changed(factor, lambda gain, shift, k: (gain * k, shift * k))

    def __truediv__(self, divisor: Tensor | float) -> "Value":
        return self._changed(divisor, lambda gain, shift, k: (gain / k, shift / k))

    def __add__(self, constant: Tensor | float) -> "Value":
        return self._changed(constant, lambda gain, shift, k: (gain, shift + k))

    def _changed(self, other: Tensor | float, change: Callable[..., tuple[Tensor, Tensor]]) -> "Value":
        """Change gain and shift by a constant that broadcasts."""
        constant = torch.as_tensor(other, dtype=torch.float64)
        index, gain, shift, constant = torch.broadcast_tensors(self.index, self.gain, self.shift, constant)
        return Value(index, *change(gain, shift, constant))


class Unsaid:
    """A tensor that cannot be expressed."""


class CannotSayError(Exception):
    """An operation that cannot be expressed."""


def as_value(constant: Tensor) -> Value:
    """A constant as a value."""
    return Value(torch.full(constant.shape, -1), torch.zeros(constant.shape, dtype=torch.float64), constant.double())


def pair(value: Any) -> tuple[int, int]:
    """One number for rows and columns, or two."""
    both = [value, value] if isinstance(value, int) else list(value) * (2 if len(value) == 1 else 1)
    return int(both[0]), int(both[1])


def axes_of(shape: Sequence[int]) -> dict[int, None]:
    """The axes along which channels may lie, the likeliest first."""
    return dict.fromkeys(axis % len(shape) for axis in (1, -1, 0, -min(3, len(shape))))


def without(shape: Sequence[int], axis: int) -> list[int]:
    """The sides along all axes but one."""
    return [side for place, side in enumerate(shape) if place != axis % len(shape)]


def sides_of(shape: Sequence[int], axis: int) -> tuple[int, int, int, int]:
    """The shape of a map for a tensor whose channels lie along an axis."""
    *images, height, width = (1, 1, *without(shape, axis))
    return math.prod(images), height, width, shape[axis]


def read_bits(parts: list[Value] | None, bits: Tensor) -> Tensor | None:
    """A sum of values, lowered for one image, of several, (B, …), from their bits (B, …), numbered as in maps."""
    if parts is None:
        return None
    padded = torch.nn.functional.pad(bits, (1, 0))  # the 0 is that of constants
    read = [padded[:, one.index + 1] * one.gain + one.shift for one in parts]
    return torch.stack(read).sum(0)
