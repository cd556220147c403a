"""A 3x3 convolution: where the processor has matrix tiles, its weights' gradient is one matrix product for each tap."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d

from onespike.functional.autocast import computed_in
from onespike.functional.kernels import Kernels, channels_last, empty_maps, is_plain, is_traced, kernels_for
from onespike.functional.pool import largest, max_pool, to_largest

#: Largest side of a map, in pixels: above it, PyTorch's own gradient is as fast.
LARGEST_SIDE = 16
#: Images are convolved side by side up to this side, from this many weights on: results/speed-notes.md.
SIDE_BY_SIDE = {5: 1 << 19, 3: 1 << 18, 2: 1 << 16}


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, pool: bool = False) -> Tensor:
    """Convolve (B, C, H, W) with weights (O, C, 3, 3), stride 1, padding 1, as `conv2d` does; pool if asked to.

    `pool` takes the maximum of each 2x2 pixels. Where the gradient is our own, spikes are saved as bits and weights in
    their own dtype. The gradient before pooling, four times as large as the one after it, never exists for all images
    at once.

    Raises:
        ValueError: The weights do not fit x.
    """
    if weight.shape[1:] != (*x.shape[-3:-2], 3, 3):
        raise ValueError(f"weight: expected (O, C, 3, 3) for x {tuple(x.shape)}, got {tuple(weight.shape)}")
    x, bias = x.to(computed_in(x)), None if bias is None else bias.to(computed_in(bias))
    refused = computed_in(weight) != x.dtype or (pool and min(x.shape[-2:]) < 2)  # by PyTorch
    if weight.requires_grad and _is_faster(x) and not refused:
        return _Conv3x3.apply(x, weight, bias, pool)
    out = conv2d(x, weight.to(computed_in(weight)), bias, padding=1)
    return max_pool(out) if pool else out


def _is_faster(x: Tensor) -> bool:
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or x.dim() != 4 or is_traced():
        return False
    small = max(x.shape[2:]) <= LARGEST_SIDE and x.numel() > 0
    return small and is_plain(x) and x.is_contiguous(memory_format=torch.channels_last) and tiles() is not None


def tiles() -> Kernels | None:
    """The kernels, where this processor has tiles and the system lets this process use them."""
    kernels = kernels_for(torch.bfloat16, "conv_kernels.c")
    return kernels if kernels and kernels.ask("available") else None


def side_by_side(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve as `conv2d` does with padding 1, channels last: all images as one wide one, with zeros between them.

    PyTorch convolves one image after the other. Weights that do not fit into a core's own cache are then read again for
    each, and a row of few pixels fills few rows of a matrix tile.
    """
    (images, inputs, high, wide), outputs = x.shape, len(weight)
    row = x.new_zeros(high, images, wide + 1, inputs)
    row[:, :, :wide] = x.permute(2, 0, 3, 1)
    out = conv2d(row.flatten(1, 2)[None].permute(0, 3, 1, 2), weight, bias, padding=1)
    apart = out[0].permute(1, 2, 0).reshape(high, images, wide + 1, outputs)[:, :, :wide]
    return apart.permute(1, 3, 0, 2).contiguous(memory_format=torch.channels_last)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if any(max(x.shape[2:]) <= side and weight.numel() >= many for side, many in SIDE_BY_SIDE.items()):
        return side_by_side(x, weight, bias)
    return conv2d(x, weight, bias, padding=1)


def _turned(weight: Tensor) -> Tensor:
    """Weights by which the input's gradient is a convolution, too: inputs for outputs, and the last tap first."""
    outputs, inputs, *_ = weight.shape
    taps = weight.permute(0, 2, 3, 1).reshape(outputs, -1).t().contiguous()  # as one matrix, which is faster
    turned = torch.stack(taps.view(9, inputs, outputs).unbind()[::-1], 1)
    return turned.view(inputs, 3, 3, outputs).permute(0, 3, 1, 2)


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, pool: bool) -> Tensor:
        ctx.shape, ctx.kernels = x.shape, tiles()
        bits = x.new_empty(x.numel() // 32 + 2, dtype=torch.int32)  # two words are read at a time
        ctx.are_spikes = not ctx.kernels.ask("to_bits", x, x.numel(), bits)
        out, which = _convolve(x, weight.to(x.dtype), bias), None
        if pool:
            out, which = largest(out.contiguous(memory_format=torch.channels_last))
        ctx.save_for_backward(bits if ctx.are_spikes else x, weight, which)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept, weight, which = ctx.saved_tensors
        (images, inputs, *sides), outputs = ctx.shape, len(weight)
        gradient, kept = channels_last(gradient), kept if ctx.are_spikes else channels_last(kept)
        which = None if which is None else channels_last(which)
        many = images if which is None else -(-images // 4)
        turned = _turned(weight.to(gradient.dtype))
        of_x = None
        of_weight = torch.zeros(outputs, 3, 3, inputs, dtype=torch.float32, device=gradient.device)
        for first in range(0, images, many):
            part = slice(first, first + many)
            piece = gradient if which is None else to_largest(gradient[part], which[part], sides)
            x = (None, kept) if ctx.are_spikes else (kept, None)
            ctx.kernels("weight_gradient", *x, piece, first, len(piece), *sides, inputs, outputs, of_weight)
            if ctx.needs_input_grad[0]:  # PyTorch's own gradient would first write an input that it never reads
                found = _convolve(piece, turned)
                if of_x is None:
                    of_x = found if len(piece) == images else empty_maps(found, ctx.shape)
                if of_x is not found:
                    of_x[part] = found
        of_bias = gradient.movedim(1, -1).reshape(-1, outputs).sum(0) if ctx.needs_input_grad[2] else None
        of_weight = of_weight.to(weight.dtype).permute(0, 3, 1, 2)
        return of_x, of_weight, of_bias, None
