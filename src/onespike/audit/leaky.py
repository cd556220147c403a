"""The neuron of a standard spiking network: it gains accuracy over time, and keeps its potential from step to step."""

import torch
from torch import Tensor, nn

from onespike.units import Dynamics, Firing


class LeakyNeuron(nn.Module):
    """Leaky integrate-and-fire over time: V = alpha * V(t-1) * (1 - S(t-1)) + I, S = 1 if V > threshold.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        dynamics = Dynamics()
        self.decay = dynamics.decay
        self.fire = Firing(channels, dynamics)

    def forward(self, currents: Tensor) -> Tensor:
        """Map currents (T, B, C, H, W) to spikes of the same shape."""
        spikes: list[Tensor] = []
        potential = currents[0]
        for step, current in enumerate(currents.unbind()):
            if step:
                potential = self.decay * potential * (1 - spikes[-1]) + current
            spikes.append(self.fire(potential))
        return torch.stack(spikes)

    def kept_over_time(self, currents: Tensor) -> int:
        """Count the potentials that are kept: written at all steps but the last, and read again."""
        return currents.numel() // len(currents) * (len(currents) - 1)
