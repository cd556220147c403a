"""The conv unit built of other libraries' neurons: the same convolutions, windows handed on as their time steps.

What these libraries hand on, they hand on over time; so the four windows are four steps to them. They know no fusion:
a neuron's potential leaks and integrates, and fires. snnTorch can leave it be then, as the method does, and computes
the same spikes as `LIF` does; SpikingJelly always resets it, here by subtraction.

Each is there twice: as its own tutorials build a network (maps in the default layout; SpikingJelly all steps as one
batch, snnTorch step after step), and with this library's arrangement (channels-last, all windows as one batch), where
nothing but the neurons differs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError, requires
from onespike.models import Network
from onespike.models.over_time import each_step
from onespike.models.stem import Stem
from onespike.models.strict_layers import Firing
from onespike.neurons import Carry, NeuronConfig
from onespike.units import ConvUnit, UnitOutput
from onespike.units.base import as_one_batch
from onespike.units.layers import BatchNorm, Conv3x3, Layers, MaxPool


def _library(name: str) -> Any:
    """Import an optional package; an `OnespikeError` if it is not installed."""
    with requires("bench", "bench"):
        return import_module(name)


class SpikingJellyNeurons(nn.Module):
    """SpikingJelly's LIF neurons, multi-step."""

    def __init__(self, config: NeuronConfig) -> None:
        super().__init__()
        library, surrogate = (_library(f"spikingjelly.activation_based.{name}") for name in ("neuron", "surrogate"))
        self.neuron = library.LIFNode(
            tau=1 / (1 - config.decay),  # V - V / tau = decay * V
            decay_input=False,
            v_threshold=config.threshold,
            v_reset=None,
            surrogate_function=surrogate.Rect(),
            step_mode="m",
        )

    def forward(self, currents: Tensor) -> Tensor:
        """Map (V, B, C, M, M) to spikes."""
        self.neuron.reset()
        return self.neuron(currents)


class SnnTorchNeurons(nn.Module):
    """snnTorch's leaky neurons, step by step."""

    def __init__(self, config: NeuronConfig) -> None:
        super().__init__()
        library, surrogate = _library("snntorch"), _library("snntorch.surrogate")
        self.neuron = library.Leaky(
            beta=config.decay,
            threshold=config.threshold,
            spike_grad=surrogate.straight_through_estimator(),
            reset_mechanism="none",
        )

    def step(self, current: Tensor, potential: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map one window (B, C, M, M), and the potential of the one before, to spikes and the potential."""
        return self.neuron(current, torch.zeros_like(current) if potential is None else potential)

    def forward(self, currents: Tensor) -> Tensor:
        """Map (V, B, C, M, M) to spikes."""
        potential, out = None, []
        for current in currents.unbind():
            spikes, potential = self.step(current, potential)
            out.append(spikes)
        return torch.stack(out)


@dataclass(frozen=True)
class Peer:
    """Another library's neurons, and how the layers around them are arranged.

    Attributes:
        neurons: Makes a layer of them.
        channels_last: Whether maps lie channel by channel in each pixel, as this library's do.
        stepwise: Whether a window passes through the whole unit before the next one begins.
    """

    neurons: Callable[[NeuronConfig], Any]
    channels_last: bool
    stepwise: bool = False


#: By the name of what is timed, which starts with the package's.
PEERS: dict[str, Peer] = {
    "spikingjelly": Peer(SpikingJellyNeurons, channels_last=False),
    "snntorch": Peer(SnnTorchNeurons, channels_last=False, stepwise=True),
    "spikingjelly-arranged": Peer(SpikingJellyNeurons, channels_last=True),
    "snntorch-arranged": Peer(SnnTorchNeurons, channels_last=True),
}


class PeerFiring(nn.Module):
    """The batch norm and thresholds of a strictly spiking network, with another library's neurons behind them."""

    carries = True

    def __init__(self, firing: Firing, neuron: nn.Module) -> None:
        super().__init__()
        self.thresholds, self.neuron = firing[0], neuron

    def forward(self, currents: Tensor, carry: Carry | None = None) -> Tensor:
        """Map currents (B, C, H, W) to spikes (B, P*C, H, W); our neurons also over time, with a `carry`."""
        if carry is not None:
            return self.neuron.over_time(each_step(currents, self.thresholds), carry)
        potential = self.thresholds(currents)
        if isinstance(self.neuron, SpikingJellyNeurons | SnnTorchNeurons):
            return self.neuron(potential[None])[0].to(potential.dtype)  # one time step; snnTorch's are float32
        return self.neuron(potential)


class PeerUnit(nn.Module):
    """Two convolutions, those of a `ConvUnit`, each followed by another library's neurons; `peer` is in `PEERS`."""

    def __init__(self, unit: ConvUnit, config: NeuronConfig, peer: str) -> None:
        super().__init__()
        self.out_channels, self.travels = unit.out_channels, False
        self.stepwise, neurons = PEERS[peer].stepwise, PEERS[peer].neurons
        self.conv1, self.norm1, self.neuron1 = unit.conv1, unit.norm1, neurons(config)
        self.conv2, self.norm2, self.neuron2 = unit.conv2, unit.norm2, neurons(config)

    def forward(self, spikes: Tensor, potential: Any = None, memory: Any = None) -> UnitOutput:  # noqa: ARG002
        """Run both layers on (V, B, C, M, M)."""
        if self.stepwise:
            return UnitOutput(self._step_after_step(spikes), None, ())
        first = self.neuron1(as_one_batch(spikes, self.conv1, self.norm1))
        return UnitOutput(self.neuron2(as_one_batch(first, self.conv2, self.norm2)), None, ())

    def _step_after_step(self, spikes: Tensor) -> Tensor:
        first = second = None
        out = []
        for window in spikes.unbind():
            hidden, first = self.neuron1.step(self.norm1(self.conv1(window)), first)
            fired, second = self.neuron2.step(self.norm2(self.conv2(hidden)), second)
            out.append(fired)
        return torch.stack(out)


def with_plain_layers(network: Any, peer: str) -> Any:
    """Put PyTorch's layers into a strictly spiking network, in place, and a peer's neurons; returns the same network.

    For "sequential" the neurons are ours, one operation after the other. Of windows a peer has no layers: these are an
    `OnespikeError`.
    """
    if network.config.windows != "none":
        windows = network.config.windows
        raise OnespikeError(f"bench: {peer} has no counterpart of windows {windows}; choose a model without windows")
    plain: dict[type, type] = {Conv3x3: nn.Conv2d, BatchNorm: nn.BatchNorm2d, MaxPool: nn.MaxPool2d}
    plain |= {Layers: nn.Sequential, Stem: nn.Sequential}
    for module in list(network.modules()):
        module.__class__ = plain.get(type(module), type(module))
        for name, child in list(module.named_children()):
            if isinstance(child, Firing):
                neuron = PEERS[peer].neurons(network.config.neuron) if peer in PEERS else child[1]
                setattr(module, name, PeerFiring(child, neuron))
    return network


def with_peer_units(network: Network, peer: str) -> Network:
    """Put another library's neurons into the conv units of a network, in place; returns the same network."""
    if network.config.unit != "conv":
        raise OnespikeError(f"bench: {peer} has no counterpart of the unit {network.config.unit}; choose a conv model")
    for block in network.blocks():
        block.unit = PeerUnit(block.unit, network.config.neuron, peer)  # type: ignore[assignment,arg-type]
    return network
