"""What every spiking unit shares: the dynamics of its neurons, the neuron itself, and the contract."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError, check_choices, unknown
from onespike.functional import FUSIONS, SURROGATES, charge, charge_and_fire, fuse, spike
from onespike.functional.charge import neighbour


@dataclass(frozen=True)
class Dynamics:
    """How potentials charge, fire and are handed on (sections 2 and 4 of the paper).

    Attributes:
        threshold: Potential above which a neuron fires, > 0.
        decay: Share alpha of a potential that survives being handed on, 0..1.
        surrogate: Stand-in for the derivative of firing: "rectangle", "triangle", "sigmoid" or "arctan" (see
            `onespike.functional.SURROGATES`).
        reset: What firing does to the potential that is handed on to the next window: "none" (it stays), "zero"
            (it is lost), "subtract" (it loses one threshold). A neuron's own potential, which lives on over time when
            there is more than one time step, is always set to zero by firing.
        fusion: How the two potentials that meet at a neuron are merged: "sincos", "sinsum", "nested", "mean", "sum"
            (see `onespike.functional.fuse`), or "none", which hands nothing on at all.
        theta: Radian factor of the fusion, 0 < theta <= 1.
        learnable_threshold: The threshold is a constant ("none"), or a parameter for each "layer" or "channel".
        learnable_decay: The decay is a constant ("none"), or a parameter for each "layer" or "channel".
        activation: What a neuron gives: a "spike", or "relu", its potential where that is positive, which makes the
            artificial network of the same graph.
        mlp_activation: What stands between the linear layers of the channel MLPs, and of the unit "mlp": "gelu"
            (real-valued), or "spiking" (a threshold before each linear layer).
    """

    threshold: float = 0.5
    decay: float = 0.4
    surrogate: str = "rectangle"
    reset: Literal["none", "zero", "subtract"] = "none"
    fusion: str = "sincos"
    theta: float = 0.5
    learnable_threshold: Literal["none", "layer", "channel"] = "none"
    learnable_decay: Literal["none", "layer", "channel"] = "none"
    activation: Literal["spike", "relu"] = "spike"
    mlp_activation: Literal["gelu", "spiking"] = "gelu"

    def __post_init__(self) -> None:
        check_choices(self)
        if self.surrogate not in SURROGATES:
            raise unknown("surrogate", self.surrogate, SURROGATES)
        if self.fusion not in FUSIONS:
            raise unknown("fusion", self.fusion, FUSIONS)
        if not 0 < self.threshold < math.inf:
            raise OnespikeError(f"threshold: expected a finite number above 0, got {self.threshold}")
        if not 0 <= self.decay <= 1:
            raise OnespikeError(f"decay: expected 0 <= decay <= 1, got {self.decay}")
        if not 0 < self.theta <= 1:
            raise OnespikeError(f"theta: expected 0 < theta <= 1, got {self.theta}")
        if self.learnable_decay != "none" and self.decay in (0, 1):
            raise OnespikeError(f"decay: to be learnable it must start between 0 and 1, got {self.decay}")
        if self.activation == "relu" and (self.learnable_threshold != "none" or self.reset != "none"):
            raise OnespikeError("activation relu: it has no threshold to learn and nothing to reset")


@dataclass(frozen=True, eq=False)
class Incoming:
    """What comes into a window's neurons: P[v] = Omega(X[v - behind], V[v-1]), by default P[v] = V[v-1].

    The first window has no predecessor: see `onespike.functional.charge`.

    Attributes:
        beside: X, (V, B, C, M, M): the potentials that the window before's meet. None if they meet none.
        behind: How many windows X lies behind, 0 or 1.
        fusion: How the two are merged, a name in `onespike.functional.FUSIONS`.
        theta: Radian factor of the fusion.
    """

    beside: Tensor | None = None
    behind: int = 0
    fusion: str = "sincos"
    theta: float = 0.5


def parameter(value: float, learnable: str, channels: int) -> nn.Parameter | None:
    """Make a parameter for a layer or for each channel, (), or (C, 1, 1); None if it is not to be learned."""
    if learnable == "none":
        return None
    return nn.Parameter(torch.full((channels, 1, 1) if learnable == "channel" else (), value))


class Firing(nn.Module):
    """Fire where a value exceeds the threshold: S = 1 if V > threshold else 0; with the activation "relu" max(V, 0).

    A forward hook on this module sees the potentials that come in and the spikes that go out; that is how the library
    itself watches and draws a network.

    Args:
        channels: Number of channels, for a threshold per channel.
        dynamics: The threshold, or where a learnable one starts, the surrogate and the activation.
    """

    def __init__(self, channels: int, dynamics: Dynamics) -> None:
        super().__init__()
        self.surrogate, self.activation = dynamics.surrogate, dynamics.activation
        self.raw_threshold = parameter(math.log(dynamics.threshold), dynamics.learnable_threshold, channels)
        self.constant_threshold = dynamics.threshold

    @property
    def threshold(self) -> float | Tensor:
        """The threshold: a constant (a plain number, exact in every dtype), or a scalar or (C, 1, 1)."""
        # Learned as its logarithm: it cannot leave its range.
        return self.constant_threshold if self.raw_threshold is None else self.raw_threshold.exp()

    def forward(self, potential: Tensor, *, spikes: Tensor | None = None) -> Tensor:
        """Fire.

        Args:
            potential: (..., C, H, W).
            spikes: Its spikes, where charging has computed them on the way: hooks shall see them all the same.

        Returns:
            Spikes, zeros and ones of the same shape; with "relu" real values.
        """
        if spikes is not None:
            return spikes
        if self.activation == "relu":
            return potential.relu()
        return spike(potential, self.threshold, self.surrogate)


class Neuron(Firing):
    """A layer of leaky integrate-and-fire neurons: V = alpha * P + I, then `Firing`.

    Args:
        channels: Number of channels, for parameters per channel.
        dynamics: Constants, or where learnable parameters start.
    """

    def __init__(self, channels: int, dynamics: Dynamics) -> None:
        super().__init__(channels, dynamics)
        self.reset = dynamics.reset
        learnable = dynamics.learnable_decay
        logit = math.log(dynamics.decay / (1 - dynamics.decay)) if learnable != "none" else 0.0
        self.raw_decay = parameter(logit, learnable, channels)
        self.constant_decay = dynamics.decay

    @property
    def decay(self) -> float | Tensor:
        """The decay alpha: a constant, or a scalar or (C, 1, 1)."""
        # Learned as its logit, for the same reason.
        return self.constant_decay if self.raw_decay is None else self.raw_decay.sigmoid()

    def handed_on(self, potential: Tensor) -> Tensor:
        """What of a potential the next window receives, after the reset.

        Args:
            potential: (..., C, H, W), at the moment of firing.

        Returns:
            The potential to hand on, same shape.
        """
        match self.reset:
            case "zero":
                return potential * (1 - spike(potential, self.threshold, self.surrogate))
            case "subtract":
                return potential - self.threshold * spike(potential, self.threshold, self.surrogate)
            case _:
                return potential

    def charge(self, currents: Tensor, incoming: Incoming | None, own: Tensor | None = None) -> Tensor:
        """Integrate, window after window: V(t) = alpha * P(t) + alpha * V(t-1) * (1 - S(t-1)) + I(t).

        Args:
            currents: I, what the weight layer delivers, (V, B, C, M, M).
            incoming: What is handed on, to whom; None if nothing ever is.
            own: V(t-1) * (1 - S(t-1)), what these neurons kept of the time step before; None at the first.

        Returns:
            V, (V, B, C, M, M).
        """
        if own is not None:
            currents = decayed(currents, own, self.decay)
        if incoming is None:
            return currents
        if self._in_one_function():
            return charge(currents, self.constant_decay, **vars(incoming))
        decay, beside, potentials = self.decay, incoming.beside, [currents[0]]
        if beside is not None and incoming.behind == 0:
            first = fuse(beside[0], beside[neighbour(beside)], incoming.fusion, incoming.theta)
            potentials = [decayed(currents[0], first, decay)]
        for window in range(1, len(currents)):
            handed = self.handed_on(potentials[-1])
            if beside is not None:
                handed = fuse(beside[window - incoming.behind], handed, incoming.fusion, incoming.theta)
            potentials.append(decayed(currents[window], handed, decay))
        return torch.stack(potentials)

    def charge_and_fire(
        self, currents: Tensor, incoming: Incoming | None, own: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Integrate as `charge` does, then fire; in one function where that is possible and gradients are wanted.

        Args:
            currents: I, (V, B, C, M, M).
            incoming: As for `charge`.
            own: Likewise.

        Returns:
            V and the spikes, (V, B, C, M, M) each.
        """
        trained = torch.is_grad_enabled() and self.raw_threshold is None and self.activation == "spike"
        if incoming is None or not trained or not self._in_one_function():
            v = self.charge(currents, incoming, own)
            return v, self(v)
        if own is not None:
            currents = decayed(currents, own, self.constant_decay)
        constants = self.constant_decay, self.constant_threshold, self.surrogate
        v, spikes = charge_and_fire(currents, *constants, **vars(incoming))
        return v, self(v, spikes=spikes)

    def _in_one_function(self) -> bool:
        """Whether `onespike.functional.charge` can do it, and nobody compiles the loop."""
        return self.reset == "none" and self.raw_decay is None and not torch.compiler.is_compiling()


