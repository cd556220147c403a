"""Units whose potentials travel through the network (RNN-SNN): one layer over a window's tokens, one layer of neurons.

    V[eta, v] = alpha * Omega(V[eta-1, v], V[eta, v-1]) + layer(s[v])          S = fire(V)

v = 1..4 counts the windows, eta the blocks. The potential map enters a block from the block before (0 at the first) and
leaves it recomposed like the spikes. Window 1, which has no predecessor, takes V[eta-1, 2] as its neighbour.
"""

from typing import final

import torch
from torch import Tensor, nn

from onespike.neurons import Incoming, make_neuron
from onespike.units.base import Memory, Traffic, Unit, UnitConfig, UnitOutput, as_one_batch, chained, kept_over_time
from onespike.units.channel import Norm

#: PyTorch's recurrent layers.
Cell = type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]


@final
class TravellingUnit(Unit):
    """A layer over the tokens of a window, and neurons that merge the potentials of two directions.

    `layer` maps windows (N, C, M, M) to (N, `out_channels`, M, M), such as `Recurrent`; `norm` makes the norm after it.
    """

    def __init__(
        self, layer: nn.Module, out_channels: int, config: UnitConfig = UnitConfig(), norm: Norm = nn.Identity
    ) -> None:
        super().__init__()
        self.out_channels, self.travels = out_channels, config.fusion != "none"
        self.fusion, self.theta = config.fusion, config.theta
        self.layer, self.norm = layer, norm(out_channels)
        self.neuron = make_neuron(out_channels, config.neuron)

    def forward(self, spikes: Tensor, potential: Tensor | None = None, memory: Memory | None = None) -> UnitOutput:
        """Run the layer on the windows; `potential` is that of the previous block, None (0) at the first."""
        currents = as_one_batch(spikes, self.layer, self.norm)
        if self.travels and potential is None:
            potential = torch.zeros_like(currents)
        incoming = Incoming(potential, 0, self.fusion, self.theta) if self.travels else None
        state = self.neuron.charge_and_fire(currents, incoming, memory[0] if memory else None)
        return UnitOutput(state[1], self.neuron.handed_on(*state[:2]) if self.travels else None, (state,))

    def potential_traffic(self, potential: Tensor | None, memory: Memory | None, out: UnitOutput) -> Traffic:
        """All windows go to the next block; the first also reads the second of the block before, if there is one."""
        v, reads, writes = out.memory[0][0], 0.0, 0.0
        if self.travels:
            more = chained(out) * (len(out.memory[0]) - 2)  # such as the rise of adaptive thresholds
            reads, writes = chained(out) + more, v.numel() + more
            if potential is not None:
                reads += v.numel() + (v.numel() // len(v) if len(v) > 1 else 0)
        kept = kept_over_time(out, memory, v.numel() if self.travels else 0)
        return Traffic(reads + kept.reads, writes + kept.writes)


class Recurrent(nn.Module):
    """A recurrent layer over the pixels of a map as tokens, in row-major order; its state starts at 0."""

    def __init__(self, cell: Cell, channels: int, bidirectional: bool) -> None:
        super().__init__()
        self.cell = cell(channels, channels, batch_first=True, bidirectional=bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W), or (N, 2C, H, W) if it is bidirectional."""
        output, _ = self.cell(x.flatten(2).transpose(1, 2))  # (N, H*W, C)
        # On a CPU the cell's output lies token by token; maps must be channels-last.
        return output.contiguous().transpose(1, 2).unflatten(2, x.shape[2:])
