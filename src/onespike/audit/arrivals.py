"""What arrives at a layer: spikes, small multiples of a spike, or real numbers. Values decide, not the layer's name.

binary   {0, c} for one c over all batches, or for a c of each channel's own where every channel has its own weights: c
         folds into the weights, an arriving value costs one accumulate
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
        step: c, the size of one spike; None for real values, where nothing but zeros ever came, and where each channel
            has a size of its own.
        levels: The largest |n|: 1 if binary, up to 16 if graded, 0 if real.
    """

    kind: Kind
    step: float | None
    levels: int


class Arrivals:
    """Watches the values that arrive in one place, over all batches.

    Args:
        channels: The axis of the channels that have weights of their own, into which a size could fold; None for none.
    """

    def __init__(self, channels: int | None = None) -> None:
        self._values: set[float] | None = set()  # distinct nonzero values; None once they are too many
        self._tolerance = _TOLERANCE
        self._channels = None if channels is None else _Channels(channels)

    @property
    def sole_value(self) -> float | None:
        """The one nonzero value seen so far; None if there were none or several."""
        return next(iter(self._values)) if self._values is not None and len(self._values) == 1 else None

    @property
    def have_no_step(self) -> bool:
        """Whether it is already certain that the values are no multiples of one number."""
        return self._values is None

    def see(self, x: Tensor, nonzero: int) -> None:
        """Look at the values of a batch.

        Args:
            x: Any tensor of numbers.
            nonzero: How many of them are not 0.
        """
        if nonzero == 0:
            return
        if x.is_floating_point():
            self._tolerance = max(self._tolerance, torch.finfo(x.dtype).eps)
        if self._channels is not None:
            self._channels.see(x)
        if self._values is None:
            return
        flat = in_memory_order(x)
        self._add(flat[:: max(1, flat.numel() // _SAMPLE)])
        c = self.sole_value
        if self._values is None or (c is not None and int((flat == c).count_nonzero()) == nonzero):
            return
        self._add(flat)

    def assume_real(self) -> None:
        """Take it for certain that real numbers arrive."""
        self._values = self._channels = None

    def _add(self, flat: Tensor) -> None:
        found = {value for value in flat.unique().tolist() if value != 0}
        values = (self._values or set()) | found
        self._values = values if len(values) <= _DISTINCT else None

    def conclude(self) -> Arrival:
        """Say what arrived in all batches together."""
        found = self._one_for_all()
        if found.kind != "binary" and self._channels is not None and self._channels.are_binary(self._tolerance):
            return Arrival("binary", None, 1)
        return found

    def _one_for_all(self) -> Arrival:
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


class _Channels:
    """Watches whether the values of each channel are 0 and one other.

    Args:
        axis: Where the channels are.
    """

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.counts = self.low = self.high = torch.zeros(0)  # per channel: values that are not 0, least, greatest

    def see(self, x: Tensor) -> None:
        """Look at the values of a batch."""
        rows = x.detach().movedim(self.axis, 0).flatten(1).float()
        nothing = rows == 0
        counts = rows.shape[1] - nothing.sum(1)
        low = rows.masked_fill(nothing, torch.inf).amin(1)
        high = rows.masked_fill(nothing, -torch.inf).amax(1)
        if self.counts.numel():
            counts, low, high = counts + self.counts, torch.minimum(low, self.low), torch.maximum(high, self.high)
        self.counts, self.low, self.high = counts, low, high

    def are_binary(self, tolerance: float) -> bool:
        """Whether they are; real numbers that came once to each channel are no proof of it."""
        active = self.counts > 0
        alike = (self.high - self.low)[active] <= tolerance * self.high[active].abs()
        return bool(alike.all()) and int(self.counts.sum()) >= 2 * int(active.sum())


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
