"""Operations of a layer for one token, counted while it computes.

Convolutions and linear layers run under torch's own counter. A recurrent cell, which the framework computes in one
piece, is written out here, gate by gate, for one token; the tests compare it with the framework's.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from onespike.errors import OnespikeError

#: Elementwise operations that a written-out cell uses: one for each element of the result.
ELEMENTWISE = {
    torch.ops.aten.add.Tensor,
    torch.ops.aten.mul.Tensor,
    torch.ops.aten.rsub.Scalar,
    torch.ops.aten.sigmoid.default,
    torch.ops.aten.tanh.default,
}
#: What moves numbers about and computes nothing.
FREE = {
    torch.ops.aten.t.default,
    torch.ops.aten.transpose.int,
    torch.ops.aten.split.Tensor,
    torch.ops.aten.detach.default,
}


class CellCounter(TorchDispatchMode):
    """Counts operations: two for each multiply-accumulate, one for each element of an elementwise operation."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Count one operation and carry it out; one that is not known raises."""
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default:
            self.total += 2 * out.numel() * args[0].shape[1]
        elif func in ELEMENTWISE:
            self.total += out.numel()
        elif func not in FREE:
            raise LookupError(f"how many operations is {func}?")
        return out


def lstm_step(x: Tensor, h: Tensor, c: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """One token of an LSTM without biases.

    Args:
        x: The token, (1, d_x).
        h: Output of the token before, (1, d_h).
        c: Cell state, (1, d_h).
        w: Weights of the token, (4 d_h, d_x).
        u: Weights of the output before, (4 d_h, d_h).

    Returns:
        Output and cell state.
    """
    i, f, g, o = (x @ w.t() + h @ u.t()).split(h.shape[1], 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_step(x: Tensor, h: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """One token of a GRU without biases; arguments and result as for `lstm_step`, weights of three gates."""
    (xr, xz, xn), (hr, hz, hn) = (x @ w.t()).split(h.shape[1], 1), (h @ u.t()).split(h.shape[1], 1)
    z, n = (xz + hz).sigmoid(), (xn + (xr + hr).sigmoid() * hn).tanh()
    return (1 - z) * n + z * h


def rnn_step(x: Tensor, h: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """One token of a plain recurrent layer without biases; arguments and result as for `lstm_step`, one gate."""
    return (x @ w.t() + h @ u.t()).tanh()


GATES: dict[type, tuple[int, Callable[..., Any]]] = {
    nn.LSTM: (4, lstm_step),
    nn.GRU: (3, gru_step),
    nn.RNN: (1, rnn_step),
}


@cache
def count_cell(kind: type, d_x: int, d_h: int) -> int:
    """Count the operations of one token and one direction of a recurrent layer, biases left out.

    Args:
        kind: `nn.LSTM`, `nn.GRU` or `nn.RNN`.
        d_x: Channels of a token.
        d_h: Channels of the state.

    Returns:
        Operations.
    """
    gates, step = GATES[kind]
    state = [torch.zeros(1, d_h)] * (2 if kind is nn.LSTM else 1)
    token, weights = torch.zeros(1, d_x), (torch.zeros(gates * d_h, d_x), torch.zeros(gates * d_h, d_h))
    with CellCounter() as counter:
        step(token, *state, *weights)
    return counter.total


@cache
def count_convolution(d_x: int, d_h: int, kernel: int, stride: int = 1, side: int = 8) -> float:
    """Count the operations of a convolution on a map, and divide by the tokens that come out; biases left out.

    Args:
        d_x: Channels in.
        d_h: Channels out.
        kernel: Side of the kernel.
        stride: Step of the kernel.
        side: Side of the map.

    Returns:
        Operations for each token.
    """
    padding = (kernel - 1) // 2 if stride == 1 else 0
    layer = nn.Conv2d(d_x, d_h, kernel, stride, padding, device="meta")
    with FlopCounterMode(display=False) as counter:
        out = layer(torch.zeros(1, d_x, side, side, device="meta"))
    return counter.get_total_flops() / (out.shape[2] * out.shape[3])


@cache
def count_linear(d_x: int, d_h: int, tokens: int = 16) -> float:
    """Count the operations of a linear layer for one token; arguments as for `count_convolution`."""
    layer = nn.Linear(d_x, d_h, device="meta")
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(tokens, d_x, device="meta"))
    return counter.get_total_flops() / tokens


def count_layer(layer: nn.Module) -> float:
    """Count the operations of a weight layer for one token, of one direction if it is recurrent.

    Raises:
        OnespikeError: It is none that is known here.
    """
    match layer:
        case nn.Conv2d():
            return count_convolution(layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0])
        case nn.Linear():
            return count_linear(layer.in_features, layer.out_features)
        case nn.LSTM() | nn.GRU() | nn.RNN():
            kind = next(kind for kind in GATES if isinstance(layer, kind))
            return count_cell(kind, layer.input_size, layer.hidden_size)
        case _:
            raise OnespikeError(f"there is no way yet to count the operations of a {type(layer).__name__}")
