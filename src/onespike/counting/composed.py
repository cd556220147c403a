"""Products in two operations: a convolution of a map padded with zeros, and a sum of weighted or chosen weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from onespike.counting.origins import Weights, memory

#: Operations that choose between two values by a condition.
_CHOICES = ("where", "masked_fill")


class Layout(NamedTuple):
    """How a tensor lies in memory; the tensor may be freed, but while this is kept no other takes its place."""

    storage: StorageWeakRef
    shape: torch.Size
    stride: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> "Layout":
        """The layout of a tensor."""
        return cls(StorageWeakRef(tensor.untyped_storage()), tensor.shape, tensor.stride())


class Weighted(NamedTuple):
    """Activations times weights, or weights that spikes choose: where there is none, there is 0 or another weight."""

    layout: Layout
    axes: set[int]  # along which the weights differ
    path: str  # of the module that multiplied them
    x: Tensor  # a copy: they may be written before the sum
    weight: Tensor
    first: bool  # as in `Product`
    multiplies: bool  # else it chooses


class Padded(NamedTuple):
    """Activations with zeros around them."""

    layout: Layout
    zeros: tuple[tuple[int, int], ...]  # before and behind, along the last axis, the one before it, ...


class Composed:
    """Remembers the first operation of such a product, by the place in memory of its result, until the second."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._begun: dict[int, Weighted | Padded] = {}

    def clear(self) -> None:
        """Forget all."""
        self._begun.clear()

    def forget(self, tensor: Tensor) -> None:
        """Forget a tensor that is written."""
        self._begun.pop(memory(tensor), None)

    def see(self, func: Any, path: str, args: tuple[Any, ...], result: Any, first: bool) -> None:
        """Remember activations around which zeros are put, or that are multiplied by weights one by one."""
        name = func.overloadpacket.__name__
        if name == "constant_pad_nd" and not any(args[2:]) and min(args[1], default=0) >= 0:
            zeros = tuple(zip(args[1][::2], args[1][1::2], strict=True))
            self._remember(result, Padded(Layout.of(result), zeros))
        if (factors := self._factors(name, args)) is None:
            return
        x, weight = factors
        if weight not in self._weights or x in self._weights or result.is_complex() or not x.numel():
            return
        sides = zip(result.shape, weight.expand(result.shape).stride(), strict=True)
        if axes := {axis for axis, (side, step) in enumerate(sides) if side > 1 and step}:
            multiplies = name not in _CHOICES
            self._remember(result, Weighted(Layout.of(result), axes, path, x.clone(), weight, first, multiplies))

    def _factors(self, name: str, args: tuple[Any, ...]) -> tuple[Tensor, Tensor] | None:
        """What an operation multiplies one by one, the weights last; None if it is none that does."""
        if name in _CHOICES:  # spikes and two values of which each chooses one
            mask = args[0 if name == "where" else 1]
            spikes, one, other = args if name == "where" else (~mask, args[0], args[2])
            if not self._is_weight(one) or self._is_zero(one):
                spikes, one, other = ~spikes, other, one
            weighted = self._is_weight(one) and (self._is_weight(other) or self._is_zero(other))
            return (spikes.to(one.dtype), one) if weighted and not self._is_weight(mask) else None
        factors = args[1:3] if name in ("addcmul", "addcmul_") else args if name in ("mul", "mul_") else ()
        if not factors or not all(isinstance(one, Tensor) for one in factors):
            return None
        x, weight = sorted(factors, key=self._weights.__contains__)
        return x, weight

    def _is_weight(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value in self._weights

    @staticmethod
    def _is_zero(value: Any) -> bool:
        return not (value.any() if isinstance(value, Tensor) else value)

    def _remember(self, result: Tensor, begun: Weighted | Padded) -> None:
        """Remember a result, and forget those that are freed."""
        self._begun = {place: one for place, one in self._begun.items() if not one.layout.storage.expired()}
        self._begun[memory(result)] = begun

    def zeros(self, x: Tensor, axes: int) -> Sequence[tuple[int, int]]:
        """The zeros around an input of a convolution, before and behind, along its last axis, the one before it, ..."""
        made = self._begun.get(memory(x))
        if not isinstance(made, Padded) or len(made.zeros) > axes:
            return ()
        _, shape, stride = made.layout  # x's own, except that axes before its maps may be joined
        alike = (x.shape[-axes:], x.stride()[-axes:]) == (shape[-axes:], stride[-axes:])
        return made.zeros if alike and x.numel() == shape.numel() else ()

    def summed(self, func: Any, args: tuple[Any, ...]) -> Weighted | None:
        """The weighted activations that an operation sums along an axis on which their weights differ, if it does."""
        if func.overloadpacket.__name__ not in ("sum", "mean"):
            return None
        one, made = self._begun.get(memory(args[0])), args[0]
        if not isinstance(one, Weighted) or (made.shape, made.stride()) != one.layout[1:]:
            return None
        axes = args[1] if len(args) > 1 and args[1] else range(made.dim())
        if one.axes.isdisjoint(axis % made.dim() for axis in axes):
            return None
        del self._begun[memory(made)]
        return one
