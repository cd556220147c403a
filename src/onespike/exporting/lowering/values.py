"""Tensors of a network in a lowered program: each element is gain * q + shift, with q an element of a map."""

import math
from collections.abc import Callable
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


@dataclass(frozen=True)
class Unsaid:
    """A tensor that cannot be expressed."""

    shape: torch.Size


class CannotSayError(Exception):
    """An operation that cannot be expressed."""


def as_value(constant: Tensor) -> Value:
    """A constant as a value."""
    return Value(torch.full(constant.shape, -1), torch.zeros(constant.shape, dtype=torch.float64), constant.double())


def mapped(value: Value, change: Callable[..., tuple[Tensor, Tensor]], other: Any) -> Value:
    """Change gain and shift by a constant that broadcasts."""
    constant = torch.as_tensor(other, dtype=torch.float64)
    index, gain, shift, constant = torch.broadcast_tensors(value.index, value.gain, value.shift, constant)
    return Value(index, *change(gain, shift, constant))


def pair(value: Any) -> tuple[int, int]:
    """One number for rows and columns, or two."""
    both = [value, value] if isinstance(value, int) else list(value) * (2 if len(value) == 1 else 1)
    return int(both[0]), int(both[1])


def in_rows(value: Value, axis: int) -> Value:
    """A value as (pixels, channels)."""
    parts = (value.index, value.gain, value.shift)
    return Value(*(part.movedim(axis, -1).reshape(-1, value.shape[axis]) for part in parts))


def rows_of(value: Value, pixels: Tensor) -> Value:
    """Some pixels of (pixels, channels)."""
    return Value(value.index[pixels], value.gain[pixels], value.shift[pixels])


def sides_of(rest: list[int], channels: int) -> tuple[int, int, int, int]:
    """The shape of a map with its pixels along the axes `rest`."""
    height, width = (rest[-2], rest[-1]) if len(rest) >= 2 else (1, rest[-1] if rest else 1)
    return math.prod(rest) // (height * width), height, width, channels


def read_bits(parts: list[Value] | None, bits: Tensor) -> Tensor | None:
    """A sum of values, lowered for one image, of several, (B, …), from their bits (B, …), numbered as in maps."""
    if parts is None:
        return None
    padded = torch.nn.functional.pad(bits, (1, 0))  # the 0 is that of constants
    read = [padded[:, one.index + 1] * one.gain + one.shift for one in parts]
    return torch.stack(read).sum(0)
