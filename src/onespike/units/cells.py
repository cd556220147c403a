"""PyTorch's recurrent layers, made cheaper: our own scan for training on a CPU, and a shortcut for single tokens."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.environment import emulates_bf16
from onespike.functional import scan_gru, scan_rnn
from onespike.functional.kernels import is_traced

#: Number of tokens from which the scan is faster than PyTorch; measured.
_LONG = 16


# The classes of PyTorch are called by name: in `super()` the compiler of PyTorch 2.15 fails after a break of its graph.
class LSTM(nn.LSTM):
    """`nn.LSTM`, with the same arguments, parameters and results; faster for a single token."""

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # type: ignore[override]
        """Map tokens (N, T, C_in) to states (N, T, C), both directions side by side, and the last states h and c."""
        if _is_plain(self, x, hx) and x.shape[1] == 1:
            h, c = zip(*(_lstm_token(x, *weights) for weights in self.all_weights), strict=True)
            return torch.cat(h, -1), (torch.stack(h).squeeze(2), torch.stack(c).squeeze(2))
        if isinstance(x, Tensor) and x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and emulates_bf16():
            with torch.autocast("cpu", enabled=False):  # such a processor has no LSTM in bf16
                hx = None if hx is None else tuple(one.float() for one in hx)
                return nn.LSTM.forward(self, x.float(), hx)
        return nn.LSTM.forward(self, x, hx)


class GRU(nn.GRU):
    """`nn.GRU`, with the same arguments, parameters and results; our scan trains it on a CPU."""

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Map tokens (N, T, C_in) to states (N, T, C), both directions side by side, and the last states."""
        return _ours(self, x, hx, _gru_token, scan_gru) or nn.GRU.forward(self, x, hx)


class RNN(nn.RNN):
    """`nn.RNN`, with the same arguments, parameters and results; our scan trains it on a CPU."""

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Map tokens (N, T, C_in) to states (N, T, C), both directions side by side, and the last states."""
        return _ours(self, x, hx, _rnn_token, scan_rnn) or nn.RNN.forward(self, x, hx)


def _is_plain(cell: nn.RNNBase, x: Tensor, hx: Any) -> bool:
    """Whether this module handles such a layer and such an input, and the state starts at 0."""
    known = cell.num_layers == 1 and cell.batch_first and cell.bias and not cell.proj_size and cell.mode != "RNN_RELU"
    return known and hx is None and isinstance(x, Tensor) and x.dim() == 3  # no packed sequence


def _ours(
    cell: nn.RNNBase, x: Tensor, hx: Tensor | None, token: Callable[..., Tensor], scan: Callable[..., Tensor]
) -> tuple[Tensor, Tensor] | None:
    """States and last states, by `token` for a single token or by `scan`; None where neither applies or is faster."""
    if not _is_plain(cell, x, hx):
        return None
    directions: list[list[Any]] = cell.all_weights
    if x.shape[1] == 1:  # the state is 0: the products with its weights are left out
        states = [token(x, *weights) for weights in directions]
        return torch.cat(states, -1), torch.stack(states).squeeze(2)
    # cuDNN and compilers are faster than the scan, and inference has nothing to gain.
    if x.device.type != "cpu" or x.shape[1] < _LONG or not torch.is_grad_enabled() or is_traced():
        return None
    states = [scan(x, *weights, backwards=number == 1) for number, weights in enumerate(directions)]
    last = torch.stack([h[:, 0 if number else -1] for number, h in enumerate(states)])
    return torch.cat(states, -1) if cell.bidirectional else states[0], last


def _lstm_token(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> tuple[Tensor, Tensor]:
    """State after the first token, h and c: c = sigmoid(i) tanh(g), h = sigmoid(o) tanh(c)."""
    i, _, g, o = F.linear(x, w_ih, b_ih + b_hh).chunk(4, -1)
    c = i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh() + _nothing(w_hh, c), c


def _gru_token(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """State after the first token: h = (1 - z) tanh(n + r c_n)."""
    *_, c_n = b_hh.chunk(3)
    r, z, n = F.linear(x, w_ih, b_ih + torch.cat((b_hh[: -len(c_n)], torch.zeros_like(c_n)))).chunk(3, -1)
    n = torch.tanh(n + r.sigmoid() * c_n.to(n.dtype))
    return n - z.sigmoid() * n + _nothing(w_hh, n)


def _rnn_token(x: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """State after the first token: h = tanh(W x + b)."""
    h = F.linear(x, w_ih, b_ih + b_hh).tanh()
    return h + _nothing(w_hh, h)


def _nothing(weights: Tensor, like: Tensor) -> Tensor:
    """Return 0, so that these weights get a gradient of 0: optimisers and other processes expect one."""
    return weights[:0].sum().to(like.dtype)
