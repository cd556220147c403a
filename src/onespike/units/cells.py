"""The framework's GRU and plain recurrent layer, trained on a CPU by our own scan."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from onespike.functional import scan_gru, scan_rnn

#: Tokens from which the scan is faster than the framework; measured.
_LONG = 16


class GRU(nn.GRU):
    """`nn.GRU`, with the same arguments, parameters and results; faster to train on a CPU, where it may scan."""

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Tokens (N, T, C_in) to states (N, T, C), both directions' side by side, and the last states."""
        return _scanned(self, scan_gru, x) if _may_scan(self, x, hx) else super().forward(x, hx)


class RNN(nn.RNN):
    """`nn.RNN`; otherwise as `GRU`."""

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Tokens (N, T, C_in) to states (N, T, C), both directions' side by side, and the last states."""
        return _scanned(self, scan_rnn, x) if _may_scan(self, x, hx) else super().forward(x, hx)


def _may_scan(cell: nn.RNNBase, x: Tensor, hx: Tensor | None) -> bool:
    """Whether the scan can do it, and faster: cuDNN and compilers do better, and inference has nothing to gain."""
    known = cell.num_layers == 1 and cell.batch_first and cell.bias and cell.mode != "RNN_RELU"
    faster = x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return known and faster and hx is None and x.dim() == 3 and x.shape[1] >= _LONG


def _scanned(cell: nn.RNNBase, scan: Callable[..., Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    directions: list[list[Any]] = cell.all_weights
    states = [scan(x, *weights, backwards=number == 1) for number, weights in enumerate(directions)]
    last = torch.stack([h[:, 0 if number else -1] for number, h in enumerate(states)])
    return torch.cat(states, -1) if cell.bidirectional else states[0], last
