"""A spiking network of linear layers, over time: linear, batch norm, neurons; for channels without a map."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from onespike.models.over_time import OverTimeNetwork
from onespike.models.registry import register_model
from onespike.models.standard import OverTimeConfig
from onespike.neurons import Carry, OverTime, make_neuron
from onespike.units.registry import CELLS


@dataclass(frozen=True)
class SpikingMLPConfig(OverTimeConfig):
    """A spiking network of linear layers.

    Attributes:
        width: Neurons of each hidden layer.
        depth: Hidden layers.
        unit: The source of the neurons' currents: each linear layer itself ("linear"), or a recurrent layer after it,
            over the time steps: "rnn", "gru" or "lstm", whose own state is real-valued. A batch norm follows.
        time_steps: Time steps T for which an image is shown; logits are averaged. Frames of events bring their own.
    """

    name: str = "spiking-mlp"
    width: int = 128
    depth: int = 2
    unit: Literal["linear", "rnn", "gru", "lstm"] = "linear"
    time_steps: int = 1


class RecurrentOverTime(nn.Module):
    """A recurrent layer over the time steps: (T, B, C) to (T, B, C)."""

    carries = True

    def __init__(self, kind: str, channels: int) -> None:
        super().__init__()
        cell, _ = CELLS[kind]  # always forward, as time runs
        self.cell = cell(channels, channels, batch_first=True)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        """Run the layer; in evaluation step by step, as for a stream of frames."""
        before, found = carry.before(), []
        state = tuple(before) if isinstance(before, list | tuple) else before
        for part in (x,) if self.training else x.split(1):
            out, state = self.cell(part.transpose(0, 1), state)
            found.append(out.transpose(0, 1))
        carry.after.append(state)
        return torch.cat(found)

    def kept_over_time(self, out: Tensor, x: Tensor, carry: Carry) -> tuple[int, int]:  # noqa: ARG002
        """How many values a time step keeps for the next: c of an LSTM; h is an input of the audit's "state"."""
        return out[0].numel() if isinstance(self.cell, nn.LSTM) else 0, len(out)


@register_model(SpikingMLPConfig, {"spiking-mlp": {}})
class SpikingMLP(OverTimeNetwork):
    """Linear, batch norm, neurons, `depth` times; then linear. Channels and pixels are flattened first."""

    def __init__(self, config: SpikingMLPConfig, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = in_channels * image_size**2
        for _ in range(config.depth):
            layers.append(nn.Linear(inputs, config.width, bias=False))
            if config.unit != "linear":
                layers.append(RecurrentOverTime(config.unit, config.width))
            layers += [nn.BatchNorm1d(config.width), OverTime(make_neuron(config.width, config.neuron))]
            inputs = config.width
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(inputs, num_classes)

    def parts(self) -> Iterable[nn.Module]:
        """All layers."""
        return self.layers, self.head
