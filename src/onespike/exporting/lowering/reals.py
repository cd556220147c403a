"""Real numbers: networks without a state, in float32, with the functions of C's <math.h>."""

from functools import partialmethod
from typing import Any

import torch
from torch import Tensor, nn

from onespike.exporting.lowering.layers import Layers
from onespike.exporting.lowering.maps import Conv, Function, Geometry, Map, Matmul, Read, Sum, Term
from onespike.exporting.lowering.values import CannotSayError, Value

#: The largest number.
LARGEST = torch.finfo(torch.float32).max


class Reals(Layers):
    """Turns a graph into maps of real numbers, and of spikes where something fires."""

    def _limits(self, edge: Tensor, strictly: bool) -> tuple[Tensor, Tensor]:
        edge = edge.float()
        below = torch.nextafter(edge, torch.full_like(edge, -torch.inf))
        return (edge.double(), below.double()) if strictly else (below.double(), edge.double())

    def _sum_kind(self, of: Map, bound: int) -> str:  # noqa: ARG002
        return "f32"

    def _product_of(self, first: Map, second: Map) -> tuple[str, int, float]:  # noqa: ARG002
        return "f32", 0, 1.0

    def _sum(self, terms: list[Term], constant: Tensor, scores: bool = False) -> tuple[Sum, float]:  # noqa: ARG002
        return Sum(shape=(1, 1, 1, len(constant)), kind="f32", terms=terms, constant=constant), 1.0

    def _plain(self, value: Value, anew: bool = False) -> Value:
        """A value as elements of maps of floats, without gain and shift; if `anew`, of new sums."""
        index = torch.full_like(value.index, -1)
        for of in self.maps_of(value.index):
            here = of.holds(value.index)
            place = value.index[here] - of.offset
            gain, shift = value.gain[here], value.shift[here]
            if not anew and of.kind == "f32" and bool((gain == 1).all()) and not shift.any():
                index[here] = value.index[here]
                continue
            unique, which = self._channels(of, place, gain, shift)
            terms = [Term(Read(of, unique[:, 0].long()), unique[:, 1])]
            shape = (*of.shape[:3], len(unique))
            self._add(new := Sum(shape=shape, kind="f32", terms=terms, constant=unique[:, 2]))
            index[here] = new.offset + place // of.channels * new.channels + which
        constant = value.index < 0
        return Value(index, torch.ones_like(value.gain), torch.where(constant, value.shift, 0.0))

    def _contiguous(self, value: Value) -> Value:
        return value if self._single(value, 1) is not None else self._gathered(value, 1)

    def _gathered(self, value: Value, axis: int) -> Value:
        """A value that covers one whole map of spikes, or of floats."""
        spikes = {of.kind for of in self.maps_of(value.index)} == {"bits"} and bool((value.gain == 1).all())
        plain = value if spikes and not value.shift.any() else self._plain(value)
        return plain if self._single(plain, axis) is not None else self._collected(plain, axis)

    def _collected(self, value: Value, axis: int) -> Value:
        try:
            return super()._collected(value, axis)
        except CannotSayError:
            return super()._collected(self._plain(value), axis)

    def _together(self, values: list[Value]) -> list[Value]:
        """Values of one shape, each covering one whole map, with all channels along one axis."""
        shape = torch.broadcast_shapes(*(one.shape for one in values))
        return [self._gathered(one.expand(shape), -min(3, len(shape))) for one in values]

    def _summed(self, values: list[Value]) -> Value:
        try:
            return super()._summed(values)
        except CannotSayError:
            return super()._summed(self._together(values))

    def _product(self, a: Value, b: Value) -> Value:
        try:
            return super()._product(a, b)
        except CannotSayError:
            return super()._product(*self._together([a, b]))

    def _in_new_sums(self, x: Value) -> Value:
        return self._plain(x, anew=True)

    def _weighed(self, x: Value, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Value:
        shift = x.shift[0, :, 0, 0]
        if self.maps_of(x.index)[0].kind not in ("bits", "f32") or (shift.any() and any(geometry.padding)):
            x = self._plain(x)
            shift = x.shift[0, :, 0, 0]
        read = self._single(x, 1)
        if read is None:
            raise CannotSayError(f"values of several scales side by side in {self._layer}")
        scaled = weight * x.gain[0, :, 0, 0].view(-1, 1, 1)
        new = Conv(kind="f32", source=read.map, **self._laid_out(x, read, scaled, geometry))
        self._add(new)
        return self._value(new, 1.0, (weight.sum((2, 3)) * shift).sum(1) + (bias if bias is not None else 0.0))

    # Products of two tensors.

    def _op_matmul(self, a: Any, b: Any) -> Value:
        """(…, M, K) times (…, K, N); a constant may be a vector."""
        if isinstance(b, Tensor) and b.ndim == 1:
            return self._op_matmul(a, b[:, None]).each(lambda part: part.squeeze(-1))
        if isinstance(a, Tensor) and a.ndim == 1:
            return self._op_matmul(a[None], b).each(lambda part: part.squeeze(-2))
        if isinstance(b, Tensor):
            if any(side > 1 for side in b.shape[:-2]):
                raise CannotSayError(f"constants for each of several matrices in {self._layer}")
            shape = (*torch.broadcast_shapes(a.shape[:-2], b.shape[:-2]), *a.shape[-2:-1], b.shape[-1])
            return self._op_linear(a, b.view(b.shape[-2:]).T).each(lambda part: part.reshape(shape))
        if isinstance(a, Tensor):  # of what is turned, it is the second
            turned = self._op_matmul(b.each(lambda part: part.transpose(-1, -2)), a.transpose(-1, -2))
            return turned.each(lambda part: part.transpose(-1, -2))
        outer = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        first = a.expand((*outer, *a.shape[-2:]))
        turned = b.each(lambda part: part.transpose(-1, -2))
        second = turned.expand((*outer, *turned.shape[-2:]))
        rows, columns = first.shape[-2], second.shape[-2]
        (left,), (right,) = (self.maps_of(self._rows(one).index) for one in (first, second))
        new = Matmul(shape=(1, 1, outer.numel() * rows, columns), kind="f32", rows=rows, factors=(left, right))
        self._add(new)
        return self._laid(new, (*outer, rows, columns), -1)

    def _rows(self, x: Value) -> Value:
        """A value whose rows, along the last axis, follow each other in one map of floats, constants included."""
        value = super()._collected(self._plain(x), len(x.shape) - 1)
        return self._summed([value]) if value.shift.any() else value

    _op_bmm = _op_mm = _op_matmul

    def _op_addmm(self, bias: Tensor, a: Any, b: Any) -> Value:
        return self._add_tensors(self._op_matmul(a, b), bias, 1.0)

    def _op_div(self, a: Any, b: Any) -> Any:
        if not isinstance(b, Value):
            return super()._op_div(a, b)
        return self._op_mul(a, self._op_reciprocal(b))

    def _op__softmax(self, x: Value, dim: int, *_: Any) -> Value:
        peak = self._reduced(x, dim, True, largest=True)
        raised = self._op_exp(self._add_tensors(x, peak, -1.0))
        return self._product(raised, self._op_reciprocal(self._reduced(raised, dim, True, largest=False)))

    _op_softmax = _op__softmax

    def _op_scaled_dot_product_attention(
        self,
        query: Any,
        key: Any,
        value: Any,
        mask: Any = None,
        dropout: float = 0.0,
        causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Value:
        if mask is not None or dropout or causal or enable_gqa:
            raise CannotSayError(f"attention with a mask, dropout or shared heads in {self._layer}")
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        pairs = self._op_matmul(query * scale, key.each(lambda part: part.transpose(-1, -2)))
        return self._op_matmul(self._op_softmax(pairs, -1), value)

    def _op_where(self, condition: Any, one: Any, other: Any) -> Any:
        """Choose: other + condition * (one - other)."""
        if not isinstance(condition, Value):
            raise CannotSayError(f"a choice between tensors in {self._layer}")
        values = [isinstance(tensor, Value) for tensor in (one, other)]
        between = self._add_tensors(one, other, -1.0) if any(values) else torch.as_tensor(one) - torch.as_tensor(other)
        return self._add_tensors(self._op_mul(condition, between), other, 1.0)

    def _op_lerp(self, start: Any, end: Any, weight: Any) -> Any:
        return self._op_where(weight, end, start)

    def _op_clamp(self, x: Value, least: float | None = None, most: float | None = None) -> Value:
        if not isinstance(least, Tensor) and not isinstance(most, Tensor):
            bounds = (-LARGEST if least is None else least), (LARGEST if most is None else most)
            return self._function(x, "clamp", tuple(max(-LARGEST, min(LARGEST, one)) for one in bounds))
        if least is not None:
            x = self._op_relu(x + -least) + least
        if most is not None:
            x = self._op_relu(x * -1.0 + most) * -1.0 + most
        return x

    _op_clamp_min = _op_clamp

    def _op_clamp_max(self, x: Value, most: float) -> Value:
        return self._op_clamp(x, None, most)

    def _op_hardtanh(self, x: Value, least: float = -1.0, most: float = 1.0) -> Value:
        return self._op_clamp(x, least, most)

    _op_relu6 = partialmethod(_op_hardtanh, least=0.0, most=6.0)

    # Functions, element by element.

    def _function(self, x: Value, name: str, arguments: tuple[float, ...] = ()) -> Value:
        x = self._plain(x)
        index = torch.full_like(x.index, -1)
        for of in self.maps_of(x.index):
            here = of.holds(x.index)
            new = Function(shape=of.shape, kind="f32", bound=0, source=of, name=name, arguments=arguments)
            self._add(new)
            index[here] = x.index[here] - of.offset + new.offset
        known: Any = nn.functional.gelu if name == "gelu" else getattr(torch, name)
        return Value(index, (index >= 0).double(), torch.where(index < 0, known(x.shift, *arguments), 0.0))

    def _op_gelu(self, x: Value, approximate: str = "none") -> Value:
        if approximate != "none":
            raise CannotSayError(f"gelu by {approximate} in {self._layer}")
        return self._function(x, "gelu")

    def _op_silu(self, x: Value) -> Value:
        return self._product(x, self._op_sigmoid(x))

    _op_sigmoid = partialmethod(_function, name="sigmoid")
    _op_tanh = partialmethod(_function, name="tanh")
    _op_exp = partialmethod(_function, name="exp")
    _op_sin = partialmethod(_function, name="sin")
    _op_cos = partialmethod(_function, name="cos")
    _op_ceil = partialmethod(_function, name="ceil")
    _op_floor = partialmethod(_function, name="floor")
    _op_reciprocal = partialmethod(_function, name="reciprocal")