def decayed(current: Tensor, potential: Tensor, decay: float | Tensor) -> Tensor:
    """I + alpha * P, in one pass where alpha is a constant."""
    if isinstance(decay, Tensor):
        return current + decay * potential
    return torch.add(current, potential, alpha=decay)


#: What a unit's neurons keep from one time step to the next: (potentials, spikes) of each layer.
Memory = tuple[tuple[Tensor, Tensor], ...]


class UnitOutput(NamedTuple):
    """What comes out of a unit.

    Attributes:
        spikes: Output spikes, (V, B, C, M, M).
        potential: Potentials for the next block, (V, B, C, M, M); None from a unit that hands nothing to it.
        memory: Potentials and spikes of each layer, for the next time step.
    """

    spikes: Tensor
    potential: Tensor | None
    memory: Memory


class Unit(nn.Module, ABC):
    """The contract of a spiking unit: four windows of spikes in, four windows of spikes out, potentials beside them.

    The four windows share the unit's weights. Weight layers see all windows as one batch (`per_window`); only
    potentials, which pass from window to window, are computed one after the other (`Neuron.charge_and_fire`).

    Attributes:
        out_channels: Channels of the output spikes, and of the potentials that are handed to the next block.
        travels: Whether potentials are handed from block to block.
    """

    out_channels: int
    travels: bool

    @abstractmethod
    def forward(self, spikes: Tensor, potential: Tensor | None = None, memory: Memory | None = None) -> UnitOutput:
        """Run the unit on the four windows of one time step.

        Args:
            spikes: Input spikes, (V, B, C, M, M).
            potential: Potentials from the block before, (V, B, C, M, M), or None.
            memory: `UnitOutput.memory` of the time step before; None at the first.

        Returns:
            Spikes and potentials.
        """

    def potential_traffic(
        self,
        potential: Tensor | None,  # noqa: ARG002
        memory: Memory | None,  # noqa: ARG002
        out: UnitOutput,  # noqa: ARG002
    ) -> tuple[int, int]:
        """Count the potentials that one call hands on from window to window, block to block and step to step.

        Args:
            potential: What came from the block before, (V, B, C, M, M), or None.
            memory: What came from the time step before, or None.
            out: What the unit gave.

        Returns:
            The values read and written, in the whole batch.

        Raises:
            OnespikeError: The unit does not say.
        """
        raise OnespikeError(
            f"{type(self).__name__}: the audit does not know which potentials this unit hands on: expected a method "
            "potential_traffic, as ConvUnit has it"
        )


def kept_over_time(out: UnitOutput, memory: Memory | None, passed: int) -> tuple[int, int]:
    """Count the values that a unit's layers keep over time, read and written; `passed` are written already."""
    if memory is None:
        return 0, 0
    values = out.memory[0][0].numel()
    return len(out.memory) * values, len(out.memory) * (values - passed)


def per_window(layer: nn.Module, norm: nn.Module, windows: Tensor) -> Tensor:
    """Apply a weight layer and its normalisation to all windows at once, as one batch.

    Args:
        layer: A module on (N, C, M, M).
        norm: The normalisation behind it, or an identity.
        windows: (V, B, C, M, M).

    Returns:
        The currents, (V, B, C', M, M).
    """
    return norm(layer(windows.flatten(0, 1))).unflatten(0, windows.shape[:2])


def own_potential(memory: Memory | None, layer: int) -> Tensor | None:
    """What the neurons of a layer keep over time: V(t-1) * (1 - S(t-1)), or None at the first time step."""
    if memory is None:
        return None
    potential, spikes = memory[layer]
    return potential * (1 - spikes)
