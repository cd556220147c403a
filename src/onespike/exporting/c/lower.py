"""From an exported program to maps of whole numbers: an interpreter of its graph.

A tensor of the network is a `Value`: each of its elements is gain * q + shift, q an element of a map, or a constant.
Whatever moves elements (views, slices, concatenation, repetition) moves these three; constants, batch norm and scales
go into gain and shift. New maps are made by convolutions, pooling, additions and thresholds alone. Where a value meets
a threshold, gain, shift and threshold become one integer threshold:

    gain * q + shift > threshold    is    q > floor((threshold - shift) / gain)        (gain > 0)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from onespike.errors import OnespikeError
from onespike.exporting.c.maps import (
    Collect,
    Conv,
    Fire,
    Geometry,
    Map,
    Part,
    PixelConv,
    Pixels,
    Pool,
    Product,
    Read,
    Sum,
    Term,
    Wave,
    largest_sum,
    whole,
)
from onespike.functional import to_integers

#: Bits behind the point of fixed-point numbers, at most, and the bits that a number has.
FRACTION, BITS = 52, 61

#: Operations that move elements, and those that leave them as they are.
MOVES = {
    *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "movedim", "squeeze"),
    *(
        "unsqueeze",
        "slice",
        "narrow",
        "select",
        "expand",
        "expand_as",
        "repeat",
        "repeat_interleave",
        "unbind",
        "split",
    ),
    *("chunk", "split_with_sizes", "stack", "cat", "slice_scatter", "select_scatter", "index_select", "flip", "roll"),
    *("t", "copy", "numpy_T", "tile", "view_as", "swapaxes"),
}
SAME = {"to", "_to_copy", "contiguous", "clone", "alias", "detach", "lift_fresh_copy", "dropout", "type_as", "float"}
SAME |= {"feature_dropout", "double"}


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
class Real:
    """A tensor that cannot be said in whole numbers."""

    shape: torch.Size


class Lowering(fx.Interpreter):
    """Turns a graph into `maps`, in the order in which they follow; what cannot be said is listed in `problems`.

    Args:
        graph: A graph of ATen operations on float64, without effects, for one image of bytes.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.maps: list[Map] = []
        self.problems: list[str] = []  # operations that cannot be said
        self.real: list[str] = []  # layers that read real values
        self.first: list[str] = []  # layers of the stem: they read the image, or what is made of it without a spike
        self._layer, self._shape = "", torch.Size()

    def image(self, shape: torch.Size) -> Value:
        """The image, (1, C, H, W)."""
        _, channels, height, width = shape
        self._add(pixels := Pixels(shape=(1, height, width, channels), kind="u8", bound=255, image=True))
        return self._value(pixels)

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation; remember which layer it belongs to."""
        stack = list((n.meta.get("nn_module_stack") or {"": ("",)}).values())
        self._layer = str(stack[-1][0]).removeprefix("L['self'].").removeprefix("network.") or n.name
        value = n.meta.get("val")
        self._shape = value.shape if isinstance(value, Tensor) else torch.Size()
        return super().run_node(n)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> None:
        """Leave out the guards, which look at shapes: an exported graph has no other modules."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute constants; lower what depends on the image."""
        leaves = pytree.tree_leaves((args, kwargs))
        if not any(isinstance(leaf, Value | Real) for leaf in leaves):
            return super().call_function(target, args, kwargs)
        name = target._schema.name.split("::")[1] if hasattr(target, "_schema") else target.__name__
        name = name.rstrip("_") if not name.startswith("_") else name
        if name == "_assert_tensor_metadata":
            return None
        if name == "getitem":
            return Real(self._shape) if isinstance(args[0], Real) else args[0][args[1]]
        if name in SAME:
            return args[0]
        if name.startswith("new_") or name.endswith("_like"):
            return self._constant(name, args, kwargs)
        if any(isinstance(leaf, Real) for leaf in leaves):
            return self._of_real(name, args)
        handler: Callable[..., Any] | None = getattr(self, f"_op_{name}", None)
        try:
            if name in MOVES:
                return self._move(target, args, kwargs)
            if handler is not None:
                return handler(*args, **kwargs)
        except _CannotSayError as reason:
            return self._refuse(str(reason))
        return self._refuse(f"{name} of {self._layer}")

    # What cannot be said.

    def _refuse(self, reason: str) -> Real:
        self.problems.append(reason)
        return Real(self._shape)

    def _of_real(self, name: str, args: tuple[Any, ...]) -> Any:
        """What follows from real values: a layer that reads them is named, a threshold gives spikes again."""
        if name in ("conv2d", "linear") and isinstance(args[0], Real):
            self._reads_real()
        if name in ("gt", "ge"):
            fired = Fire(
                shape=(1, 1, 1, math.prod(self._shape)),
                kind="bits",
                bound=1,
                source=Pixels(shape=(1, 1, 1, 1), kind="u8", bound=255),
                chosen=torch.zeros(0),
                thresholds=torch.zeros(0),
                inverted=torch.zeros(0),
            )
            self._add(fired)
            return self._ones(torch.arange(fired.size).view(self._shape) + fired.offset)
        return Real(self._shape)

    def _reads_real(self) -> None:
        if self._layer not in self.real:
            self.real.append(self._layer)

    # Elements that are moved; constants.

    def _add(self, new: Map) -> None:
        new.offset = self.maps[-1].offset + self.maps[-1].size if self.maps else 0
        new.layer = self._layer
        self.maps.append(new)

    def _value(self, of: Map, gain: Tensor | float = 1.0, shift: Tensor | float = 0.0) -> Value:
        """All of a map as (N, C, H, W), with a gain and a shift, () or (C,)."""
        index = (torch.arange(of.size) + of.offset).view(of.shape).permute(0, 3, 1, 2)
        shaped = [torch.as_tensor(one, dtype=torch.float64).view(-1, 1, 1).expand(index.shape) for one in (gain, shift)]
        return Value(index, *shaped)

    def _ones(self, index: Tensor) -> Value:
        return Value(index, torch.ones(index.shape, dtype=torch.float64), torch.zeros(index.shape, dtype=torch.float64))

    def _move(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            target = torch.reshape  # here a clone has not made it contiguous

        def part(which: str) -> Any:
            def pick(leaf: Any) -> Any:
                if isinstance(leaf, Value):
                    return getattr(leaf, which)
                return getattr(_as_value(leaf), which) if isinstance(leaf, Tensor) else leaf

            return target(*pytree.tree_map(pick, args), **pytree.tree_map(pick, kwargs))

        parts = part("index"), part("gain"), part("shift")
        return Value(*parts) if isinstance(parts[0], Tensor) else [Value(*one) for one in zip(*parts, strict=True)]

    def _constant(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        shape = args[1] if name.startswith("new_") else self._shape
        fills = {"new_zeros": 0.0, "zeros_like": 0.0, "new_ones": 1.0, "ones_like": 1.0, "new_empty": 0.0}
        fill = args[-1] if "full" in name else fills.get(name, 0.0)
        del kwargs
        return torch.full([int(side) for side in shape], float(fill), dtype=torch.float64)

    # Constants, batch norm: gain and shift.

    def _add_tensors(self, a: Any, b: Any, factor: float) -> Value:
        if not isinstance(a, Value) or not isinstance(b, Value):
            value, other = (a, b) if isinstance(a, Value) else (b, a)
            first, second = (1.0, factor) if isinstance(a, Value) else (factor, 1.0)
            return _mapped(value, lambda gain, shift, k: (first * gain, first * shift + second * k), other)
        a = _mapped(a, lambda gain, shift, _: (gain, shift), torch.zeros(b.shape))
        b = _mapped(b, lambda gain, shift, _: (factor * gain, factor * shift), torch.zeros(a.shape))
        constant = (a.index < 0) | (b.index < 0)
        if bool((constant | (a.index == b.index)).all()):
            return Value(torch.maximum(a.index, b.index), a.gain + b.gain, a.shift + b.shift)
        return self._summed([a, b])

    def _op_add(self, a: Any, b: Any, *, alpha: float = 1.0) -> Value:
        return self._add_tensors(a, b, alpha)

    def _op_sub(self, a: Any, b: Any, *, alpha: float = 1.0) -> Value:
        return self._add_tensors(a, b, -alpha)

    def _op_rsub(self, a: Any, b: Any, alpha: float = 1.0) -> Value:
        return self._add_tensors(b, a, -alpha)

    def _op_neg(self, a: Value) -> Value:
        return Value(a.index, -a.gain, -a.shift)

    def _op_mul(self, a: Any, b: Any) -> Any:
        if isinstance(a, Value) and isinstance(b, Value):
            return self._product(a, b)
        value, other = (a, b) if isinstance(a, Value) else (b, a)
        return _mapped(value, lambda gain, shift, k: (gain * k, shift * k), other)

    def _product(self, a: Value, b: Value) -> Value:
        """The product of two values without constants, of one shape, each of which reads one map."""
        zeros = torch.zeros(torch.broadcast_shapes(a.shape, b.shape))
        a, b = (_mapped(one, lambda gain, shift, _: (gain, shift), zeros) for one in (a, b))
        a, b = (self._summed([one]) if one.shift.any() else one for one in (a, b))
        for axis in dict.fromkeys(one % len(a.shape) for one in (1, -1, 0)):
            decoded = [self._decoded(one, axis) for one in (a, b)]
            if all(one is not None and len(one) == 1 and bool((_columns(one[0][0]) >= 0).all()) for one in decoded):
                break
        else:
            raise _CannotSayError(f"a product of two tensors of several maps in {self._layer}")
        (first, gain), (second, other) = (one[0] for one in decoded if one)
        fixed = first.map.kind == second.map.kind == "i64"
        if not fixed and "bits" not in (first.map.kind, second.map.kind):
            raise _CannotSayError(f"a product of sums in {self._layer}")
        rest = [side for place, side in enumerate(a.shape) if place != axis]
        bound = first.map.bound * second.map.bound
        new = Product(
            shape=_sides(rest, a.shape[axis]),
            kind="i64",
            bound=(bound >> 60) + 1 if fixed else bound,
            factors=(first, second),
        )
        self._add(new)
        index = (torch.arange(new.size) + new.offset).view(*rest, -1).movedim(-1, axis)
        shape = [1] * index.ndim
        shape[axis] = -1
        gain = (gain * other * (2.0**60 if fixed else 1.0)).view(shape).expand(index.shape)
        return Value(index, gain, torch.zeros_like(gain))

    def _op_sin(self, x: Value) -> Value:
        """Sines."""
        return self._wave(x, cosine=False)

    def _op_cos(self, x: Value) -> Value:
        """Cosines."""
        return self._wave(x, cosine=True)

    def _wave(self, x: Value, cosine: bool) -> Value:
        turns = self._summed([Value(x.index, x.gain / (2 * math.pi), x.shift / (2 * math.pi))])
        index = torch.empty_like(turns.index)
        for of in self._maps(turns.index):
            here = (turns.index >= of.offset) & (turns.index < of.offset + of.size)
            fraction = -round(math.log2(turns.gain[here][0].item()))
            new = Wave(shape=of.shape, kind="i64", bound=2**60, source=of, fraction=fraction, cosine=cosine)
            self._add(new)
            index[here] = turns.index[here] - of.offset + new.offset
        gain = torch.full(index.shape, 2.0**-60, dtype=torch.float64)
        return Value(index, gain, torch.zeros_like(gain))

    def _op_div(self, a: Any, b: Any) -> Any:
        if isinstance(b, Value):
            raise _CannotSayError(f"a division by a tensor in {self._layer}")
        return _mapped(a, lambda gain, shift, k: (gain / k, shift / k), b)

    def _op_batch_norm(
        self, x: Value, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, *rest: Any
    ) -> Value:
        if rest[0] or mean is None:
            raise _CannotSayError(f"batch norm of the batch's own statistics in {self._layer}")
        gain = (weight if weight is not None else 1.0) / (var + rest[2]).sqrt()
        shift = (bias if bias is not None else 0.0) - mean * gain
        shape = (-1, *[1] * (len(x.shape) - 2))
        gain, shift = gain.view(shape), shift.view(shape)
        return Value(x.index, x.gain * gain, x.shift * gain + shift)

    def _op__native_batch_norm_legit_no_training(self, x: Value, *rest: Any) -> list[Value]:
        """Batch norm as `run_decompositions` leaves it."""
        *statistics, momentum, eps = rest
        return [self._op_batch_norm(x, *statistics, False, momentum, eps)]

    def _op_pad(self, x: Value, pad: list[int], mode: str = "constant", value: float | None = None) -> Value:
        if mode != "constant":
            raise _CannotSayError(f"padding by {mode} in {self._layer}")
        fills = (-1, 0.0, value or 0.0)
        parts = (x.index, x.gain, x.shift)
        return Value(*(torch.nn.functional.pad(part, pad, value=fill) for part, fill in zip(parts, fills, strict=True)))

    def _op_constant_pad_nd(self, x: Value, pad: list[int], value: float = 0.0) -> Value:
        return self._op_pad(x, pad, value=value)

    # Weights.

    def _op_conv2d(
        self,
        x: Value,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        if not isinstance(weight, Tensor):
            raise _CannotSayError(f"weights that depend on the image in {self._layer}")
        if isinstance(padding, str):
            raise _CannotSayError(f"padding {padding!r} of {self._layer}; give it as numbers")
        if groups > 1:  # as one convolution, with zeros
            dense = weight.new_zeros(len(weight), groups, *weight.shape[1:])
            dense[torch.arange(len(weight)), torch.arange(groups).repeat_interleave(len(weight) // groups)] = weight
            weight = dense.flatten(1, 2)
        geometry = Geometry(tuple(weight.shape[2:]), _pair(stride), _pair(padding), _pair(dilation))  # type: ignore[arg-type]
        return self._weighed(self._contiguous(x, 1), weight, bias, geometry)

    def _op_linear(self, x: Value, weight: Tensor, bias: Tensor | None = None) -> Any:
        if not isinstance(weight, Tensor):
            raise _CannotSayError(f"weights that depend on the image in {self._layer}")
        axis = x.index.ndim - 1
        read = self._single(x, axis)
        if read is None and x.index.numel() == x.shape[-1]:  # a map that is flattened: the kernel is the whole map
            maps = self._maps(x.index)
            if len(maps) == 1 and not (x.index < 0).any():
                of, places = maps[0], x.index.flatten() - maps[0].offset
                if of.shape[0] == 1 and len(places.unique()) == len(places):
                    spread, gains, shifts = (torch.zeros(n, of.size, dtype=torch.float64) for n in (len(weight), 1, 1))
                    spread[:, places], gains[:, places] = weight, x.gain.flatten()
                    gains[gains == 0], shifts[:, places] = x.gain.flatten()[0], x.shift.flatten()
                    flat = [one.view(-1, *of.shape[1:]).permute(0, 3, 1, 2) for one in (spread, gains, shifts)]
                    index = (torch.arange(of.size) + of.offset).view(of.shape).permute(0, 3, 1, 2)
                    out = self._weighed(Value(index, flat[1], flat[2]), flat[0], bias, Geometry(of.shape[1:3]))
                    return out if isinstance(out, Real) else self._move(torch.reshape, (out, self._shape), {})
        column = self._move(torch.transpose, (self._move(torch.reshape, (x, (1, -1, x.shape[-1], 1)), {}), 1, 2), {})
        out = self._weighed(self._contiguous(column, 1), weight[:, :, None, None], bias, Geometry((1, 1)))
        if isinstance(out, Real):
            return out
        return self._move(torch.reshape, (self._move(torch.movedim, (out, 1, -1), {}), self._shape), {})

    def _weighed(self, x: Value, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Any:
        """Convolve a value (N, C, H, W) that is all of one map, with real weights (C_out, C, kh, kw)."""
        if self._maps(x.index)[0].image and self._maps(x.index)[0].kind != "u8" and not _alike(x):
            x = self._summed([x])  # what the first layers hand on to each other, on one scale
        read = self._single(x, 1)
        assert read is not None
        of, chosen = read.map, torch.arange(x.shape[1]) if read.channels is None else read.channels
        sides = x.shape[0], *x.shape[2:]
        if not of.image and of.kind == "i64":
            self._reads_real()
            return Real(self._shape)
        self.first += [self._layer] if of.image else []
        integers, scale = to_integers(weight)
        if (integers * scale - weight).abs().max() > 1e-9 * weight.abs().max():
            raise _CannotSayError(
                f"weights of {self._layer} that are not of 8 bits: only those of nn.Conv2d and nn.Linear are"
            )
        spread = torch.zeros(len(weight), of.channels, *weight.shape[2:], dtype=torch.float64)
        spread[:, chosen] = integers
        laid = spread.permute(2, 3, 1, 0).to(torch.int8).contiguous()  # (kh, kw, C_in, C_out)
        shape = (x.shape[0], geometry.side(0, sides[1]), geometry.side(1, sides[2]), len(weight))
        common: dict[str, Any] = {
            "shape": shape,
            "weight": laid,
            "geometry": geometry,
            "sides": sides,
            "image": of.image,
        }
        gain, shift, scale = x.gain[0, :, 0, 0], x.shift[0, :, 0, 0], scale.flatten()
        if of.kind != "u8" and len(gain.unique()) == 1 and not (shift.any() and any(geometry.padding)):
            constant = (weight.sum((2, 3)) * shift).sum(1) + (bias if bias is not None else 0.0)
            of, factor = self._coarser(of, largest_sum(laid))
            bound = of.bound * largest_sum(laid)
            kind = "i64" if of.kind == "i64" else "i32"
            if kind == "i32" and bound >= 2**31 - 1:
                raise _CannotSayError(f"sums of {self._layer} that exceed 32 bits")
            new = Conv(kind=kind, bound=bound, source=of, **common)
            self._add(new)
            return self._value(new, factor * gain[0] * scale, constant)
        if of.kind != "u8":
            raise _CannotSayError(f"spikes of several sizes, or with a constant, in front of {self._layer}")
        # The image: the weights of each deviation are added up on their own.
        groups = [torch.nonzero(gain == one).flatten() for one in gain.unique()]
        taps = torch.einsum("oikl,i->klo", weight, shift).flatten(0, 1)
        largest = (weight.abs() * (255 * gain.abs() + shift.abs())[:, None, None]).sum((1, 2, 3)).max().item()
        fraction = min(FRACTION, BITS - 1 - math.ceil(math.log2(max(largest, 1e-9))))
        factors = torch.stack([gain[group[0]] * scale for group in groups])
        new = PixelConv(
            kind="i64",
            bound=math.ceil(largest * 2**fraction),
            source=of,
            groups=groups,
            factors=whole(factors * 2.0**fraction),
            taps=whole(taps * 2.0**fraction),
            **common,
        )
        self._add(new)
        return self._value(new, 2.0**-fraction, bias if bias is not None else 0.0)

    def _coarser(self, of: Map, largest: int) -> tuple[Map, float]:
        """A map of which sums of up to `largest` fit into 64 bits: with fewer bits, by a factor, if need be."""
        drop = math.ceil(math.log2(of.bound)) + math.ceil(math.log2(max(largest, 1))) - BITS
        if drop <= 0 or of.kind != "i64":
            return of, 1.0
        ones, zeros = (torch.full((of.channels,), number) for number in (1, 0))
        terms = [Term(Read(of), ones)]
        new = Sum(shape=of.shape, kind="i64", bound=of.bound >> drop, terms=terms, constant=zeros, drop=drop)
        new.image = of.image
        self._add(new)
        return new, 2.0**drop

    def _op_relu(self, x: Value) -> Value:
        """max(x, 0), in the first layers; behind them it is a real value that no layer may read."""
        out = self._summed([x])
        for of in self._maps(out.index):
            assert isinstance(of, Sum)
            of.rectified = True
        return out

    # Thresholds.

    def _op_gt(self, x: Any, threshold: Any) -> Any:
        return self._fired(x, threshold, strictly=True)

    def _op_ge(self, x: Any, threshold: Any) -> Any:
        return self._fired(x, threshold, strictly=False)

    def _fired(self, x: Any, threshold: Any, strictly: bool) -> Value:
        """Spikes: in each map that fires, one channel for every channel and integer threshold that there are."""
        if not isinstance(x, Value) or isinstance(threshold, Value):
            raise _CannotSayError(f"a threshold that depends on the image in {self._layer}")
        x = _mapped(x, lambda gain, shift, k: (gain, shift - k), threshold)  # gain * q + shift > 0
        index, gain, shift = x.index.flatten(), x.gain.flatten(), x.shift.flatten()
        gain = torch.where(index < 0, 0.0, gain)
        edge = -shift / gain
        up = edge.floor() if strictly else edge.ceil() - 1
        down = edge.ceil() - 1 if strictly else edge.floor()
        always = (shift > 0) if strictly else (shift >= 0)
        limit = torch.where(gain > 0, up, torch.where(gain < 0, down, 2.0**62)).clamp(-(2.0**62), 2.0**62)
        inverted = torch.where(gain == 0, always, gain < 0)
        out, fixed = torch.full_like(index, -1), torch.zeros_like(shift)
        fixed[index < 0] = always[index < 0].double()
        for of in self._maps(x.index):
            here = torch.nonzero((index >= of.offset) & (index < of.offset + of.size)).flatten()
            if of.kind == "bits" and bool(((limit[here] == 0) & ~inverted[here]).all()):
                out[here] = index[here]  # spikes that fire again
                continue
            place = index[here] - of.offset
            most = of.bound + 1  # what lies beyond the largest value is never, or always, exceeded
            keys = torch.stack(
                [place % of.channels, limit[here].clamp(-most, most).to(torch.int64), inverted[here].long()], 1
            )
            unique, which = torch.unique(keys, dim=0, return_inverse=True)
            first = torch.full((len(unique),), len(which)).scatter_reduce(0, which, torch.arange(len(which)), "amin")
            order = first.argsort()  # channels as the network orders them
            unique, which = unique[order], order.argsort()[which]
            if len(unique) > max(16, len(here)) or len(unique) * of.pixels > 4 * len(here) + 64:
                raise _CannotSayError(f"a threshold for each pixel in {self._layer}")
            new = Fire(
                shape=(*of.shape[:3], len(unique)),
                kind="bits",
                bound=1,
                source=of,
                chosen=unique[:, 0],
                thresholds=unique[:, 1],
                inverted=unique[:, 2].bool(),
            )
            self._add(new)
            out[here] = new.offset + place // of.channels * new.channels + which
        return Value(out.view(x.shape), torch.ones(x.shape, dtype=torch.float64), fixed.view(x.shape))

    def _op_where(self, condition: Any, one: Any, other: Any) -> Value:
        """Fractions of spikes made whole: where(x > threshold, 1, x), and below the threshold x is 0."""
        fractions = isinstance(condition, Value) and isinstance(other, Value) and not isinstance(one, Value)
        if not fractions or not bool((torch.as_tensor(one) == 1).all()):
            raise _CannotSayError(f"a choice between tensors in {self._layer}")
        same = (condition.index == other.index) & (other.gain == 1) & (other.shift == 0)
        for fire in self._maps(condition.index[~same]):
            if not isinstance(fire, Fire):
                raise _CannotSayError(f"a choice between tensors in {self._layer}")
            for limit, inverted in zip(fire.thresholds.tolist(), fire.inverted.tolist(), strict=True):
                if inverted or any(level for level in _levels(fire.source) or {1} if level <= limit):
                    raise _CannotSayError(f"fractions of spikes that stay in {self._layer}")
        return condition

    # Pooling.

    def _op_max_pool2d(
        self, x: Value, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> Value:
        if ceil_mode:
            raise _CannotSayError(f"max pooling with ceil_mode in {self._layer}")
        geometry = Geometry(_pair(kernel), _pair(stride or kernel), _pair(padding), _pair(dilation))
        return self._pooled(x, geometry, largest=True)

    def _op_max_pool2d_with_indices(self, *args: Any) -> list[Value]:
        """Max pooling, whose indices nobody reads."""
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
        if ceil_mode or (any(_pair(padding)) and not count_include_pad):
            raise _CannotSayError(f"average pooling whose windows differ in size in {self._layer}")
        geometry = Geometry(_pair(kernel), _pair(stride or kernel), _pair(padding))
        out = self._pooled(x, geometry, largest=False)
        divisor = divisor_override or math.prod(geometry.kernel)
        return Value(out.index, out.gain / divisor, out.shift / divisor)

    def _adaptive(self, x: Value, size: Any) -> Geometry:
        height, width = x.shape[-2:]
        rows, columns = _pair(size)
        if height % rows or width % columns:
            raise _CannotSayError(f"adaptive pooling of {height}x{width} to {rows}x{columns} in {self._layer}")
        kernel = height // rows, width // columns
        return Geometry(kernel, kernel)

    def _op_adaptive_avg_pool2d(self, x: Value, size: Any) -> Value:
        return self._op_avg_pool2d(x, self._adaptive(x, size).kernel)

    def _op_adaptive_max_pool2d(self, x: Value, size: Any) -> list[Value]:
        return [self._pooled(x, self._adaptive(x, size), largest=True)]

    def _op_amax(self, x: Value, dim: Any = (), keepdim: bool = False) -> Value:
        return self._reduced(x, dim, keepdim, largest=True)

    def _op_sum(self, x: Value, dim: Any = (), keepdim: bool = False, **_: Any) -> Value:
        return self._reduced(x, dim, keepdim, largest=False)

    def _op_mean(self, x: Value, dim: Any = (), keepdim: bool = False, **_: Any) -> Value:
        out = self._reduced(x, dim, keepdim, largest=False)
        count = x.index.numel() // out.index.numel()
        return Value(out.index, out.gain / count, out.shift / count)

    def _reduced(self, x: Value, dim: Any, keepdim: bool, largest: bool) -> Value:
        """Reduce axes: all pixels of a map, seen as one column."""
        axes = [dim] if isinstance(dim, int) else list(dim)
        axes = sorted(axis % x.index.ndim for axis in axes)
        kept = [axis for axis in range(x.index.ndim) if axis not in axes]
        if any(x.shape[axis] > 1 for axis in axes):
            order = self._move(torch.permute, (x, [*axes, *kept]), {})
            channels = math.prod(x.shape[axis] for axis in kept)
            column = self._move(torch.reshape, (order, (1, -1, channels, 1)), {})
            column = self._move(torch.transpose, (column, 1, 2), {})  # (1, channels, pixels, 1)
            x = self._pooled(column, Geometry((column.shape[2], 1)), largest)
            return self._move(torch.reshape, (x, self._shape), {})
        return x if keepdim else self._move(torch.reshape, (x, self._shape), {})

    def _pooled(self, x: Value, geometry: Geometry, largest: bool) -> Value:
        """Pool (N, C, H, W)."""
        if largest and bool((x.gain < 0).any()):
            x = self._summed([x])
        decoded = self._decoded(x, 1)
        if decoded is None or len(decoded) != 1 or decoded[0][0].channels is None or (decoded[0][0].channels < 0).any():
            x = self._collected(x, 1)
            decoded = self._decoded(x, 1)
            assert decoded is not None
        read = decoded[0][0]
        of, images, height, width = read.map, x.shape[0], *x.shape[2:]
        sides = geometry.side(0, height), geometry.side(1, width)
        count = 1 if largest else math.prod(geometry.kernel)
        kind = "i32" if of.kind == "u8" or (of.kind == "bits" and not largest) else of.kind
        bound = of.bound * count
        if kind == "i32" and bound >= 2**31:
            raise _CannotSayError(f"sums of {self._layer} that exceed 32 bits")
        if largest and any(geometry.padding) and of.kind not in ("bits", "i32", "i64"):
            raise _CannotSayError(f"max pooling of the image in {self._layer}")
        source = Read(of, read.pixels)
        new = Pool(
            shape=(images, *sides, of.channels),
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
        if not largest and any(geometry.padding) and shift.any():
            raise _CannotSayError(f"average pooling with padding in {self._layer}")
        whole_map = self._value(new)
        assert read.channels is not None
        index = whole_map.index[:, read.channels]
        shaped = [one.view(-1, 1, 1).expand(index.shape) for one in (gain, shift * count)]
        return Value(index, *shaped)

    # Sums.

    def _summed(self, values: list[Value]) -> Value:
        """Add values of one shape: fixed-point numbers; one map for all pixels that read the same maps."""
        shape = values[0].shape
        for axis in dict.fromkeys(one % len(shape) for one in (1, -1, 0)):
            rows = [_in_rows(value, axis) for value in values]
            owners = torch.cat([self._owners(row.index) for row in rows], 1)
            groups, which = torch.unique(owners, dim=0, return_inverse=True)
            chosen = [torch.nonzero(which == group).flatten() for group in range(len(groups))]
            decoded = [[self._decoded(_rows(row, pixels), 1) for row in rows] for pixels in chosen]
            if all(one is not None for group in decoded for one in group):
                break
        else:
            raise _CannotSayError(f"an addition of elements in another order in {self._layer}")
        out = Value(*(torch.empty_like(part) for part in (rows[0].index, rows[0].gain, rows[0].shift)))
        rest = [side for place, side in enumerate(shape) if place != axis]
        for pixels, group in zip(chosen, decoded, strict=True):
            constant = torch.stack([_rows(row, pixels).shift[0] for row in rows]).sum(0)
            terms = [term for one in group for term in one or []]
            new, fraction = self._sum([term for term in terms if term[1].any()], constant)
            new.shape = _sides(rest, shape[axis]) if len(chosen) == 1 else (1, 1, len(pixels), shape[axis])
            self._add(new)
            out.index[pixels] = torch.arange(new.size).view(len(pixels), -1) + new.offset
            out.gain[pixels], out.shift[pixels] = 2.0**-fraction, 0.0
        return Value(*(part.view(*rest, -1).movedim(-1, axis) for part in (out.index, out.gain, out.shift)))

    def _sum(self, terms: list[tuple[Read, Tensor]], constant: Tensor, bits: int = BITS) -> tuple[Sum, int]:
        """A map of fixed-point numbers, and how many of their bits are behind the point, not yet added."""
        largest = constant.abs().max().item() + sum((gain.abs() * read.map.bound).max().item() for read, gain in terms)
        place = math.ceil(math.log2(max(largest, 1e-9)))
        fraction = min(FRACTION, BITS - 1 - place)
        if not constant.any() and all(_levels(read.map) for read, _ in terms):
            fraction = 8  # fractions of spikes
        drop = max(0, fraction - (bits - 1 - place))
        new = Sum(
            shape=(1, 1, 1, len(constant)),
            kind="i64",
            bound=math.ceil(largest * 2.0 ** (fraction - drop)),
            image=all(read.map.image for read, _ in terms),
            terms=[Term(read, *_factors(gain * 2.0**fraction, read.map.kind == "i64")) for read, gain in terms],
            constant=whole(constant * 2.0**fraction),
            drop=drop,
        )
        return new, fraction - drop

    def scores(self, logits: Value) -> int:
        """Add the last map, class scores of 32 bits; gives how many of these are behind the point."""
        terms = self._decoded(logits, logits.index.ndim - 1)
        if terms is None:
            raise OnespikeError("c: expected logits (B, K), class by class from one map")
        new, fraction = self._sum(terms, logits.shift.flatten(), bits=31)
        new.image = False
        self._add(new)
        return fraction

    # Which maps a value reads.

    def _owners(self, index: Tensor) -> Tensor:
        """The number of the map of each element; that before the first for constants."""
        starts = torch.tensor([one.offset for one in self.maps])
        return torch.searchsorted(starts, index.contiguous(), right=True) - 1

    def _maps(self, index: Tensor) -> list[Map]:
        """The maps that an index names."""
        return [self.maps[place] for place in torch.unique(self._owners(index)).tolist() if place >= 0]

    def _decoded(self, value: Value, axis: int) -> list[tuple[Read, Tensor]] | None:
        """What a value reads, as pixels and channels of maps, and the gain of each channel; None if it is not so."""
        index, gain, shift = (
            one.movedim(axis, -1).reshape(-1, value.shape[axis]) for one in (value.index, value.gain, value.shift)
        )
        if bool((gain != gain[0]).any()) or bool((shift != shift[0]).any()):
            return None
        found = []
        for of in self._maps(index):
            inside = (index >= of.offset) & (index < of.offset + of.size)
            columns = inside[0]
            if bool((inside != columns).any()):
                return None
            place = index[:, columns] - of.offset
            pixels, channels = place // of.channels, place % of.channels
            if bool((pixels != pixels[:, :1]).any()) or bool((channels != channels[0]).any()):
                return None
            chosen = torch.full((value.shape[axis],), -1)
            chosen[columns] = channels[0]
            same = len(pixels) == of.pixels and torch.equal(pixels[:, 0], torch.arange(of.pixels))
            read = Read(of, None if same else pixels[:, 0], chosen)
            found.append((read, torch.where(columns, gain[0], 0.0)))
        return found

    def _single(self, value: Value, axis: int) -> Read | None:
        """The one map that a value reads, all its pixels in order; None if it is not so."""
        decoded = self._decoded(value, axis)
        if decoded is None or len(decoded) != 1 or decoded[0][0].pixels is not None:
            return None
        read = decoded[0][0]
        assert read.channels is not None
        fits = bool((read.channels >= 0).all()) and len(read.channels.unique()) == len(read.channels)
        return read if fits else None

    def _contiguous(self, value: Value, axis: int) -> Value:
        """A value that is all of one map."""
        return value if self._single(value, axis) is not None else self._collected(value, axis)

    def _collected(self, value: Value, axis: int) -> Value:
        """Put a value together in a map of its own."""
        index, gain, shift = (
            one.movedim(axis, -1).reshape(-1, value.shape[axis]) for one in (value.index, value.gain, value.shift)
        )
        maps = self._maps(index)
        kinds = {of.kind for of in maps}
        if len(kinds) != 1 or kinds & {"u8"}:
            raise _CannotSayError(f"numbers of several kinds side by side in {self._layer}")
        gain = torch.where(index < 0, torch.nan, gain)
        column = gain.nan_to_num(-math.inf).amax(0)
        column = torch.where(column.isinf(), 1.0, column)
        if bool(((gain != column) & ~gain.isnan()).any()) or bool((shift != shift[0]).any()):
            raise _CannotSayError(f"values of several scales side by side in {self._layer}")
        parts = []
        for of in maps:
            inside = (index >= of.offset) & (index < of.offset + of.size)
            for columns in torch.unique(inside, dim=0):  # pixels that take the same channels of it
                rows = (inside == columns).all(1)
                if not columns.any():
                    continue
                place = index[rows][:, columns] - of.offset
                for channels in torch.unique(place % of.channels, dim=0):
                    chosen = (place % of.channels == channels).all(1)
                    pixels = place[chosen] // of.channels
                    to_pixels = torch.nonzero(rows).flatten()[chosen]
                    to_channels = torch.nonzero(columns).flatten()
                    blocks, which = torch.unique(pixels, dim=1, return_inverse=True)
                    for number, block in enumerate(blocks.unbind(1)):  # channels that come from the same pixels
                        own = which == number
                        parts.append(
                            Part(
                                map=of,
                                to_pixels=to_pixels,
                                pixels=block,
                                to_channels=to_channels[own],
                                channels=channels[own],
                            )
                        )
        rest = [side for place, side in enumerate(value.shape) if place != axis % len(value.shape)]
        new = Collect(
            shape=_sides(rest, value.shape[axis]),
            kind=kinds.pop(),
            bound=max(of.bound for of in maps),
            image=all(of.image for of in maps),
            parts=parts,
        )
        self._add(new)
        back = (torch.arange(new.size) + new.offset).view(*rest, new.channels).movedim(-1, axis)
        shape = [1] * back.ndim
        shape[axis] = -1
        return Value(back, column.view(shape).expand(back.shape), value.shift)


class _CannotSayError(Exception):
    """An operation that whole numbers cannot say."""


def _as_value(constant: Tensor) -> Value:
    """A constant as a value."""
    return Value(torch.full(constant.shape, -1), torch.zeros(constant.shape, dtype=torch.float64), constant.double())


def _mapped(value: Value, change: Callable[..., tuple[Tensor, Tensor]], other: Any) -> Value:
    """Change gain and shift by a constant that broadcasts."""
    constant = torch.as_tensor(other, dtype=torch.float64)
    index, gain, shift, constant = torch.broadcast_tensors(value.index, value.gain, value.shift, constant)
    return Value(index, *change(gain, shift, constant))


def _pair(value: Any) -> tuple[int, int]:
    both = [value, value] if isinstance(value, int) else list(value) * (2 if len(value) == 1 else 1)
    return int(both[0]), int(both[1])


def _in_rows(value: Value, axis: int) -> Value:
    """A value as (pixels, channels)."""
    parts = (value.index, value.gain, value.shift)
    return Value(*(part.movedim(axis, -1).reshape(-1, value.shape[axis]) for part in parts))


def _rows(value: Value, pixels: Tensor) -> Value:
    return Value(value.index[pixels], value.gain[pixels], value.shift[pixels])


def _alike(x: Value) -> bool:
    """Whether all elements have one gain, and no constant."""
    return bool((x.gain == x.gain.flatten()[0]).all()) and not x.shift.any()


def _levels(of: Map) -> set[int]:
    """The whole numbers that a map can hold, where they are few: spikes and sums of spikes; else nothing."""
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


def _factors(gain: Tensor, wide: bool) -> tuple[Tensor, int]:
    """Gains as whole numbers and a power of two to divide by; for `wide` values they have 60 bits, unless fewer do."""
    if not wide:
        return whole(gain), 0
    drop = 60 - math.ceil(math.log2(gain.abs().max().item()))
    factors = whole(gain * 2.0**drop)
    fewer, left = factors, drop
    while left > 0 and not (fewer % 2).any():
        fewer, left = fewer // 2, left - 1
    simple = left == 0 or (bool((fewer == fewer[0]).all()) and abs(int(fewer[0])) == 1)
    return (fewer, left) if simple else (factors, drop)


def _columns(read: Read) -> Tensor:
    """Which channels are read."""
    assert read.channels is not None
    return read.channels


def _sides(rest: list[int], channels: int) -> tuple[int, int, int, int]:
    """The shape of a map whose pixels lie in axes `rest`."""
    height, width = (rest[-2], rest[-1]) if len(rest) >= 2 else (1, rest[-1] if rest else 1)
    return math.prod(rest) // (height * width), height, width, channels
