"""What every neuron shares: its configuration, its contract, and the chain of potentials from window to window."""

import inspect
import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from onespike.configs import check
from onespike.errors import OnespikeError, shown, unknown, unregistered
from onespike.functional import SURROGATES, Surrogate, charge, spike
from onespike.functional.charge import arriving_at, expect_windows
from onespike.functional.kernels import is_traced
from onespike.neurons.over_time import Carry, stacked

#: The state of neurons between time steps: V, S and any values of their kind, in the shape of the currents.
State = tuple[Tensor, ...]


@dataclass(frozen=True)
class NeuronConfig:
    """How neurons charge, fire and are reset (sections 2 and 4 of the paper).

    Attributes:
        name: The kind of neuron: "lif", "plif", "adaptive", "ternary", or "relu", which makes the artificial network
            of the same graph (see `onespike.neurons.NEURONS`).
        threshold: Potential above which a neuron fires, > 0.
        decay: Share alpha of a potential that survives being handed on, 0..1.
        surrogate: Stand-in for the derivative of firing: "rectangle", "triangle", "sigmoid", "arctan" or "gaussian"
            (see `onespike.functional.SURROGATES`).
        surrogate_width: Width of the surrogate, > 0: h(d) becomes h(d / width) / width, at a distance d from the
            threshold.
        reset: What firing does to the potential that is handed on to the next window: "none" (it stays), "zero" (it is
            lost), "subtract" (it loses one threshold). From one time step to the next, firing always sets it to zero,
            so networks without windows take "none" alone.
        learnable_threshold: The threshold is a constant ("none"), or a parameter for each "layer" or "channel".
        learnable_decay: The decay is a constant ("none"), or a parameter for each "layer" or "channel", which learns
            nothing where no potential is handed on.
        options: Values that only this kind of neuron has, such as `{"adaptation": 0.2}` for "adaptive".
    """

    name: str = "lif"
    threshold: float = 0.5
    decay: float = 0.4
    surrogate: str = "rectangle"
    surrogate_width: float = 1.0
    reset: Literal["none", "zero", "subtract"] = "none"
    learnable_threshold: Literal["none", "layer", "channel"] = "none"
    learnable_decay: Literal["none", "layer", "channel"] = "none"
    options: dict[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check(self)
        expect_surrogate(self.surrogate)
        for name in ("threshold", "surrogate_width"):
            if not 1e-6 <= getattr(self, name) <= 1e6:
                raise OnespikeError(f"{name}: expected 1e-6 <= {name} <= 1e6, got {getattr(self, name)}")
        if not 0 <= self.decay <= 1:
            raise OnespikeError(f"decay: expected 0 <= decay <= 1, got {self.decay}")
        if self.learnable_decay != "none" and self.decay in (0, 1):
            raise OnespikeError(f"decay: to be learnable it must start between 0 and 1, got {self.decay}")
        own = inspect.signature(self.neuron).parameters.values()
        known = [one.name for one in own if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        known = [name for name in known if name not in ("channels", "config", "integrates")]
        for key in self.options:
            if key not in known:
                raise unknown(f"option of the neuron {self.name}", key, known)
        self.neuron.check(self)

    @property
    def neuron(self) -> type["Neuron"]:
        """The class that `name` stands for."""
        from onespike.neurons.registry import NEURONS  # not at the top: the neurons import this module

        if self.name not in NEURONS:
            raise unregistered("neuron", self.name, NEURONS)
        if not isinstance(found := NEURONS[self.name], type) or not issubclass(found, Neuron):
            raise OnespikeError(f"neuron {self.name}: expected a subclass of Neuron, NEURONS has {shown(repr(found))}")
        return found


@dataclass(frozen=True, eq=False)
class Incoming:
    """The potential that a window's neurons receive: P[v] = Omega(X[v - behind], V[v-1]), by default P[v] = V[v-1].

    `onespike.functional.charge` says what the first window receives.

    Attributes:
        beside: X, (V, B, C, M, M); None for the default.
        behind: How many windows X lies behind, 0 or 1.
        fusion: How Omega merges the two, a name in `onespike.functional.FUSIONS`.
        theta: The fusion's radian factor.
    """

    beside: Tensor | None = None
    behind: int = 0
    fusion: str = "sincos"
    theta: float = 0.5

    def arriving(self, window: int, handed: Tensor | None) -> Tensor | None:
        """P of a window, from what the previous one hands on (None at the first); None if there is no potential."""
        return arriving_at(window, handed, self.beside, self.behind, self.fusion, self.theta)


class Neuron(nn.Module):
    """Base class of a layer of neurons: potentials in, spikes out; in any network `spikes = neuron(currents)`.

    A subclass says how it fires (`fire`), and how it charges if it is not a plain leaky neuron. The module keeps no
    state: it returns what its neurons keep from one time step to the next, and receives it at the next. A forward hook
    sees potentials and spikes; the library itself watches a network in this way.

    Potentials are (B, C), (B, C, H, W) or (V, B, C, M, M); parameters (), one for the layer, or (C, 1, 1).

    Args:
        channels: Number of channels C, for parameters per channel.
        config: Constants, and initial values of learnable parameters; by default the paper's.
        integrates: Whether these neurons ever receive potentials; if not, they have no decay to learn.
    """

    spiking = True  # whether its output is spikes, not real numbers
    signed = False  # whether its spikes have a sign
    levels = 1  # its largest spike: 1, or a whole number if its spikes are graded
    grouped = False  # whether there is always an axis before the images: windows or a population
    values_kept = 1  # values that a neuron keeps until the next time step, its potential among them

    def __init__(self, channels: int, config: NeuronConfig | None = None, integrates: bool = True) -> None:
        super().__init__()
        if not isinstance(channels, int | np.integer) or isinstance(channels, bool) or channels < 1:  # NumPy's, too
            raise OnespikeError(f"channels: expected a whole number above 0, got {shown(repr(channels))}")
        config = expect_config(config)
        if config.name != NeuronConfig().name and not isinstance(self, config.neuron):
            found = f"got one of {config.name!r}; leave its name out, or call make_neuron"
            raise OnespikeError(f"config: expected one of {type(self).__name__}, {found}")
        self.surrogate, self.reset = Surrogate(config.surrogate, config.surrogate_width), config.reset
        self.constant_threshold, self.constant_decay = config.threshold, config.decay
        # The threshold is learned as its logarithm, the decay as its logit, so they cannot leave their ranges.
        self.raw_threshold = _parameter(math.log(config.threshold), config.learnable_threshold, channels)
        learnable = config.learnable_decay if integrates else "none"
        logit = math.log(config.decay / (1 - config.decay)) if learnable != "none" else 0.0
        self.raw_decay = _parameter(logit, learnable, channels)

    @classmethod
    def check(cls, config: NeuronConfig) -> None:
        """Raise `OnespikeError` for a value that does not suit this kind of neuron."""

    def extra_repr(self) -> str:
        """The constants, which are not among the weights."""
        threshold = self.constant_threshold if self.raw_threshold is None else "learned"
        return f"threshold={threshold}, decay={self.constant_decay if self.raw_decay is None else 'learned'}"

    @property
    def threshold(self) -> float | Tensor:
        """The threshold: a Python number, which is exact in every dtype, or a learned tensor, () or (C, 1, 1)."""
        return self.constant_threshold if self.raw_threshold is None else self.raw_threshold.exp()

    @property
    def decay(self) -> float | Tensor:
        """The decay alpha, likewise."""
        return self.constant_decay if self.raw_decay is None else self.raw_decay.sigmoid()

    def fire(self, potential: Tensor) -> Tensor:
        """Map potentials to spikes of the same shape: S = 1 where V > threshold, else 0."""
        return step(potential, self.threshold, self.surrogate)

    def forward(self, potential: Tensor, *, spikes: Tensor | None = None) -> Tensor:
        """Map potentials (currents, if nothing is handed on) to spikes, or pass `spikes` on, for hooks to see.

        Raises:
            ValueError: A parameter is per channel, and the potentials have no such axis, or other channels.
        """
        return self.fire(potential) if spikes is None else spikes

    def fired(self, spikes: Tensor) -> Tensor:
        """1 where a neuron fired, with whichever sign, else 0."""
        return spikes.abs() if self.signed else spikes

    def fired_at(self, potential: Tensor, spikes: Tensor) -> Tensor:  # noqa: ARG002
        """The same, for the potential whose spikes these are: the gradient of a surrogate may need it."""
        return self.fired(spikes)

    def kept(self, potential: Tensor, spikes: Tensor) -> Tensor:
        """What a neuron keeps of its own potential until the next time step: V * (1 - S)."""
        return potential * (1 - self.fired_at(potential, spikes))

    def handed_on(self, potential: Tensor, spikes: Tensor | None = None) -> Tensor:
        """The potential that the next window receives: V after the reset by its spikes."""
        if self.reset == "none":
            return potential
        spikes = self.fire(potential) if spikes is None else spikes
        if self.reset == "zero":
            return potential * (1 - self.fired_at(potential, spikes))
        return potential - along_channels(self.threshold, potential) * spikes

    def leak(self, current: Tensor, arriving: Tensor) -> Tensor:
        """V = I + alpha * P, in one pass where alpha is a constant."""
        decay = along_channels(self.decay, current)
        return current + decay * arriving if isinstance(decay, Tensor) else torch.add(current, arriving, alpha=decay)

    def driven(self, currents: Tensor, before: State | None) -> Tensor:
        """What drives the neurons at a time step: I + alpha * V(t-1) * (1 - S(t-1))."""
        return currents if before is None else self.leak(currents, self.kept(before[0], before[1]))

    def charge(self, currents: Tensor, incoming: Incoming | None) -> tuple[Tensor, Tensor | None]:
        """Charge window after window: V[v] = I[v] + alpha * P[v].

        Returns the potentials, and the spikes where they had to fire to be reset.
        """
        if incoming is None:
            return currents, None
        if self._in_one_function():
            return charge(currents, self.constant_decay, **vars(incoming)), None
        expect_windows(currents, incoming.beside, incoming.behind)
        potentials: list[Tensor] = []
        spikes: list[Tensor] = []
        for window, current in enumerate(currents.unbind()):
            handed = self.handed_on(potentials[-1], spikes[-1] if spikes else None) if window else None
            arriving = incoming.arriving(window, handed)
            potentials.append(current if arriving is None else self.leak(current, arriving))
            if self.reset != "none":
                spikes.append(self.fire(potentials[-1]))
        return torch.stack(potentials), torch.stack(spikes) if spikes else None

    def charge_and_fire(self, currents: Tensor, incoming: Incoming | None = None, before: State | None = None) -> State:
        """Charge the windows, and fire: V(t) = alpha * P(t) + alpha * V(t-1) * (1 - S(t-1)) + I(t).

        Args:
            currents: I, the output of the weight layer, (V, B, C, M, M); of any shape where nothing is handed on.
            incoming: Which potentials are handed on, and where; None if none ever are.
            before: What this method returned at the previous time step; None at the first.
        """
        expect_incoming(incoming)
        potential, spikes = self.charge(self.driven(currents, before), incoming)
        return potential, self(potential) if spikes is None else self(potential, spikes=spikes)

    def over_time(self, currents: Tensor, carry: Carry | None = None) -> Tensor:
        """Run over time steps: currents (T, B, C) or (T, B, C, H, W) to spikes; a hook sees one step at a time.

        Potentials start at 0, or at the state in `carry`, which then receives their final state.

        Raises:
            ValueError: There is no time step, the state is that of another batch or layer, or `reset` is "subtract".
        """
        if self.reset == "subtract":
            raise ValueError("reset: over time firing sets a potential to 0: expected 'none' or 'zero', got 'subtract'")
        if currents.dim() < 2:
            raise ValueError(f"currents: expected (T, B, C) or (T, B, C, H, W), got {tuple(currents.shape)}")
        state, spikes = carry.before() if carry else None, []  # V(t) = alpha * V(t-1) * (1 - S(t-1)) + I(t)
        if state is not None:
            given = state if isinstance(state, list | tuple) else [state]
            found = [tuple(one.shape) if isinstance(one, Tensor) else one for one in given]
            if found != (expected := [tuple(currents.shape[1:])] * (1 + self.values_kept)):
                refused = f"expected tensors of the shapes {expected}, got {shown(repr(found))}"
                raise ValueError(f"state: {refused}; give what it returned for this batch")
        for current in currents.unbind():
            state = self.charge_and_fire(current, None, state)
            spikes.append(state[1])
        if carry:
            carry.after.append(state)
        return stacked(spikes)

    def _in_one_function(self) -> bool:
        """Whether `onespike.functional.charge` computes the same, and nothing traces the loop."""
        if self.reset != "none" or self.raw_decay is not None or is_traced():
            return False
        # What a subclass overrides counts: that function would pass it by.
        return all(getattr(type(self), name) is getattr(Neuron, name) for name in ("leak", "handed_on", "decay"))


def expect_surrogate(surrogate: str) -> None:
    """Raise an `OnespikeError` unless there is a surrogate of this name, which gives a finite number for a distance."""
    if surrogate not in SURROGATES:
        raise unregistered("surrogate", surrogate, SURROGATES)
    distances = torch.tensor([-1.0, 0.0, 1.0], device="cpu")  # networks are built on the meta device, too
    found = SURROGATES[surrogate](distances.clone())
    if not isinstance(found, Tensor) or found.shape != distances.shape or not found.isfinite().all():
        expected = "expected finite numbers of the shape of its distances"
        raise OnespikeError(f"surrogate {surrogate}: {expected} {distances.tolist()}, got {shown(repr(found))}")


def expect_incoming(incoming: Incoming | None) -> None:
    """Raise a ValueError unless it says which potentials are handed on, or is None."""
    if not isinstance(incoming, Incoming | None):
        expected = "expected an Incoming, such as Incoming(beside=x), or None"
        raise ValueError(f"incoming: {expected}, got a {type(incoming).__name__}")


def expect_config(config: NeuronConfig | None) -> NeuronConfig:
    """Return a config of neurons, the paper's for None; an `OnespikeError` for anything else, such as a name alone."""
    if not isinstance(config, NeuronConfig | None):
        expected = "expected a NeuronConfig, such as NeuronConfig('plif')"
        raise OnespikeError(f"config: {expected}, got {shown(repr(config))}")
    return config or NeuronConfig()


def along_channels(value: float | Tensor, like: Tensor) -> float | Tensor:
    """Shape a number, or a tensor () or (C, 1, 1), so that it broadcasts along the channels of potentials."""
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    if like.ndim in (0, 1, 3) or len(value) != like.shape[1 if like.ndim == 2 else -3]:
        expected = f"potentials (B, C), (B, C, H, W) or (V, B, C, M, M) of {len(value)} channels"
        raise ValueError(f"a threshold or decay for each channel: expected {expected}, got {tuple(like.shape)}")
    return value.flatten() if like.ndim == 2 else value


def step(potential: Tensor, threshold: float | Tensor, surrogate: Surrogate) -> Tensor:
    """S = 1 where V > threshold, else 0; the threshold is a number, () or (C, 1, 1)."""
    return spike(potential, along_channels(threshold, potential), surrogate)


def _parameter(value: float, learnable: str, channels: int) -> nn.Parameter | None:
    shape = {"none": None, "layer": (), "channel": (channels, 1, 1)}[learnable]
    return None if shape is None else nn.Parameter(torch.full(shape, value))
