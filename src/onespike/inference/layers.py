"""Layers of the inference engine: integer weights where the input is spikes, floating-point ones where it is real.

Maps are (B, H, W, C), spikes are bytes. A weight becomes `round(w / s)`, 8 bits, with a scale s for each output
channel; with 16 bits, the remainder of that rounding becomes 8 bits more, with a scale of their own:

    layer(spikes) = s_1 * (integers_1 applied to spikes) + s_2 * (integers_2 applied to spikes) + bias

The sums of integers are exact: bytes times bytes, added up in 32 bits. PyTorch's kernels of oneDNN use the processor's
8-bit instructions; nothing is compiled. If PyTorch was built without them, ordinary, slower arithmetic gives the same
numbers up to rounding.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.environment import emulates_bf16
from onespike.functional import to_integers
from onespike.models.affine import gain_and_shift
from onespike.neurons import Neuron

#: oneDNN's kernels: PyTorch has them on x86.
_KERNELS = torch.ops.onednn
HAS_KERNELS = torch.backends.mkldnn.is_available() and hasattr(_KERNELS, "qconv2d_pointwise")
#: Scale and zero point that an 8-bit output would have, and the type that it has instead.
_FLOAT = (1.0, 0, torch.float32)
#: How a kernel adds to an existing output: its scale and zero point, the operation, a factor.
_ADD = (1.0, 0, "sum", 1.0)


def is_affine(norm: nn.Module) -> bool:
    """Whether `affine` can write a normalisation."""
    of_statistics = isinstance(norm, nn.BatchNorm2d) and norm.affine and norm.track_running_stats
    return of_statistics or isinstance(norm, nn.Identity)


def fold(layer: nn.Conv2d | nn.Linear, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Fold the `BatchNorm2d` after a layer, or the identity, into its weight and bias (C_out,)."""
    weight = layer.weight.detach()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    if isinstance(norm, nn.Identity):
        return weight, bias
    gain, shift = affine(norm)
    return weight * gain.view(-1, *[1] * (weight.ndim - 1)), bias * gain + shift


def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Write a batch normalisation in evaluation mode, or the identity, as gain * x + shift, each (C,) or ().

    Any other normalisation, or one without statistics or weights, is a ValueError.
    """
    if isinstance(norm, nn.Identity):
        return torch.ones(()), torch.zeros(())
    if not isinstance(norm, nn.BatchNorm2d) or not is_affine(norm):
        raise ValueError(f"norm: expected nn.Identity, or nn.BatchNorm2d with weights and statistics, got {norm}")
    return gain_and_shift(norm)


class Packed(nn.Module):
    """A layer whose weights are laid out for the kernel at its first call."""

    _packed: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # which cannot be copied

    def _load_from_state_dict(self, *given: Any) -> None:
        self._packed = None  # of the former weights
        super()._load_from_state_dict(*given)


class IntegerLayer(Packed, ABC):
    """A layer of the engine, norm included: `terms` of 8-bit weights with a scale per output channel, and a bias."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, norm: nn.Module, terms: int) -> None:
        super().__init__()
        rest, bias = fold(layer, norm)
        integers, scales = [], []
        for _ in range(terms):
            whole, scale = to_integers(rest)
            integers.append(self._needed(whole))
            scales.append(scale.flatten())
            rest = rest - whole * scale
        self.weight = nn.Buffer(torch.stack(integers).to(torch.int8))  # (T, C_out, ...)
        self.scale = nn.Buffer(torch.stack(scales).float())  # (T, C_out)
        self.bias = nn.Buffer(bias.float())
        self.zero = nn.Buffer(torch.zeros(len(bias), dtype=torch.int32), persistent=False)

    def packed(self) -> list[Tensor]:
        """The weights of each term in the kernel's layout."""
        if self._packed is None:
            self._packed = [self._pack(*term) for term in zip(self.weight, self.scale, strict=True)]
        return self._packed

    def dequantised(self) -> Tensor:
        """The values of the weights, float32."""
        return (self.weight * self.scale.view(*self.scale.shape, *[1] * (self.weight.ndim - 2))).sum(0)

    def _needed(self, weight: Tensor) -> Tensor:
        """The part of the rounded weights that is used."""
        return weight

    @abstractmethod
    def _pack(self, weight: Tensor, scale: Tensor) -> Tensor: ...


