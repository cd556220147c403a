"""Multiply-accumulates of the weight layers, every layer counted dense; the work that speed is measured by."""

from typing import Any

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError

#: Products of the gates of a recurrent cell.
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


def count_macs(network: nn.Module, one: Tensor) -> int:
    """Count the multiply-accumulates of one forward pass, biases and element-wise work left out.

    Args:
        network: A network, or a part of one.
        one: Its input; a batch of one counts them for an image.

    Returns:
        Their number, over all time steps.

    Raises:
        OnespikeError: A layer has weights and nobody said how to count it.
    """
    total = 0

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        total += _macs(module, inputs[0], output)

    handles = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.RNNBase):
            handles.append(module.register_forward_hook(add))
        elif any(p.ndim > 1 for p in module.parameters(recurse=False)) and "raw_" not in _names(module):
            raise OnespikeError(f"operations: {name} is a {type(module).__name__}, which nobody said how to count")
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()(one)
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
    return total


def _macs(module: nn.Module, x: Tensor, output: Any) -> int:
    match module:
        case nn.Conv2d():
            return output.numel() * module.weight[0].numel()
        case nn.Linear():
            return output.numel() * module.in_features
        case nn.RNNBase():
            tokens, directions = x.shape[0] * x.shape[1], 2 if module.bidirectional else 1
            gates = next(gates for kind, gates in GATES.items() if isinstance(module, kind))
            each = gates * module.hidden_size * (module.input_size + module.hidden_size)
            return tokens * directions * each
        case _:
            raise TypeError(type(module))


def _names(module: nn.Module) -> str:
    return " ".join(name for name, _ in module.named_parameters(recurse=False))
