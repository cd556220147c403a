"""Units whose potentials travel through the network (RNN-SNN): one layer over a window's tokens, one layer of neurons.

    V[eta, v] = alpha * Omega(V[eta-1, v], V[eta, v-1]) + layer(s[v])          S = fire(V)

v = 1..4 counts the windows, eta the blocks. The potential map enters a block from the block before (0 at the first) and
leaves it recomposed like the spikes. Window 1, which has no predecessor, takes V[eta-1, 2] as its neighbour.
"""

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from onespike.units.base import (
    Dynamics,
    Incoming,
    Memory,
    Neuron,
    Unit,
    UnitOutput,
    kept_over_time,
    own_potential,
    per_window,
)

#: The framework's recurrent layers.
Cell = type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]


@final
class TravellingUnit(Unit):
    """A layer over the tokens of a window, and neurons that merge the potentials of two directions.

    Args:
        layer: Maps windows (N, C, M, M) to (N, `out_channels`, M, M), such as `Recurrent`.
        out_channels: Channels of spikes and potentials.
        dynamics: How the neurons charge, fire and hand on.
        norm: Makes the layer behind `layer` out of a number of channels; none by default.
    """

    def __init__(
        self,
        layer: nn.Module,
        out_channels: int,
        dynamics: Dynamics = Dynamics(),
        norm: Callable[[int], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.out_channels, self.travels = out_channels, dynamics.fusion != "none"
        self.fusion, self.theta = dynamics.fusion, dynamics.theta
        self.layer = layer
        self.norm = norm(out_channels)
        self.neuron = Neuron(out_channels, dynamics)

    def forward(self, spikes: Tensor, potential: Tensor | None = None, memory: Memory | None = None) -> UnitOutput:
        """Run the layer on the four windows; `potential` is that of the block before, None (0) at the first."""
        currents = per_window(self.layer, self.norm, spikes)
        incoming = None
        if self.travels:
            above = torch.zeros_like(currents) if potential is None else potential
            incoming = Incoming(above, 0, self.fusion, self.theta)
        v, s = self.neuron.charge_and_fire(currents, incoming, own_potential(memory, 0))
        return UnitOutput(s, self.neuron.handed_on(v) if self.travels else None, ((v, s),))

    def potential_traffic(self, potential: Tensor | None, memory: Memory | None, out: UnitOutput) -> tuple[int, int]:
        """All windows go to the next block; the first reads a second window of the block before."""
        v = out.memory[0][0]
        if not self.travels:
            return kept_over_time(out, memory, 0)
        reads, writes = kept_over_time(out, memory, v.numel())
        passed = v.numel() * (len(v) - 1) // len(v)  # all windows but one have a predecessor
        above = v.numel() + v.numel() // len(v) if potential is not None else 0
        return passed + above + reads, v.numel() + writes


class Recurrent(nn.Module):
    """A recurrent layer over the pixels of a map as tokens, in row-major order; it starts from 0 at the first.

    Args:
        cell: `nn.LSTM`, `nn.GRU` or `nn.RNN`.
        channels: Channels C of a token, and of the state of each direction.
        bidirectional: Whether it runs backwards as well; its output then has 2C channels.
    """

    def __init__(self, cell: Cell, channels: int, bidirectional: bool) -> None:
        super().__init__()
        self.cell = cell(channels, channels, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W), or (N, 2C, H, W) if it is bidirectional."""
        output, _ = self.cell(x.flatten(2).transpose(1, 2))  # (N, H*W, C)
        # On a CPU the cell's output lies token by token; maps must be channels-last.
        return output.contiguous().transpose(1, 2).unflatten(2, x.shape[2:])
