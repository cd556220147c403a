"""What layers do to values, in any kind of numbers: constants, batch norm, weights, thresholds, pooling, sums.

Where a value meets a threshold, gain, shift and threshold become one threshold of a map:

    gain * q + shift > threshold    is    q > (threshold - shift) / gain        (gain > 0)
"""

from functools import partialmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onespike.exporting.lowering.maps import Fire, Geometry, Map, Product, Read, Sum
from onespike.exporting.lowering.sums import Sums
from onespike.exporting.lowering.values import CannotSayError, Value, axes_of, pair, sides_of


class Layers(Sums):
    """Walks over a graph; a subclass defines the kind of numbers."""

    # Constants, batch norm, products.

    def _add_tensors(self, a: Any, b: Any, factor: float) -> Value:
        if not isinstance(a, Value) or not isinstance(b, Value):
            value, other = (a, b) if isinstance(a, Value) else (b, a)
            first, second = (1.0, factor) if isinstance(a, Value) else (factor, 1.0)
            return value * first + torch.as_tensor(other, dtype=torch.float64) * second
        shape = torch.broadcast_shapes(a.shape, b.shape)
        a, b = a.expand(shape), (b * factor).expand(shape)
        constant = (a.index < 0) | (b.index < 0)
        if bool((constant | (a.index == b.index)).all()):
            gain = sum(torch.where(one.index < 0, 0.0, one.gain) for one in (a, b))
            return Value(torch.maximum(a.index, b.index), torch.as_tensor(gain), a.shift + b.shift)
        return self._summed([a, b])

    def _op_add(self, a: Any, b: Any, *, alpha: float = 1.0) -> Value:
        if self._dtype is torch.bool:
            raise CannotSayError(f"a logical or in {self._layer}")
        return self._add_tensors(a, b, alpha)

    def _op_sub(self, a: Any, b: Any, *, alpha: float = 1.0) -> Value:
        return self._add_tensors(a, b, -alpha)

    def _op_rsub(self, a: Any, b: Any, alpha: float = 1.0) -> Value:
        return self._add_tensors(b, a, -alpha)

    def _op_neg(self, a: Value) -> Value:
        return a * -1.0

    def _op_mul(self, a: Any, b: Any) -> Any:
        if isinstance(a, Value) and isinstance(b, Value):
            return self._product(a, b)
        value, other = (a, b) if isinstance(a, Value) else (b, a)
        return value * other

    def _product(self, a: Value, b: Value) -> Value:
        """The product of two values, each of which reads one map."""
        shape = torch.broadcast_shapes(a.shape, b.shape)
        a, b = (one.expand(shape) for one in (a, b))
        a, b = (self._summed([one]) if one.shift.any() else one for one in (a, b))
        for axis in axes_of(shape):
            terms = [term for one in (a, b) if (term := self._of_one_map(one, axis))]
            if len(terms) == 2:
                break
        else:
            raise CannotSayError(f"a product of two tensors of several maps in {self._layer}")
        first, second = terms
        kind, bound, size = self._product_of(first.read.map, second.read.map)
        factors = first.read, second.read
        self._add(new := Product(shape=sides_of(shape, axis), kind=kind, bound=bound, factors=factors))
        return self._laid(new, shape, axis, first.factors * second.factors * size)

    def _op_div(self, a: Any, b: Any) -> Any:
        if isinstance(b, Value):
            raise CannotSayError(f"a division by a tensor in {self._layer}")
        return a / b

    def _op_batch_norm(
        self, x: Value, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, *rest: Any
    ) -> Value:
        if rest[0] or mean is None:
            raise CannotSayError(f"batch norm of the batch's own statistics in {self._layer}")
        gain = (weight if weight is not None else 1.0) / (var + rest[2]).sqrt()
        shift = (bias if bias is not None else 0.0) - mean * gain
        shape = (-1, *[1] * (len(x.shape) - 2))
        return x * gain.view(shape) + shift.view(shape)

    def _op__native_batch_norm_legit_no_training(self, x: Value, *rest: Any) -> list[Value]:
        """Batch norm as `run_decompositions` leaves it."""
        *statistics, momentum, eps = rest
        return [self._op_batch_norm(x, *statistics, False, momentum, eps)]

    def _op_pad(self, x: Value, pad: list[int], mode: str = "constant", value: float | None = None) -> Value:
        if mode != "constant":
            raise CannotSayError(f"padding by {mode} in {self._layer}")
        return Value(F.pad(x.index, pad, value=-1), F.pad(x.gain, pad), F.pad(x.shift, pad, value=value or 0.0))

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
    ) -> Value:
        if not isinstance(weight, Tensor):
            raise CannotSayError(f"weights that depend on the image in {self._layer}")
        if isinstance(padding, str):
            raise CannotSayError(f"padding {padding!r} of {self._layer}; give it as numbers")
        if groups > 1:  # as one convolution, with zeros
            dense = weight.new_zeros(len(weight), groups, *weight.shape[1:])
            dense[torch.arange(len(weight)), torch.arange(groups).repeat_interleave(len(weight) // groups)] = weight
            weight = dense.flatten(1, 2)
        geometry = Geometry(*map(pair, (weight.shape[2:], stride, padding, dilation)))
        return self._weighed(self._contiguous(x), weight, bias, geometry)

    def _laid_out(self, x: Value, read: Read, weight: Tensor, geometry: Geometry) -> dict[str, Any]:
        """Where a convolution of (N, C, H, W) lies, and its weights for all channels of the map that is read."""
        sides = (x.shape[0], *x.shape[2:])
        shape = (x.shape[0], *geometry.sides(sides[1:]), len(weight))
        spread = weight.new_zeros(len(weight), read.map.channels, *weight.shape[2:])
        spread[:, read.channels] = weight
        laid = spread.permute(2, 3, 1, 0).contiguous()  # (kh, kw, C_in, C_out)
        return {"shape": shape, "sides": sides, "geometry": geometry, "weight": laid, "image": read.map.image}

    def _op_linear(self, x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
        if not isinstance(weight, Tensor):
            raise CannotSayError(f"weights that depend on the image in {self._layer}")
        shape = (*x.shape[:-1], len(weight))
        if self._single(x, x.index.ndim - 1) is None and (found := self._on_whole_map(x, weight)):
            whole, kernel = found
            out = self._weighed(whole, kernel, bias, Geometry(pair(kernel.shape[2:])))
            return out.each(lambda part: part.reshape(shape))
        column = x.each(lambda part: part.reshape(1, -1, x.shape[-1], 1).transpose(1, 2))
        out = self._weighed(self._contiguous(column), weight[:, :, None, None], bias, Geometry((1, 1)))
        return out.each(lambda part: part.movedim(1, -1).reshape(shape))

    def _on_whole_map(self, x: Value, weight: Tensor) -> tuple[Value, Tensor] | None:
        """A linear layer on a flattened map as a kernel that is as large as the map; None if it reads anything else."""
        maps = self.maps_of(x.index)
        if x.index.numel() > x.shape[-1] or len(maps) != 1 or (x.index < 0).any():
            return None
        of, places = maps[0], x.index.flatten() - maps[0].offset
        if of.shape[0] > 1 or len(places.unique()) < len(places):
            return None
        spread, gains, shifts = (torch.zeros(n, of.size, dtype=torch.float64) for n in (len(weight), 1, 1))
        gains += x.gain.flatten()[0]  # where nothing is read
        spread[:, places], gains[:, places], shifts[:, places] = weight, x.gain.flatten(), x.shift.flatten()
        kernel, gain, shift = (one.view(-1, *of.shape[1:]).permute(0, 3, 1, 2) for one in (spread, gains, shifts))
        if not all(bool((one == one[..., :1, :1]).all()) for one in (gain, shift)):  # they differ from pixel to pixel
            return None
        return Value(self._value(of).index, gain, shift), kernel

    # Activations, thresholds.

    def _channels(self, of: Map, place: Tensor, *keys: Tensor) -> tuple[Tensor, Tensor]:
        """The channels that a new map of as many pixels needs: one for each channel of this map and each set of keys.

        Returns them as rows of channel and keys, in the order of the elements at `place`, and the row of each element.
        """
        rows = torch.stack([(place % of.channels).double(), *keys], 1)
        unique, which = torch.unique(rows, dim=0, return_inverse=True)
        first = torch.full((len(unique),), len(which)).scatter_reduce(0, which, torch.arange(len(which)), "amin")
        order = first.argsort()
        wasted = len(unique) > of.channels and len(unique) * of.pixels > 4 * len(place) + 64
        if len(unique) > max(16, len(place)) or wasted:
            raise CannotSayError(f"a factor or a threshold for each pixel in {self._layer}")
        return unique[order], order.argsort()[which]

    def _op_relu(self, x: Value) -> Value:
        out = self._in_new_sums(x)
        for of in self.maps_of(out.index):
            assert isinstance(of, Sum)
            of.rectified = True
        return Value(out.index, out.gain, out.shift.relu())

    def _in_new_sums(self, x: Value) -> Value:
        """A value as elements of sums that nobody else reads."""
        return self._summed([x])

    def _op_prelu(self, x: Value, weight: Tensor) -> Value:
        """max(x, 0) - weight * max(-x, 0)."""
        slope = weight.view(-1, *[1] * (len(x.shape) - 2))
        return self._add_tensors(self._op_relu(x), self._op_mul(self._op_relu(self._op_neg(x)), slope), -1.0)

    def _op__prelu_kernel(self, x: Value, weight: Tensor) -> Value:
        """PReLU as `run_decompositions` leaves it."""
        return self._op_prelu(x, weight.flatten())

    def _fired(self, x: Any, threshold: Any, strictly: bool) -> Value:
        """Fire: each map that fires has one channel for every pair of a channel and a threshold."""
        if not isinstance(x, Value) or isinstance(threshold, Value):
            raise CannotSayError(f"a threshold that depends on the image in {self._layer}")
        if any(of.kind == "u8" for of in self.maps_of(x.index)):
            x = self._summed([x])
        x = self._add_tensors(x, threshold, -1.0)  # gain * q + shift > 0
        index, gain, shift = x.index.flatten(), x.gain.flatten(), x.shift.flatten()
        gain = torch.where(index < 0, 0.0, gain)
        edge = -shift / gain
        up, down = self._limits(edge, strictly)
        always = (shift > 0) if strictly else (shift >= 0)
        limit = torch.where(gain > 0, up, torch.where(gain < 0, down, 2.0**62)).clamp(-(2.0**62), 2.0**62)
        inverted = torch.where(gain == 0, always, gain < 0)
        out, fixed = torch.full_like(index, -1), torch.zeros_like(shift)
        fixed[index < 0] = always[index < 0].double()
        for of in self.maps_of(x.index):
            here = torch.nonzero(of.holds(index)).flatten()
            if of.kind == "bits" and bool(((limit[here] >= 0) & (limit[here] < 1) & ~inverted[here]).all()):
                out[here] = index[here]  # spikes that fire again
                continue
            place = index[here] - of.offset
            # Limits beyond the largest value are never, or always, exceeded; of fixed-point numbers it is not exact.
            most = 2**62 if of.kind == "i64" else of.bound + 1
            limits = limit[here] if of.kind == "f32" else limit[here].floor().clamp(-most, most)
            unique, which = self._channels(of, place, limits, inverted[here].double())
            new = Fire(
                shape=(*of.shape[:3], len(unique)),
                source=of,
                chosen=unique[:, 0].long(),
                thresholds=unique[:, 1] if of.kind == "f32" else unique[:, 1].long(),
                inverted=unique[:, 2].bool(),
            )
            self._add(new)
            out[here] = new.offset + place // of.channels * new.channels + which
        return Value(out.view(x.shape), torch.ones(x.shape, dtype=torch.float64), fixed.view(x.shape))

    _op_gt = partialmethod(_fired, strictly=True)
    _op_ge = partialmethod(_fired, strictly=False)
