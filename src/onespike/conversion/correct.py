"""Changing a weight layer so that it makes up for what spikes get wrong: its weights by least squares, its bias."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from onespike.errors import OnespikeError
from onespike.units.channel import ChannelLinear

#: Values of unfolded inputs that are in memory at once.
CHUNK = 2**25


def correct(layer: _ConvNd | nn.Linear, path: str, mean: Tensor, target: Tensor, ridge: float | None) -> None:
    """Change a weight layer so that its mean output comes closest to what it should be.

    Args:
        layer: Convolution or linear layer; changed in place.
        path: Its path.
        mean: Its mean input, (N, …).
        target: What its mean output should be.
        ridge: Pull of the weights towards the old ones, in units of the inputs' mean square; None for the bias alone.

    Raises:
        OnespikeError: The pull towards the old weights is too weak for these images.
    """
    axis = -1 if isinstance(layer, nn.Linear) and not isinstance(layer, ChannelLinear) else 1
    missing = (target - layer(mean)).movedim(axis, -1)  # (N, …, C_out)
    offset = missing.flatten(0, -2).cpu().double().mean(0)
    if ridge is not None and _is_matrix(layer):
        gram, product, centre = _moments(layer, mean, missing - offset.to(missing))
        diagonal = gram.diagonal(dim1=1, dim2=2)
        diagonal.add_(ridge * diagonal.mean(1, keepdim=True) + 1e-12)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed.any():
            raise OnespikeError(
                f"calibration: no weights of layer {path} are the best with ridge {ridge}: raise it, or use more images"
            )
        change = torch.cholesky_solve(product, factor)  # (groups, columns, C_out / groups)
        layer.weight += change.mT.reshape(layer.weight.shape).to(layer.weight)
        offset = offset - (centre @ change).flatten()
    layer.bias += offset.to(layer.bias)


def _moments(layer: _ConvNd | nn.Linear, mean: Tensor, missing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the best change of weight matrices is computed from, in double precision, without all columns at once.

    Args:
        layer: A layer whose weights are a matrix for each group.
        mean: Its mean input, (N, …).
        missing: What its output lacks, of mean 0, (N, …, C_out).

    Returns:
        For each group, sums over all samples: the columns' products with each other about their mean,
        (groups, columns, columns), those with what is missing, (groups, columns, C_out / groups); the columns' mean,
        (groups, 1, columns).
    """
    first = _columns(layer, mean[:1])
    origin, images = first.mean(1, keepdim=True), max(CHUNK // first.numel(), 1)  # near the mean: little cancels
    # Added up on the CPU: not every device has double precision.
    count, sums, gram, product = 0, *(torch.zeros((), dtype=torch.float64) for _ in range(3))
    for part, lack in zip(mean.split(images), missing.split(images), strict=True):
        columns = _columns(layer, part) - origin
        lacking = lack.flatten(0, -2).unflatten(1, (len(columns), -1)).movedim(1, 0)
        count += columns.shape[1]
        sums = sums + columns.sum(1, keepdim=True).cpu().double()
        gram = gram + (columns.mT @ columns).cpu().double()
        product = product + (columns.mT @ lacking).cpu().double()
    shift = sums / count
    return gram - count * shift.mT @ shift, product, origin.cpu().double() + shift


def _is_matrix(layer: nn.Module) -> bool:
    """Whether a layer multiplies by its weights alone, and as a matrix for each group.

    A subclass may do something to its weights, or pad in a way of its own, before it multiplies.
    """
    return type(layer) in (nn.Linear, ChannelLinear, nn.Conv1d, nn.Conv2d)


def _columns(layer: _ConvNd | nn.Linear, mean: Tensor) -> Tensor:
    """What weight matrices multiply, (groups, samples, columns)."""
    if isinstance(layer, nn.Linear):
        return (mean.movedim(1, -1) if isinstance(layer, ChannelLinear) else mean).flatten(0, -2)[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(mean, layer._reversed_padding_repeated_twice, mode)
    kernel, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
    if isinstance(layer, nn.Conv1d):  # a map of one row
        padded = padded.unsqueeze(2)
        kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
    columns = F.unfold(padded, kernel, dilation, 0, stride)
    return columns.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)
