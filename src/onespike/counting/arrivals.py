"""The kind of a layer's inputs: spikes, small multiples of a spike, or real numbers. The values decide, not a name.

binary   {0, c} for one c over all batches, or for one c per channel if every channel has its own weights: c folds into
         the weights, and a spike costs one accumulate
signed   {-c, 0, c}, as from a ternary neuron, c as above: a spike with a sign is added or subtracted, one accumulate
graded   {n * c} for whole n, |n| <= 16, as from pooled or averaged spikes, or from several neurons together: n
         accumulates; each channel may have its own c, with at most 16 values other than 0
real     everything else: a multiply-accumulate

c is the largest number of which all values are multiples: spikes that only ever came in pairs count as one of twice the
size. Spikes are equal to the last bit; multiples of c may differ by rounding. A few images may not show what many do,
and in a single image a real number looks like a spike of its channel's own size.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Kind = Literal["binary", "signed", "graded", "real"]
KINDS: tuple[Kind, ...] = get_args(Kind)

#: The largest n of a graded value: a convention. By the prices of `energy.yaml`, 6 accumulates cost no less than a
#: multiply-accumulate; a graded value costs its n accumulates all the same.
LEVELS = 16
#: How many values, in all and of each channel, are sampled before all are read: enough to tell real numbers.
_SAMPLE, _SAMPLE_OF_CHANNEL = 4096, 64
#: Relative difference below which two multiples count as one, unless the values' own rounding is coarser (bfloat16's is
#: 0.8%; neighbouring levels differ by 6%).
_TOLERANCE = 1e-5


class Arrival(NamedTuple):
    """The kind of a layer's inputs.

    Attributes:
        kind: One of `KINDS`.
        step: c; None for real values, if all are zeros, and if each channel has its own.
        levels: The largest |n|: 1 if binary or signed, up to 16 if graded, 0 if real.
        signs: Whether n has both signs.
    """

    kind: Kind
    step: float | None
    levels: int
    signs: bool = False


class Arrivals:
    """Watches the values of one input; along the axis `channels`, if any, spikes may have one size for each channel."""

    def __init__(self, channels: int | None = None) -> None:
        self._values: set[float] | None = set()  # distinct nonzero values; None once they are too many
        self._tolerance = _TOLERANCE
        self._channels = None if channels is None else _Channels(channels)

    @property
    def sole_value(self) -> float | None:
        """The one nonzero value seen so far; None if there were none or several."""
        return next(iter(self._values)) if self._values is not None and len(self._values) == 1 else None

    @property
    def channels(self) -> int | None:
        """The axis of channels that may have sizes of their own; None if there is none, or that is ruled out."""
        return None if self._channels is None or self._channels.are_real else self._channels.axis

    @property
    def sizes(self) -> Tensor | None:
        """The c of each channel, (C,), if channels have their own; None if there is one c for all, or none."""
        if self._channels is None or self.conclude().step is not None:
            return None
        return found[0] if (found := self._channels.conclude(self._tolerance)) else None

    @property
    def have_no_step(self) -> bool:
        """Whether it is already certain that the values are no multiples of one number."""
        return self._values is None

    def see(self, x: Tensor, nonzero: int) -> None:
        """Read the values of a batch, of which `nonzero` are not 0."""
        if nonzero == 0:
            return
        if x.is_floating_point():
            self._tolerance = max(self._tolerance, torch.finfo(x.dtype).eps)
        if self._channels is not None:
            self._channels.see(x, nonzero)
        if self._values is None:
            return
        flat = in_memory_order(x)
        self._add(flat[:: max(1, flat.numel() // _SAMPLE)])
        c = self.sole_value
        if self._values is not None and (c is None or int((flat == c).count_nonzero()) != nonzero):
            self._add(flat)

    def assume_real(self) -> None:
        """Record that the values are known to be real."""
        self._values = self._channels = None

    def _add(self, flat: Tensor) -> None:
        values = (self._values or set()) | (set(flat.unique().tolist()) - {0})
        few = len(values) <= 4 * LEVELS  # all of -16..16, with room for rounding: more cannot be graded
        self._values = values if few and all(map(math.isfinite, values)) else None

    def conclude(self) -> Arrival:
        """Conclude the kind of the values in all batches together."""
        found = self._one_for_all()
        own = None if self._channels is None or found.kind == "binary" else self._channels.conclude(self._tolerance)
        # Of two interpretations the simpler one: `KINDS` are ordered from simple to complex.
        return own[1] if own is not None and KINDS.index(own[1].kind) < KINDS.index(found.kind) else found

    def _one_for_all(self) -> Arrival:
        if self._values is None:
            return Arrival("real", None, 0)
        if len(self._values) <= 1:
            return Arrival("binary", next(iter(self._values), None), 1)
        values: list[float] = []  # those that differ by more than rounding
        for value in sorted(self._values):
            if not values or abs(value - values[-1]) > self._tolerance * max(abs(value), abs(values[-1])):
                values.append(value)
        found = _sizes(torch.tensor([values], dtype=torch.float64), LEVELS, self._tolerance)
        if found is None or (found[1] == 1 and len({abs(value) for value in self._values}) > 1):
            return Arrival("real", None, 0)  # where numbers nearly agree, the difference may mean something
        return Arrival("graded" if found[1] > 1 else "signed", found[0].item(), found[1], values[0] < 0 < values[-1])


class _Channels:
    """Watches the distinct values other than 0 of each channel along an axis."""

    def __init__(self, axis: int) -> None:
        self.axis, self.count = axis, 0  # number of values that are not 0
        self._values = torch.zeros(0, 0)  # distinct ones of each channel, (C, n), filled up with infinity
        self.are_real = False  # whether some channel has too many
        self._alike = True  # whether values that were merged are equal to the last bit

    def see(self, x: Tensor, nonzero: int) -> None:
        if self.are_real:
            return
        rows = x.detach().movedim(self.axis, 0).flatten(1)
        rows = rows if rows.dtype == torch.float64 else rows.float()
        self.count += nonzero
        one = self._values.shape[1] == 1
        if one and not bool(((rows != 0) & (rows != self._values.to(rows))).any()):
            return  # what most layers see, at a third of the cost: the same value again
        found, _ = _distinct(rows[:, :: max(1, rows.shape[1] // _SAMPLE_OF_CHANNEL)])
        if found is not None:
            found, alike = _distinct(torch.cat([self._values.to(rows), rows], 1) if self._values.numel() else rows)
            self._alike &= alike
        self.are_real = found is None or not bool(rows.isfinite().all())
        self._values = self._values if found is None else found

    def conclude(self, tolerance: float) -> tuple[Tensor, Arrival] | None:
        """Find the spike size of each channel, (C,), and the kind of the values; None if they are real."""
        values = self._values.cpu()
        there = values.isfinite()
        # Values that each channel has only once are no proof of a size: they may be real numbers.
        if self.are_real or not values.numel() or self.count < 2 * int(there.sum()):
            return None
        # With rounding coarser than 1e-3, any two numbers are nearly whole multiples of a third.
        found, size = _sizes(values, LEVELS if tolerance <= 1e-3 else 1, tolerance), values.abs()
        alike = self._alike and bool((size.where(there, 0).amax(1) == size.amin(1))[there.any(1)].all())  # to the bit
        if found is None or (found[1] == 1 and not alike):
            return None
        sizes, levels = found
        least, most = (values.sign() * there).aminmax(dim=1)
        signs = bool((least * most < 0).any())
        return sizes, Arrival("graded" if levels > 1 else "signed" if signs else "binary", None, levels, signs)


def _sizes(values: Tensor, divisors: int, tolerance: float) -> tuple[Tensor, int] | None:
    """The largest number, (C,), of which all finite values of a row are multiples; and the largest multiple."""
    smallest = values.abs().amin(1)
    smallest = smallest.where(smallest.isfinite(), 1)
    sizes, levels = torch.zeros_like(smallest), torch.zeros_like(smallest)
    for divisor in range(1, divisors + 1):
        counts = torch.where(values.isfinite(), values * (divisor / smallest)[:, None], 1)
        whole, highest = (counts - counts.round()).abs() <= tolerance * counts.abs(), counts.abs().amax(1)
        fits = (sizes == 0) & whole.all(1) & (highest <= LEVELS + 0.5)
        sizes, levels = torch.where(fits, smallest / divisor, sizes), torch.where(fits, highest.round(), levels)
    return (sizes, int(levels.max())) if bool((sizes > 0).all()) else None


def _distinct(rows: Tensor) -> tuple[Tensor | None, bool]:
    """The distinct values of each row other than 0, up to rounding, (C, n), ascending; None if more than `LEVELS`.

    The second result is whether no values had to be merged for rounding.
    """
    rows, found, alike = rows.masked_fill(rows == 0, torch.inf), list[Tensor](), True
    while bool((least := rows.amin(1, keepdim=True)).isfinite().any()):
        if len(found) == LEVELS:
            return None, alike
        found.append(least)
        merged = (rows <= least + _TOLERANCE * least.abs()) & rows.isfinite()
        alike = alike and not bool((merged & (rows != least)).any())
        rows = rows.masked_fill(merged, torch.inf)
    return (torch.cat(found, 1) if found else rows[:, :0]), alike


def in_memory_order(x: Tensor) -> Tensor:
    """Flatten a tensor in the order in which it lies in memory, which needs no copy where that is possible."""
    order = sorted(range(x.dim()), key=x.stride().__getitem__, reverse=True)
    return x.permute(order).reshape(-1)
