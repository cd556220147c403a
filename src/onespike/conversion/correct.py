"""Correct a weight layer for the errors of spikes: its weights by ridge regression, and its bias.

With X the layer's centred inputs (one row for each sample, one column for each weight of an output), Y the centred
outputs that it should give and V its old weights, the new weights W minimise |X W - Y|^2 + pull |W - V|^2. Two forms
give the same W:

    primal   W = (X'X + pull)^-1 (X'Y + pull V)          factors columns x columns
    dual     W = V + X' (XX' + pull)^-1 (Y - X V)        factors samples x samples: where these are fewer
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight
from torch.nn.modules.conv import _ConvNd

from onespike.conversion.kinds import channel_axis
from onespike.errors import OnespikeError
from onespike.units.channel import ChannelLinear
from onespike.units.layers import Conv3x3

CHUNK = 2**25  # values of inputs or columns that are in memory at once
SAMPLES = 2**17  # samples that weights are fitted to; of large maps those of some images are enough
#: Shifted views are multiplied in place of columns where padded maps are at most this many times the outputs.
PADDED = 1.5


def correct(layer: _ConvNd | nn.Linear, path: str, mean: Tensor, target: Tensor, ridge: float | None) -> None:
    """Change a weight layer, in place, so that its mean output comes closest to a target.

    `mean` is its input averaged over time, (N, …). `ridge` is the pull of the weights towards the old ones, in units of
    the inputs' mean square; None corrects the bias alone. A pull that is too weak for these images is an
    `OnespikeError`.
    """
    axis = channel_axis(layer)
    target = target.movedim(axis, -1)  # (N, …, C_out)
    assert layer.bias is not None  # `spiking` gives every weight layer one
    # A subclass may change its weights, or pad in its own way, before it multiplies.
    if ridge is None or type(layer) not in (nn.Linear, ChannelLinear, nn.Conv1d, nn.Conv2d, Conv3x3):
        layer.bias += _average(target - layer(mean).movedim(axis, -1)).to(layer.bias)
        return
    every = -(-target[..., 0].numel() // SAMPLES)
    mean, target = mean[::every], target[::every]
    offset = _average(target)
    few = target[..., 0].numel() < layer.weight[0].numel()
    try:
        weights, centre = (_dual if few else _primal)(layer, mean, target - offset.to(target), ridge)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        none = f"no weights of layer {path} are the best with ridge {ridge}"
        raise OnespikeError(f"calibration: {none}: raise it, or use more images") from error
    layer.weight.copy_(weights.mT.reshape(layer.weight.shape))
    layer.bias.copy_(offset - (centre @ weights).flatten().cpu())


def _average(x: Tensor) -> Tensor:
    """Mean over all but the last axis, on the CPU, since not every device has double precision."""
    each = x.mean(tuple(range(1, x.ndim - 1))) if x.ndim > 2 else x
    return each.cpu().double().mean(0)


def _primal(layer: _ConvNd | nn.Linear, mean: Tensor, target: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The weights, (groups, columns, C_out / groups), and the columns' means, (groups, 1, columns)."""
    moments: Any = _moments
    if isinstance(layer, _ConvNd) and max(layer.stride) == 1:
        ours, padded = target[0, ..., 0].numel(), _padded(layer, mean[:1])[0, 0].numel()
        moments = _moments_of_maps if padded <= PADDED * ours else _moments
    gram, product, centre = moments(layer, mean, target)
    diagonal = gram.diagonal(dim1=1, dim2=2)
    pull = ridge * diagonal.mean(1, keepdim=True) + 1e-12
    diagonal.add_(pull)
    product.add_(pull[..., None] * _matrix(layer.weight, getattr(layer, "groups", 1)).cpu())
    return torch.cholesky_solve(product, torch.linalg.cholesky(gram)), centre


