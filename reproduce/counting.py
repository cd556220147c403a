"""Operations of a layer for one token, as the audit's counter has them.

Two for each multiply-accumulate, one for each value of an element-wise operation; biases are left out.
"""

from functools import cache

import torch
from torch import nn

from onespike.counting import count_operations

#: Side of the map that a convolution is counted on.
SIDE = 8


@cache
def count_cell(kind: type[nn.RNNBase], d_x: int, d_h: int) -> float:
    """Count the operations of one token and one direction of a recurrent layer.

    Args:
        kind: `nn.LSTM`, `nn.GRU` or `nn.RNN`.
        d_x: Channels of a token.
        d_h: Channels of the state.

    Returns:
        Operations.
    """
    counted = count_operations(kind(d_x, d_h, bias=False), [torch.zeros(1, 1, d_x)])  # type: ignore[call-arg, arg-type]
    return 2 * counted.macs + sum(counted.elementwise.values())


@cache
def count_convolution(d_x: int, d_h: int, kernel: int, stride: int = 1) -> float:
    """Count the operations of a convolution on a map, and divide by the tokens that come out.

    Args:
        d_x: Channels in.
        d_h: Channels out.
        kernel: Side of the kernel.
        stride: Step of the kernel.

    Returns:
        Operations for each token.
    """
    layer = nn.Conv2d(d_x, d_h, kernel, stride, (kernel - 1) // 2 if stride == 1 else 0)
    return 2 * count_operations(layer, [torch.zeros(1, d_x, SIDE, SIDE)]).macs / (SIDE // stride) ** 2


@cache
def count_linear(d_x: int, d_h: int) -> float:
    """Count the operations of a linear layer for one token; arguments as for `count_convolution`."""
    return 2 * count_operations(nn.Linear(d_x, d_h), [torch.zeros(1, d_x)]).macs
