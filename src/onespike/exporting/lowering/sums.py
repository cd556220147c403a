"""Additions and pooling of values, and what a kind of numbers has to define."""

import math
from abc import ABC, abstractmethod
from functools import partialmethod
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from onespike.errors import OnespikeError
from onespike.exporting.lowering.maps import Geometry, Map, Pool, Read, Sum, Term
from onespike.exporting.lowering.values import CannotSayError, Value, axes_of, pair, sides_of, without
from onespike.exporting.lowering.walk import Walk


class Sums(Walk, ABC):
    """Walks over a graph; a subclass defines the kind of numbers."""

    # What a subclass defines.

    @abstractmethod
    def _weighed(self, x: Value, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Value:
        """Convolve a value (N, C, H, W) that covers one whole map, with real weights (C_out, C, kh, kw)."""

    @abstractmethod
    def _sum(self, terms: list[Term], constant: Tensor, scores: bool = False) -> tuple[Sum, float]:
        """A map of sums of values times real factors and of a constant (C,), or `scores`; the gain of its elements."""

    @abstractmethod
    def _limits(self, edge: Tensor, strictly: bool) -> tuple[Tensor, Tensor]:
        """Two limits t: for the first, q > t means q > edge; for the second, q > t means q >= edge.

        If not `strictly`, it is the other way round.
        """

    @abstractmethod
    def _product_of(self, first: Map, second: Map) -> tuple[str, int, float]:
        """Kind and bound of the products of two maps' elements, and their gain."""

    @abstractmethod
    def _sum_kind(self, of: Map, bound: int) -> str:
        """The kind of sums of a map's elements, up to a bound; a `CannotSayError` if it has no room for that."""

    def _coarser(self, of: Map, largest: int) -> tuple[Map, float]:  # noqa: ARG002
        """A map of which sums of up to `largest` have room, and by what factor its numbers are smaller."""
        return of, 1.0

    # Pooling.

    def _op_max_pool2d(
        self, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> Value:
        geometry = Geometry(pair(kernel), pair(stride or kernel), pair(padding), pair(dilation))
        if ceil_mode and not _fits(geometry, x):
            raise CannotSayError(f"max pooling with ceil_mode in {self._layer}")
        return self._pooled(x, geometry, largest=True)

    def _op_max_pool2d_with_indices(self, *args: Any) -> list[Value]:
        """Max pooling; its indices are never read."""
        return [self._op_max_pool2d(*args)]

    def _op_avg_pool2d(
        self,
        x: Value,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        geometry = Geometry(pair(kernel), pair(stride or kernel), pair(padding))
        if (ceil_mode and not _fits(geometry, x)) or (any(geometry.padding) and not count_include_pad):
            raise CannotSayError(f"average pooling whose windows differ in size in {self._layer}")
        return self._pooled(x, geometry, largest=False) / (divisor_override or math.prod(geometry.kernel))

    def _adaptive(self, x: Value, size: Any) -> Geometry:
        height, width = x.shape[-2:]
        rows, columns = pair(size)
        if height % rows or width % columns:
            raise CannotSayError(f"adaptive pooling of {height}x{width} to {rows}x{columns} in {self._layer}")
        kernel = height // rows, width // columns
        return Geometry(kernel, kernel)

    def _op_adaptive_avg_pool2d(self, x: Value, size: Any) -> Value:
        return self._op_avg_pool2d(x, self._adaptive(x, size).kernel)

    def _op_adaptive_max_pool2d(self, x: Value, size: Any) -> list[Value]:
        return [self._pooled(x, self._adaptive(x, size), largest=True)]

    def _reduced(self, x: Value, dim: Any = (), keepdim: bool = False, *_: Any, largest: bool, **__: Any) -> Value:
        """Reduce axes: all pixels of a map, seen as one column."""
        axes = [dim] if isinstance(dim, int) else list(dim or range(x.index.ndim))
        axes = sorted(axis % x.index.ndim for axis in axes)
        kept = [axis for axis in range(x.index.ndim) if axis not in axes]
        shape = [1 if axis in axes else side for axis, side in enumerate(x.shape) if keepdim or axis in kept]
        if any(x.shape[axis] > 1 for axis in axes):
            channels = math.prod(x.shape[axis] for axis in kept)
            column = x.each(lambda part: part.permute(*axes, *kept).reshape(1, -1, channels, 1).transpose(1, 2))
            x = self._pooled(column, Geometry((column.shape[2], 1)), largest)
        return x.each(lambda part: part.reshape(shape))

    _op_amax = partialmethod(_reduced, largest=True)
    _op_sum = partialmethod(_reduced, largest=False)

    def _op_max(self, x: Value, dim: Any = None, keepdim: bool = False) -> Any:
        """The largest value of all, or those along an axis, without where they are."""
        if isinstance(dim, Value | Tensor):
            raise CannotSayError(f"the larger of two tensors in {self._layer}")
        return self._reduced(x, largest=True) if dim is None else [self._reduced(x, dim, keepdim, largest=True)]

    def _op_mean(self, x: Value, *args: Any, **_: Any) -> Value:
        out = self._reduced(x, *args, largest=False)
        return out / (x.index.numel() // out.index.numel())

    def _pooled(self, x: Value, geometry: Geometry, largest: bool) -> Value:
        """Pool (N, C, H, W)."""
        padded = any(geometry.padding)
        turned, shifted = largest and bool((x.gain < 0).any()), not largest and padded and bool(x.shift.any())
        if turned or shifted:  # the largest of what is turned round is the smallest; padding has no shift
            x = self._summed([x])
        if (term := self._of_one_map(x, 1)) is None:
            x = self._collected(x, 1)
            term = self._of_one_map(x, 1)
            assert term is not None
        read = term.read
        images, height, width = x.shape[0], *x.shape[2:]
        count = 1 if largest else math.prod(geometry.kernel)
        of, factor = self._coarser(read.map, count)
        bound = of.bound * count
        kind = of.kind if largest and of.kind != "u8" else self._sum_kind(of, bound)
        if largest and padded and of.kind == "u8":
            raise CannotSayError(f"max pooling of the image in {self._layer}")
        source = Read(of, torch.arange(of.channels), read.pixels)
        new = Pool(
            shape=(images, *geometry.sides((height, width)), of.channels),
            kind=kind,
            bound=bound,
            image=of.image,
            read=source,
            sides=(images, height, width),
            geometry=geometry,
            largest=largest,
        )
        self._add(new)
        gain, shift = x.gain[0, :, 0, 0], x.shift[0, :, 0, 0]
        index = self._value(new).index[:, read.channels]
        shaped = [one.view(-1, 1, 1).expand(index.shape) for one in (gain * factor, shift * count)]
        return Value(index, *shaped)

    # Sums.

    def _summed(self, values: list[Value]) -> Value:
        """Add values of one shape; there is one map for all pixels that read the same maps."""
        shape = values[0].shape
        for axis in axes_of(shape):
            rows = [value.rows(axis) for value in values]
            owners = torch.cat([self._owners(row.index) for row in rows], 1)
            groups, which = torch.unique(owners, dim=0, return_inverse=True)
            chosen = [torch.nonzero(which == group).flatten() for group in range(len(groups))]
            decoded = [[self._decoded(row.each(itemgetter(pixels)), 1) for row in rows] for pixels in chosen]
            if all(one is not None for group in decoded for one in group):
                break
        else:
            raise CannotSayError(f"an addition of elements in another order in {self._layer}")
        out = rows[0].each(torch.empty_like)
        for pixels, group in zip(chosen, decoded, strict=True):
            constant = torch.stack([row.shift[pixels[0]] for row in rows]).sum(0)
            new, size = self._sum([term for one in group for term in one or [] if term.factors.any()], constant)
            new.shape = sides_of(shape, axis) if len(chosen) == 1 else (1, 1, len(pixels), shape[axis])
            self._add(new)
            out.index[pixels] = torch.arange(new.size).view(len(pixels), -1) + new.offset
            out.gain[pixels], out.shift[pixels] = size, 0.0
        return out.each(lambda part: part.view(*without(shape, axis), -1).movedim(-1, axis))

    def scores(self, logits: Value) -> float:
        """Add the last map, the class scores; returns the logit that a score of 1 stands for."""
        terms = self._decoded(logits, logits.index.ndim - 1)
        if terms is None or not logits.shift.isfinite().all():
            raise OnespikeError("export: expected finite logits (B, K), class by class from one map")
        if not terms:
            raise OnespikeError("export: the logits do not depend on the image: there is nothing to compute")
        new, size = self._sum(terms, logits.shift.flatten(), scores=True)
        self._add(new)
        return size


def _fits(geometry: Geometry, x: Value) -> bool:
    """Whether no window reaches beyond a map (N, C, H, W) and its padding, so that ceil_mode makes no difference."""
    sizes = zip(x.shape[-2:], geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True)
    return all((size + 2 * pad - apart * (kernel - 1) - 1) % step == 0 for size, kernel, step, pad, apart in sizes)
