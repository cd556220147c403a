"""Products in several operations: convolutions behind zeros that were put around a map, and sums of weighted values."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from onespike.counting.origins import Layout, Weights, memory


class Weighted(NamedTuple):
    """Activations times weights."""

    layout: Layout
    axes: set[int]  # along which the weights differ
    path: str  # of the module that multiplied them
    x: Tensor
    weight: Tensor
    first: bool  # as in `Product`


class Padded(NamedTuple):
    """Activations with zeros around them."""

    layout: Layout
    zeros: tuple[tuple[int, int], ...]  # before and behind, along the last axis, the one before it, ...

    def is_all_of(self, x: Tensor, axes: int) -> bool:
        """Whether x is all of it, with the zeros along its last `axes`; the axes before these may have been joined."""
        _, shape, stride = self.layout
        alike = (x.shape[-axes:], x.stride()[-axes:]) == (shape[-axes:], stride[-axes:])
        return alike and len(self.zeros) <= axes and x.numel() == shape.numel()


class Composed:
    """Remembers the first operation of such a product, by the place in memory of its result, until the second."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._weighted: dict[int, Weighted] = {}
        self._padded: dict[int, Padded] = {}

    def clear(self) -> None:
        """Forget all."""
        self._weighted.clear()
        self._padded.clear()

    def forget(self, tensor: Tensor) -> None:
        """Forget a tensor that is written."""
        self._weighted.pop(memory(tensor), None)
        self._padded.pop(memory(tensor), None)

    def see(self, func: Any, path: str, args: tuple[Any, ...], result: Any, first: bool) -> None:
        """Remember activations around which zeros are put, or that are multiplied by weights one by one."""
        name = func.overloadpacket.__name__
        if name == "constant_pad_nd" and not any(args[2:]) and min(args[1], default=0) >= 0:
            self._padded = {at: one for at, one in self._padded.items() if not one.layout.expired}
            zeros = tuple(zip(args[1][::2], args[1][1::2], strict=True))
            self._padded[memory(result)] = Padded(Layout.of(result), zeros)
        if name not in ("mul", "mul_") or not all(isinstance(one, Tensor) for one in args):
            return
        x, weight = sorted(args, key=self._weights.__contains__)
        if weight not in self._weights or x in self._weights or result.is_complex() or not x.numel():
            return
        self._weighted = {at: one for at, one in self._weighted.items() if not one.layout.expired}
        sides = zip(result.shape, weight.expand(result.shape).stride(), strict=True)
        if axes := {axis for axis, (side, step) in enumerate(sides) if side > 1 and step}:
            self._weighted[memory(result)] = Weighted(Layout.of(result), axes, path, x, weight, first)

    def zeros(self, x: Tensor, axes: int) -> Sequence[tuple[int, int]]:
        """The zeros around an input of a convolution, before and behind, along its last axis, the one before it, ..."""
        made = self._padded.get(memory(x))
        return made.zeros if made is not None and made.is_all_of(x, axes) else ()

    def summed(self, func: Any, args: tuple[Any, ...]) -> Weighted | None:
        """What is summed, if it was weighted, along an axis on which the weights differ."""
        if func.overloadpacket.__name__ not in ("sum", "mean") or memory(args[0]) not in self._weighted:
            return None
        one, made = self._weighted[memory(args[0])], args[0]
        axes = args[1] if len(args) > 1 and args[1] else range(made.dim())
        if not one.layout.is_of(made) or one.axes.isdisjoint(axis % made.dim() for axis in axes):
            return None
        return self._weighted.pop(memory(made))
