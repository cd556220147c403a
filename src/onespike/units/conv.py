"""The convolutional unit (CNN-SNN): two 3x3 convolutions, each followed by a layer of neurons."""

from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from onespike.neurons import Incoming, make_neuron
from onespike.units.base import Memory, Traffic, Unit, UnitConfig, UnitOutput, as_one_batch, chained, kept_over_time
from onespike.units.channel import Norm
from onespike.units.layers import Conv3x3


class WindowConv(Conv3x3):
    """A 3x3 convolution with padding 1, which on windows of one pixel computes its centre tap alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, M, M) to (N, C', M, M)."""
        # The other taps see only padding there; to convolve all the same takes seven times as long.
        if x.shape[-2:] != (1, 1):
            return super().forward(x)
        return F.linear(x.flatten(1), self.weight[:, :, 1, 1], self.bias)[:, :, None, None]


@final
class ConvUnit(Unit):
    """Two convolutional spiking layers whose potentials pass from window to window.

        layer 1   V1[v] = alpha * V1[v-1] + conv1(s[v])                          S1 = fire(V1)
        layer 2   V2[v] = alpha * Omega(V1[v-1], V2[v-1]) + conv2(S1[v])         S2 = fire(V2)

    v = 1..4 counts the windows; potentials start at 0 in every block; the output is S2.

    `norm` makes the normalisation after each convolution; its statistics cover windows, batch and map. It may turn each
    channel into a `population` of neurons: spikes then have `population` times as many channels as the convolutions.
    """

    def __init__(
        self, channels: int, config: UnitConfig = UnitConfig(), norm: Norm = nn.Identity, population: int = 1
    ) -> None:
        super().__init__()
        self.out_channels, self.travels = population * channels, False
        self.fusion, self.theta = config.fusion, config.theta
        self.conv1 = WindowConv(self.out_channels, channels, bias=True)
        self.norm1, self.neuron1 = norm(channels), make_neuron(self.out_channels, config.neuron)
        self.conv2 = WindowConv(self.out_channels, channels, bias=True)
        self.norm2, self.neuron2 = norm(channels), make_neuron(self.out_channels, config.neuron)

    def forward(self, spikes: Tensor, potential: Tensor | None = None, memory: Memory | None = None) -> UnitOutput:  # noqa: ARG002
        """Run both layers; `potential` is not used, since this unit's potentials start at 0 in every block."""
        passes, (before1, before2) = self.fusion != "none", memory or (None, None)
        currents = as_one_batch(spikes, self.conv1, self.norm1)
        layer1 = self.neuron1.charge_and_fire(currents, Incoming() if passes else None, before1)
        currents = as_one_batch(layer1[1], self.conv2, self.norm2)
        incoming = Incoming(self.neuron1.handed_on(*layer1[:2]), 1, self.fusion, self.theta) if passes else None
        layer2 = self.neuron2.charge_and_fire(currents, incoming, before2)
        return UnitOutput(layer2[1], None, (layer1, layer2))

    def potential_traffic(self, potential: Tensor | None, memory: Memory | None, out: UnitOutput) -> Traffic:  # noqa: ARG002
        """Layer 1 reads its own potentials, layer 2 those of both layers."""
        passed = chained(out) if self.fusion != "none" else 0
        kept = kept_over_time(out, memory, passed)
        more = sum(len(layer) - 2 for layer in out.memory)  # such as the rise of adaptive thresholds
        return Traffic((3 + more) * passed + kept.reads, (2 + more) * passed + kept.writes)
