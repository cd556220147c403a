"""Recurrent layers: the products of the input and of the layer's own state apart, and the gates' element-wise work.

Spikes that arrive cost accumulates. The state is a real number, whatever arrives, and costs multiply-accumulates.
Counted dense, the first token included, whose state is 0.
"""

from collections import Counter
from collections.abc import Callable

from torch import Tensor, nn

from onespike.audit.products import Tally

#: Work of one hidden unit at one token. Input and state parts are added, gates squash, states are mixed:
#: LSTM c = f c + i g, h = o tanh(c); GRU n = tanh(W x + r (U h)), h = (1 - z) n + z h; RNN h = tanh(W x + U h).
_GATES = {
    "LSTM": Counter(add=4 + 1, multiply=3, special=4 + 1),
    "GRU": Counter(add=3 + 2, multiply=3, special=3),
    "RNN_TANH": Counter(add=1, special=1),
    "RNN_RELU": Counter(add=1, compare=1),
}


def count(layer: nn.RNNBase, x: Tensor, tally: Callable[[str, int], Tally]) -> Counter[str]:
    """Count one call of a recurrent layer.

    Args:
        layer: An LSTM, GRU or RNN.
        x: Its input: tokens in any order, their channels last.
        tally: Gives the tally for a name and a number of weights.

    Returns:
        The element-wise work.
    """
    tokens = x.numel() // layer.input_size
    directions = 2 if layer.bidirectional else 1
    state_size = layer.proj_size or layer.hidden_size
    gates = len(layer.get_parameter("weight_ih_l0"))  # all gates' rows
    tally("input", gates * layer.input_size * directions).see_linear(x, gates * directions)
    if layer.num_layers > 1:
        values = directions * state_size * (layer.num_layers - 1)
        weights = values * gates * directions
        tally("between layers", weights).see_real(tokens * values, tokens * weights)
    values = state_size * directions * layer.num_layers
    weights = values * gates + layer.proj_size * layer.hidden_size * directions * layer.num_layers
    tally("state", weights).see_real(tokens * values, tokens * weights)
    units = tokens * layer.hidden_size * directions * layer.num_layers
    return Counter({kind: times * units for kind, times in _GATES[layer.mode].items()})