def _dual(layer: _ConvNd | nn.Linear, mean: Tensor, target: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The same as `_primal`, from the samples' products with each other: (groups, samples, samples)."""
    columns, old = _columns(layer, mean), _matrix(layer.weight, getattr(layer, "groups", 1))
    centre = columns.mean(1, keepdim=True)
    columns = columns - centre
    kernel = (columns @ columns.mT).cpu().double()
    diagonal = kernel.diagonal(dim1=1, dim2=2)
    diagonal.add_(ridge * diagonal.sum(1, keepdim=True) / columns.shape[2] + 1e-12)
    missing = target.flatten(0, -2).unflatten(1, (len(columns), -1)).movedim(1, 0) - columns @ old
    change = torch.cholesky_solve(missing.cpu().double(), torch.linalg.cholesky(kernel))
    return columns.mT @ change.to(columns) + old, centre


def _moments(layer: _ConvNd | nn.Linear, mean: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sums that the primal form needs, in double precision, without all columns in memory at once.

    For each group: the columns' products with each other about their mean, (groups, columns, columns), those with the
    target, (groups, columns, C_out / groups), whose mean is 0; the columns' mean, (groups, 1, columns).
    """
    first = _columns(layer, mean[:1])
    origin, images = first.mean(1, keepdim=True), max(CHUNK // first.numel(), 1)  # near the mean: little cancels
    # Added up on the CPU: not every device has double precision.
    count, sums, gram, product = 0, *(torch.zeros((), dtype=torch.float64) for _ in range(3))
    for part, wanted in zip(mean.split(images), target.split(images), strict=True):
        columns = _columns(layer, part) - origin
        wished = wanted.flatten(0, -2).unflatten(1, (len(columns), -1)).movedim(1, 0)
        count += columns.shape[1]
        sums = sums + columns.sum(1, keepdim=True).cpu().double()
        gram = gram + (columns.mT @ columns).cpu().double()
        product = product + (columns.mT @ wished).cpu().double()
    shift = sums / count
    return gram - count * shift.mT @ shift, product, origin.cpu().double() + shift


def _moments_of_maps(layer: _ConvNd, mean: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `_moments`, where columns are shifted views of one another.

    Each channel's padded maps lie one behind the other in a row, between zeros. Summed over all places of that row, the
    product of two columns depends only on the distance of their shifts: a 3x3 kernel has 13 distances, but 45 pairs of
    shifts. Places that belong to no sample are counted too, and then subtracted.
    """
    kernel, dilation, _ = _geometry(layer)
    origin = mean.mean((0, *range(2, mean.ndim))).view(1, -1, 1, 1)
    images, taps = max(CHUNK // _padded(layer, mean[:1]).numel(), 1), kernel[0] * kernel[1]
    shape = (layer.groups, taps, layer.in_channels // layer.groups)
    sums, product = torch.zeros(shape, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    gram = torch.zeros(*shape, *shape[1:], dtype=torch.float64)
    for part, wanted in zip(mean.split(images), target.split(images), strict=True):
        maps = _padded(layer, part) - origin  # (N, C, H, W)
        shifts = [y * dilation[0] * maps.shape[3] + x * dilation[1] for y in range(kernel[0]) for x in range(kernel[1])]
        reach = shifts[-1]
        rows = F.pad(maps.transpose(0, 1).flatten(1), (reach, reach)).unflatten(0, (layer.groups, -1))
        wanted = wanted if wanted.ndim == 4 else wanted.unsqueeze(1)
        beyond = (0, maps.shape[3] - wanted.shape[2], 0, maps.shape[2] - wanted.shape[1])
        ours = F.pad(F.pad(wanted.new_ones(wanted.shape[:3]), beyond).flatten(), (reach, 0))
        others = (ours == 0).nonzero().squeeze(1)
        outside = [rows[..., others + shift] for shift in shifts]
        size = (target.shape[-1], shape[2], *kernel)
        found = conv2d_weight(maps, size, wanted.movedim(-1, 1), dilation=dilation, groups=layer.groups)
        product = product + _matrix(found, layer.groups).cpu().double()
        sums += (rows.sum(-1)[:, None] - torch.stack([one.sum(-1) for one in outside], 1)).cpu().double()
        apart = dict[int, Tensor]()
        for one, near in enumerate(shifts):
            for other, far in enumerate(shifts[one:], one):
                distance = far - near
                if distance not in apart:
                    apart[distance] = rows[..., : rows.shape[2] - distance] @ rows[..., distance:].mT
                block = (apart[distance] - outside[one] @ outside[other].mT).cpu()
                gram[:, one, :, other] += block
                if other > one:
                    gram[:, other, :, one] += block.mT
    shift = (sums / target[..., 0].numel()).mT.flatten(1)[:, None]  # columns are sorted by channel, then by place
    gram = gram.permute(0, 2, 1, 4, 3).flatten(3, 4).flatten(1, 2)
    gram -= target[..., 0].numel() * shift.mT @ shift
    centre = origin.view(layer.groups, -1, 1).expand(-1, -1, taps).flatten(1)[:, None].cpu().double() + shift
    return gram, product, centre


def _matrix(weight: Tensor, groups: int = 1) -> Tensor:
    """A layer's weights as they multiply columns, (groups, columns, C_out / groups)."""
    return weight.flatten(1).unflatten(0, (groups, -1)).mT


def _columns(layer: _ConvNd | nn.Linear, mean: Tensor) -> Tensor:
    """The columns that weight matrices multiply, (groups, samples, columns)."""
    if isinstance(layer, nn.Linear):
        return (mean.movedim(1, -1) if isinstance(layer, ChannelLinear) else mean).flatten(0, -2)[None]
    kernel, dilation, stride = _geometry(layer)
    columns = F.unfold(_padded(layer, mean), kernel, dilation, 0, stride)
    return columns.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)


def _padded(layer: _ConvNd, mean: Tensor) -> Tensor:
    """A convolution's input, padded, (N, C, H, W); a one-dimensional one is a map of one row."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(mean, layer._reversed_padding_repeated_twice, mode)
    return padded.unsqueeze(2) if isinstance(layer, nn.Conv1d) else padded


def _geometry(layer: _ConvNd) -> tuple[tuple[int, ...], ...]:
    """Kernel size, dilation and stride of a convolution, (y, x) each; a one-dimensional one is on a map of one row."""
    return tuple(((1,) * (2 - len(one)) + one) for one in (layer.kernel_size, layer.dilation, layer.stride))
