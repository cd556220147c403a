"""Integers: strictly spiking networks with 8-bit weights, exactly.

Sums of weights are integers, real-valued streams are fixed-point numbers, and a threshold is an integer:

    q > (threshold - shift) / gain    is    q > floor((threshold - shift) / gain)
"""

import math
from functools import partialmethod
from typing import Any

import torch
from torch import Tensor, fx

from onespike.errors import OnespikeError, listed
from onespike.exporting.lowering.layers import Layers
from onespike.exporting.lowering.maps import (
    Collect,
    Conv,
    Fire,
    Geometry,
    Map,
    PixelConv,
    Pool,
    Product,
    Read,
    Sum,
    Term,
    Wave,
    largest_sum,
    whole,
)
from onespike.exporting.lowering.values import CannotSayError, Unsaid, Value, sides_of
from onespike.functional import find_integers

#: Most fractional bits of fixed-point numbers, and the bits of a number.
FRACTION, BITS = 52, 61


class Integers(Layers):
    """Turns a graph on float64, with weights of 8 bits, for one image of bytes into maps of whole numbers."""

    others = "--weights fp32 says more in float C, onnx and pt2 can"

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.real: list[str] = []  # layers that read other values than spikes
        self.first: list[str] = []  # layers of the stem: they read the image, or what is made from it without spikes

    def check(self, name: str, model: str) -> None:
        """Raise `OnespikeError`, too, unless every layer behind the stem reads spikes."""
        fires = any(one.kind == "bits" for one in self.maps)
        if real := self.real or ([] if fires else self.first):
            found, advice = "", "; --weights fp32 may export it, in float C"
            if self.problems:  # what a layer reads may be spikes that come out of an operation that is refused
                found, advice = f", or what integers cannot say: {listed(self.problems, '; ')}", ""
            reads = f"{listed(real, ', ')} read other values than spikes{found}"
            expected = f"every layer behind the stem has to read spikes{advice}"
            raise OnespikeError(f"{name}: {model} is not strictly spiking: {reads}; {expected}")
        super().check(name, model)

    def _of_unsaid(self, name: str, args: tuple[Any, ...]) -> Any:
        """The result of an operation on real values: layers that read them are named, thresholds give spikes again."""
        if name in ("conv2d", "linear") and isinstance(args[0], Unsaid):
            self.real.append(self._layer)
        if name in ("gt", "ge"):
            axis = min(1, len(self._shape) - 1)
            self._add(fired := Map(shape=sides_of(self._shape, axis), kind="bits", bound=1))
            return self._laid(fired, self._shape, axis)
        return Unsaid()

    # Numbers.

    def _limits(self, edge: Tensor, strictly: bool) -> tuple[Tensor, Tensor]:
        below = edge.ceil() - 1
        return (edge.floor(), below) if strictly else (below, edge.floor())

    def _sum_kind(self, of: Map, bound: int) -> str:
        kind = "i32" if of.kind in ("u8", "bits") else of.kind
        if kind == "i32" and bound >= 2**31 - 1:
            raise CannotSayError(f"sums of {self._layer} that exceed 32 bits")
        return kind

    def _product(self, a: Value, b: Value) -> Value:
        """A product of spikes, or of their absence, is a spike: SEW-ResNet's AND and IAND."""
        a, b = (b, a) if self._heights(b) is None else (a, b)
        if (height := self._heights(b)) is None:
            return super()._product(a, b)
        if (other := self._heights(a)) is not None:
            return self._op_gt(self._add_tensors(a / other, b / height, 1.0), 1.5) * (other * height)
        if not b.shift.any():
            return super()._product(a, b)
        # What is left by a reset, x (1 - s), is x - x s.
        a = self._summed([a]) if a.shift.any() else a
        return self._add_tensors(a * b.shift, super()._product(a, b + -b.shift), 1.0)

    def _heights(self, x: Value) -> Tensor | None:
        """What each element is where it is not 0, if all are spikes, or say where there is none; else None."""
        fits = (x.index >= 0) & (x.gain != 0) & ((x.shift == 0) | (x.shift == -x.gain))
        spikes = bool(fits.all()) and all(of.kind == "bits" for of in self.maps_of(x.index))
        return torch.where(x.shift == 0, x.gain, x.shift) if spikes else None

    def _product_of(self, first: Map, second: Map) -> tuple[str, int, float]:
        bound = first.bound * second.bound
        if first.kind == second.kind == "i64":
            if bound >= 2**122:
                raise CannotSayError(f"products of {self._layer} that exceed 64 bits")
            return "i64", (bound >> 60) + 1, 2.0**60
        if "bits" not in (first.kind, second.kind):
            raise CannotSayError(f"a product of sums in {self._layer}")
        return "i64", bound, 1.0

    def _wave(self, x: Value, cosine: bool) -> Value:
        turns = self._summed([x / (2 * math.pi)])
        index = torch.empty_like(turns.index)
        for of in self.maps_of(turns.index):
            here = of.holds(turns.index)
            fraction = -round(math.log2(turns.gain[here][0].item()))
            new = Wave(shape=of.shape, kind="i64", bound=2**60, source=of, fraction=fraction, cosine=cosine)
            self._add(new)
            index[here] = turns.index[here] - of.offset + new.offset
        gain = torch.full(index.shape, 2.0**-60, dtype=torch.float64)
        return Value(index, gain, torch.zeros_like(gain))

    _op_sin = partialmethod(_wave, cosine=False)
    _op_cos = partialmethod(_wave, cosine=True)

    def _weighed(self, x: Value, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Value:
        of = self.maps_of(x.index)[0]
        alike = bool((x.gain == x.gain.flatten()[0]).all()) and not x.shift.any()
        if of.image and of.kind != "u8" and not alike:
            x = self._summed([x])  # puts what the first layers hand on to each other on one scale
        read = self._single(x, 1)
        if read is None:
            raise CannotSayError(f"values of several scales side by side in {self._layer}")
        of = read.map
        if not of.image and of.kind == "i64":
            self.real.append(self._layer)
            raise CannotSayError  # `check` names the layer
        self.first += [self._layer] if of.image else []
        integers, scale = find_integers(weight)
        if (integers * scale - weight).abs().max() > 1e-9 * weight.abs().max():
            raise CannotSayError(
                f"weights of {self._layer} that are not of 8 bits: only those of nn.Conv2d and nn.Linear are"
            )
        common = self._laid_out(x, read, integers.to(torch.int8), geometry)
        if of.kind == "u8":
            return self._weighed_pixels(x, read, weight, scale.flatten(), bias, common)
        gain, shift = x.gain[0, :, 0, 0], x.shift[0, :, 0, 0]
        if len(gain.unique()) > 1 or (shift.any() and any(geometry.padding)):
            raise CannotSayError(
                f"spikes of several sizes, or with a constant, in front of {self._layer} "
                "(onespike convert --neurons layer makes them of one size)"
            )
        constant = (weight.sum((2, 3)) * shift).sum(1) + (bias if bias is not None else 0.0)
        largest = largest_sum(common["weight"])
        of, factor = self._coarser(of, largest)
        bound = of.bound * largest
        self._add(new := Conv(kind=self._sum_kind(of, bound), bound=bound, source=of, **common))
        return self._value(new, factor * gain[0] * scale.flatten(), constant)

    def _weighed_pixels(
        self, x: Value, read: Read, weight: Tensor, scale: Tensor, bias: Tensor | None, common: dict[str, Any]
    ) -> Value:
        """Convolve the image: channels with the same deviation are added up on their own."""
        gain, shift = x.gain[0, :, 0, 0], x.shift[0, :, 0, 0]
        groups = [torch.nonzero(gain == one).flatten() for one in gain.unique()]
        taps = torch.einsum("oikl,i->klo", weight, shift).flatten(0, 1)
        largest = (weight.abs() * (255 * gain.abs() + shift.abs())[:, None, None]).sum((1, 2, 3)).max().item()
        fraction = min(FRACTION, BITS - 1 - math.ceil(math.log2(max(largest, 1e-9))))
        factors = torch.stack([gain[group[0]] * scale for group in groups])
        self._sum_kind(read.map, read.map.bound * largest_sum(common["weight"]))  # of each channel before its factor
        new = PixelConv(
            kind="i64",
            bound=math.ceil(largest * 2**fraction),
            source=read.map,
            groups=[read.channels[group] for group in groups],
            factors=whole(factors * 2.0**fraction),
            taps=whole(taps * 2.0**fraction),
            **common,
        )
        self._add(new)
        return self._value(new, 2.0**-fraction, bias if bias is not None else 0.0)

    def _coarser(self, of: Map, largest: int) -> tuple[Map, float]:
        """The map, or one with fewer bits and a factor, such that sums of up to `largest` fit into 64 bits."""
        if of.kind != "i64" or of.bound * largest < 2 ** (BITS + 1):
            return of, 1.0
        drop = math.ceil(math.log2(of.bound)) + math.ceil(math.log2(largest)) - BITS
        ones, zeros = (torch.full((of.channels,), number) for number in (1, 0))
        terms = [Term(Read(of, torch.arange(of.channels)), ones)]
        new = Sum(shape=of.shape, kind="i64", bound=of.bound >> drop, terms=terms, constant=zeros, drop=drop)
        new.image = of.image
        self._add(new)
        return new, 2.0**drop

    def _op_where(self, condition: Any, one: Any, other: Any) -> Value:
        """Fractions of spikes made whole: where(x > threshold, 1, x), and below the threshold x is 0."""
        refused = CannotSayError(f"a choice between tensors in {self._layer}")
        fractions = isinstance(condition, Value) and isinstance(other, Value) and not isinstance(one, Value)
        if not fractions or not bool((torch.as_tensor(one) == 1).all()):
            raise refused
        fixed = condition.index < 0  # never above the threshold, or always
        if bool((fixed & (condition.shift == 0) & ((other.index >= 0) | (other.shift != 0))).any()):
            raise refused
        same = (condition.index == other.index) & (other.gain == 1) & (other.shift == 0)
        for fire in self.maps_of(condition.index[~same]):
            if not isinstance(fire, Fire):
                raise refused
            here = ~same & fire.holds(condition.index)
            place = condition.index[here] - fire.offset
            channel = place // fire.channels * fire.source.channels + fire.chosen[place % fire.channels]
            if not torch.equal(fire.source.offset + channel, other.index[here]) or other.shift[here].any():
                raise refused
            unknown = [1.0] if _is_never_negative(fire.source) else [-math.inf, 1.0]
            levels = _levels(fire.source) or unknown
            for limit, inverted in zip(fire.thresholds.tolist(), fire.inverted.tolist(), strict=True):
                if inverted or any(level for level in levels if level <= limit):
                    raise CannotSayError(f"fractions of spikes that stay in {self._layer}")
        return condition

    def _sum(self, terms: list[Term], constant: Tensor, scores: bool = False) -> tuple[Sum, float]:
        bits = 31 if scores else BITS
        largest = constant.abs().max().item()
        largest += sum((one.factors.abs() * one.read.map.bound).max().item() for one in terms)
        place = math.ceil(math.log2(max(largest, 1e-9)))
        fraction = min(FRACTION, BITS - 1 - place)
        if not constant.any() and all(_levels(one.read.map) and not (256 * one.factors % 1).any() for one in terms):
            fraction = 8  # fractions of spikes
        drop = max(0, fraction - (bits - 1 - place))
        added = [Term(one.read, *_factors(one.factors * 2.0**fraction, one.read.map.kind == "i64")) for one in terms]
        new = Sum(
            shape=(1, 1, 1, len(constant)),
            kind="i64",
            bound=math.ceil(largest * 2.0 ** (fraction - drop)),
            image=all(one.read.map.image for one in terms),
            terms=[term for term in added if term.drop <= 120],  # numbers of 61 bits that are divided by more are 0
            constant=whole(constant * 2.0**fraction),
            drop=drop,
        )
        return new, 2.0 ** (drop - fraction)


def _levels(of: Map) -> set[int]:
    """The integers that a map can hold, where they are few, as those of spikes and sums of spikes; else nothing."""
    if of.kind == "bits":
        return {0, 1}
    if not isinstance(of, Sum) or of.constant.any() or of.drop or len(of.terms) > 4:
        return set()
    sums = {0}
    for term in of.terms:
        factors, inner = term.factors.unique().tolist(), _levels(term.read.map)
        if not inner or any(level * factor % 2**term.drop for level in inner for factor in factors):
            return set()
        values = {level * factor >> term.drop for level in inner for factor in factors}
        sums = {one + other for one in sums for other in values}
    return sums if len(sums) <= 32 else set()


def _is_never_negative(of: Map) -> bool:
    """Whether no number of a map can be below 0: spikes, and what is added up of them."""
    if isinstance(of, Sum) and not of.rectified:
        factors = [of.constant, *(term.factors for term in of.terms)]
        return not any((one < 0).any() for one in factors) and all(map(_is_never_negative, of.reads()))
    if isinstance(of, Pool | Collect | Product):
        return all(map(_is_never_negative, of.reads()))
    return isinstance(of, Sum) or of.kind in ("bits", "u8")


def _factors(gain: Tensor, wide: bool) -> tuple[Tensor, int]:
    """Gains as integers, and an exponent of 2 to divide by; for `wide` values 60 bits, unless fewer are exact."""
    if not wide or not gain.any():
        return whole(gain), 0
    drop = 60 - math.ceil(math.log2(gain.abs().max().item()))
    factors = whole(gain * 2.0**drop)
    fewer, left = factors, drop
    while left > 0 and not (fewer % 2).any():
        fewer, left = fewer // 2, left - 1
    simple = left == 0 or (left < 63 and bool((fewer == fewer[0]).all()) and abs(int(fewer[0])) == 1)
    return (fewer, left) if simple else (factors, drop)