class IntegerConv(IntegerLayer):
    """A 3x3 convolution on spikes, padding 1."""

    def _pack(self, weight: Tensor, scale: Tensor) -> Tensor:
        weight = weight.contiguous(memory_format=torch.channels_last)
        likely = [256, weight.shape[1], 8, 8]  # without a shape it would be laid out anew at every call
        return _KERNELS.qconv_prepack(weight, scale, 1.0, 0, [1, 1], [1, 1], [1, 1], 1, likely)

    def forward(self, spikes: Tensor) -> Tensor:
        """Map bytes (N, M, M, C) to currents (N, M, M, C'), float32."""
        x, geometry = spikes.movedim(-1, 1), ([1, 1], [1, 1], [1, 1], 1)  # stride, padding, dilation, groups
        if not HAS_KERNELS:
            return F.conv2d(x.float(), self.dequantised(), self.bias, padding=1).movedim(1, -1)
        first, *more = ((x, 1.0, 0, *term, self.zero) for term in zip(self.packed(), self.scale, strict=True))
        out = _KERNELS.qconv2d_pointwise(*first, self.bias, *geometry, *_FLOAT, "none", [], "")
        for term in more:
            _KERNELS.qconv2d_pointwise.binary(*term, out, None, *geometry, *_FLOAT, *_ADD, "none", [], "")
        return out.movedim(1, -1)


class IntegerLinear(IntegerLayer):
    """A linear layer on spikes."""

    def _pack(self, weight: Tensor, scale: Tensor) -> Tensor:  # noqa: ARG002
        return _KERNELS.qlinear_prepack(weight, [4096, weight.shape[1]])

    def forward(self, spikes: Tensor, unit: float = 1.0, onto: Tensor | None = None) -> Tensor:
        """Map bytes (..., C), in units of `unit` (1, or 1/4 of a spike), to real values (..., C'), float32.

        The result is added to `onto`, (..., C') and contiguous, in place, if that is given.
        """
        if not HAS_KERNELS:
            out = F.linear(spikes.float(), unit * self.dequantised(), self.bias)
            return out if onto is None else onto.add_(out)
        bias: Tensor | None = self.bias
        for packed, scale in zip(self.packed(), self.scale, strict=True):
            weights = (spikes, unit, 0, packed, scale, self.zero)
            if onto is None:
                onto = _KERNELS.qlinear_pointwise(*weights, bias, *_FLOAT, "none", [], "")
            else:
                onto = _KERNELS.qlinear_pointwise.binary(*weights, onto, bias, *_FLOAT, *_ADD, "none", [], "")
            bias = None
        assert onto is not None
        return onto


class IntegerTap(IntegerLinear):
    """A 3x3 convolution with padding 1 on maps of one pixel, where all taps but the centre see only padding."""

    def _needed(self, weight: Tensor) -> Tensor:
        return weight[:, :, 1, 1]


class RealLinear(Packed):
    """A linear layer of the engine on real values, norm included; it computes in a dtype of its own."""

    def __init__(self, layer: nn.Linear, norm: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        weight, bias = fold(layer, norm)
        self.weight, self.bias = nn.Buffer(weight.to(dtype)), nn.Buffer(bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C'), in this layer's own dtype."""
        x = x.to(self.weight.dtype)
        if not HAS_KERNELS or x.dtype != torch.bfloat16 or emulates_bf16():
            return F.linear(x, self.weight, self.bias)
        if self._packed is None:  # or the weights would be laid out anew at every call, which is felt at batch 1
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, None)
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")


class Fire(nn.Module):
    """A layer of neurons of the engine: spikes as bytes, 1 where a value exceeds the threshold, else 0."""

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.threshold = nn.Buffer(_constant(neuron.threshold))

    def forward(self, v: Tensor) -> Tensor:
        """Map (..., C) to bytes of the same shape."""
        return (v > self.threshold).view(torch.uint8)


class LeakyFire(Fire):
    """Leaky integrate-and-fire neurons of the engine."""

    def __init__(self, neuron: Neuron) -> None:
        super().__init__(neuron)
        self.reset, self.decay = neuron.reset, nn.Buffer(_constant(neuron.decay))

    def charge_(self, current: Tensor, handed: Tensor) -> None:
        """V = I + alpha * P, in place of the current."""
        current.addcmul_(handed, self.decay)

    def handed_on(self, v: Tensor) -> Tensor:
        """The potential that is handed on, after the reset."""
        if self.reset == "none":
            return v
        return torch.where(v > self.threshold, 0 if self.reset == "zero" else v - self.threshold, v)


def _constant(value: float | Tensor) -> Tensor:
    """A number, or (C, 1, 1), as a float32 tensor () or (C,) that broadcasts against (..., C)."""
    value = torch.as_tensor(value).detach().float().clone()
    return value.flatten() if value.ndim else value
