"""What arrives at a layer: spikes, small multiples of a spike, or real numbers. Values decide, not the layer's name.

binary   {0, c} for one c over all batches: c folds into the weights, an arriving value costs one accumulate
graded   {n * c} for whole n, |n| <= 16, as pooled or averaged spikes are: n accumulates
real     everything else: a multiply-accumulate
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["binary", "graded", "real"]

#: The largest n of a graded value; more accumulates than that would cost more than the multiplication they replace.
LEVELS = 16
#: More distinct values than this (all of -16..16, with room for rounding) cannot be graded.
_DISTINCT = 4 * LEVELS
#: So many values are looked at before all of them are: real numbers are found out by these.
_SAMPLE = 4096
#: Relative difference below which two values are one, unless the values' own rounding is coarser (bfloat16's is 0.8%;
#: neighbouring levels differ by 6%).
_TOLERANCE = 1e-5


class Arrival(NamedTuple):
    """What arrives.

    Attributes:
        kind: "binary", "graded" or "real".
        step: c, the size of one spike; None for real values, and where nothing but zeros ever came.
        levels: The largest |n|: 1 if binary, up to 16 if graded, 0 if real.
    """

    kind: Kind
    step: float | None
    levels: int


class Arrivals:
    """Watches the values that arrive in one place, over all batches."""

    def __init__(self) -> None:
        self._values: set[float] | None = set()  # distinct nonzero values; None once they are too many
        self._tolerance = _TOLERANCE

    @property
    def sole_value(self) -> float | None:
        """The one nonzero value seen so far; None if there were none or several."""
        return next(iter(self._values)) if self._values is not None and len(self._values) == 1 else None

    @property
    def are_real(self) -> bool:
        """Whether it is already certain that real numbers arrive."""
        return self._values is None

    def see(self, x: Tensor, nonzero: int) -> None:
        """Look at the values of a batch.

        Args:
            x: Any tensor of numbers.
            nonzero: How many of them are not 0.
        """
        if self._values is None or nonzero == 0:
            return
        if x.is_floating_point():
            self._tolerance = max(self._tolerance, torch.finfo(x.dtype).eps)
        flat = in_memory_order(x)
        self._add(flat[:: max(1, flat.numel() // _SAMPLE)])
        c = self.sole_value
        if self._values is None or (c is not None and int((flat == c).count_nonzero()) == nonzero):
            return
        self._add(flat)

    def assume_real(self) -> None:
        """Take it for certain that real numbers arrive."""
        self._values = None

    def _add(self, flat: Tensor) -> None:
        found = {value for value in flat.unique().tolist() if value != 0}
        values = (self._values or set()) | found
        self._values = values if len(values) <= _DISTINCT else None

    def conclude(self) -> Arrival:
        """Say what arrived in all batches together."""
        if self._values is None:
            return Arrival("real", None, 0)
        values = _merged(self._values, self._tolerance)
        if len(values) <= 1:
            return Arrival("binary", values[0] if values else None, 1)
        smallest = min(abs(value) for value in values)
        for divisor in range(1, LEVELS + 1):
            step = smallest / divisor
            counts = [value / step for value in values]
            if max(map(abs, counts)) > LEVELS + 0.5:
                break
            if all(abs(n - round(n)) <= self._tolerance * abs(n) for n in counts):
                return Arrival("graded", step, max(abs(round(n)) for n in counts))
        return Arrival("real", None, 0)


def _merged(values: Iterable[float], tolerance: float) -> list[float]:
    """Take values that differ by rounding alone for one."""
    merged: list[float] = []
    for value in sorted(values):
        if not merged or abs(value - merged[-1]) > tolerance * max(abs(value), abs(merged[-1])):
            merged.append(value)
    return merged


def in_memory_order(x: Tensor) -> Tensor:
    """Flatten a tensor without a copy if that can be: in the order in which it lies in memory."""
    order = sorted(range(x.dim()), key=x.stride().__getitem__, reverse=True)
    return x.permute(order).reshape(-1)
