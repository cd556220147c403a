"""Units by name."""

from collections.abc import Callable
from functools import partial

from torch import nn

from onespike.neurons import make_neuron
from onespike.units.base import Unit, UnitConfig
from onespike.units.cells import GRU, LSTM, RNN
from onespike.units.channel import ChannelLinear, Norm
from onespike.units.conv import ConvUnit
from onespike.units.layers import GELU
from onespike.units.tokens import Cell, Recurrent, TravellingUnit

#: Recurrent layers by the name of their unit, and whether they run both ways.
CELLS: dict[str, tuple[Cell, bool]] = {
    "lstm": (LSTM, True),
    "lstm-forward": (LSTM, False),
    "gru": (GRU, False),
    "bigru": (GRU, True),
    "rnn": (RNN, False),
    "birnn": (RNN, True),
}


def _recurrent(cell: Cell, bidirectional: bool, channels: int, config: UnitConfig, norm: Norm) -> Unit:
    return TravellingUnit(Recurrent(cell, channels, bidirectional), channels * (1 + bidirectional), config, norm)


def _mlp(channels: int, config: UnitConfig, norm: Norm) -> Unit:
    between = GELU() if config.mlp_activation == "gelu" else make_neuron(channels, config.neuron, integrates=False)
    layer = nn.Sequential(ChannelLinear(channels, channels), norm(channels), between, ChannelLinear(channels, channels))
    return TravellingUnit(layer, channels, config, norm)


#: Units whose cell keeps a real-valued state: they can never be strictly spiking.
RECURRENT = tuple(CELLS)

#: Builders of units, from channels, config and normalisation. To add one, add an entry: `UNITS["mine"] = …`.
UNITS: dict[str, Callable[[int, UnitConfig, Norm], Unit]] = {
    "conv": ConvUnit,
    **{name: partial(_recurrent, *one) for name, one in CELLS.items()},
    "mlp": _mlp,
}
