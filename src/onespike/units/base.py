"""What every spiking unit shares: its configuration, its contract, and how it counts the potentials it hands on."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from onespike.configs import check
from onespike.errors import OnespikeError, unregistered
from onespike.functional import FUSIONS
from onespike.neurons import NeuronConfig
from onespike.neurons.base import State
from onespike.units.layers import through


@dataclass(frozen=True)
class UnitConfig:
    """A unit's neurons, and how potentials meet in it (sections 2 and 4 of the paper).

    Attributes:
        neuron: Its neurons.
        fusion: How the two potentials that meet at a neuron are merged, a name in `onespike.functional.FUSIONS`;
            "none" hands nothing on at all.
        theta: Radian factor of the fusion, 0 < theta <= 1.
        mlp_activation: What stands between the linear layers of the unit "mlp": "gelu", or "spiking" neurons.
    """

    neuron: NeuronConfig = field(default_factory=NeuronConfig)
    fusion: str = "sincos"
    theta: float = 0.5
    mlp_activation: Literal["gelu", "spiking"] = "gelu"

    def __post_init__(self) -> None:
        check(self)
        if self.fusion not in FUSIONS:
            raise unregistered("fusion", self.fusion, FUSIONS)
        if not 0 < self.theta <= 1:
            raise OnespikeError(f"theta: expected 0 < theta <= 1, got {self.theta}")


#: The state of a unit's neurons between time steps, layer by layer.
Memory = tuple[State, ...]


class Traffic(NamedTuple):
    """The number of potentials that are handed on, over the whole batch.

    Attributes:
        reads: How many are read.
        writes: How many are written.
    """

    reads: float
    writes: float


class UnitOutput(NamedTuple):
    """The output of a unit, (V, B, C, M, M) each.

    Attributes:
        spikes: What the neurons of the last layer fire.
        potential: The potential for the next block; None if it hands none on.
        memory: The state of its neurons, for the next time step.
    """

    spikes: Tensor
    potential: Tensor | None
    memory: Memory


class Unit(nn.Module, ABC):
    """Base class of a spiking unit: windows of spikes in, windows of spikes out, and potentials beside them.

    The windows share the unit's weights. Weight layers see all windows as one batch (`as_one_batch`). Only potentials,
    which pass from window to window, are computed one window after the other (`Neuron.charge_and_fire`).

    Attributes:
        out_channels: Channels of the output spikes, and of the potentials that are handed to the next block.
        travels: Whether potentials are handed from block to block.
    """

    out_channels: int
    travels: bool

    @abstractmethod
    def forward(self, spikes: Tensor, potential: Tensor | None = None, memory: Memory | None = None) -> UnitOutput:
        """Run the unit on the windows (V, B, C, M, M) of one time step.

        `potential` is that of the previous block, if it hands any on; `memory` that of the previous time step, if any.
        """

    def potential_traffic(self, potential: Tensor | None, memory: Memory | None, out: UnitOutput) -> Traffic:  # noqa: ARG002
        """Count the potentials that it hands on to windows, blocks and time steps; `out` is the result of `forward`."""
        name, missing = type(self).__name__, "the audit does not know which potentials this unit hands on"
        raise OnespikeError(f"{name}: {missing}: define {name}.potential_traffic")


def chained(out: UnitOutput) -> int:
    """The number of values of one layer that windows hand on: all windows but the last do."""
    v = out.memory[0][0]
    return v.numel() * (len(v) - 1) // len(v)


def kept_over_time(out: UnitOutput, memory: Memory | None, written: int) -> Traffic:
    """The traffic of the state kept for the next time step; `written` values of each layer are not written again."""
    if memory is None:
        return Traffic(0, 0)
    values, layers = out.memory[0][0].numel(), sum(len(layer) - 1 for layer in out.memory)
    return Traffic(layers * values, layers * (values - written))


def as_one_batch(x: Tensor, *layers: nn.Module) -> Tensor:
    """Apply layers to all windows, or time steps, as one batch: (V, B, C, …) to (V, B, C', …)."""
    return through(layers, one_batch(x)).unflatten(0, x.shape[:2])


def one_batch(x: Tensor) -> Tensor:
    """Join windows, or time steps, into one batch: (V, B, C, …) to (V*B, C, …); channels-last stays channels-last."""
    return x.flatten(0, 1) if x.stride(0) else torch.cat(x.unbind())  # flattening what is expanded loses channels-last
