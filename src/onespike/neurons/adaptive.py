"""Adaptive-threshold leaky integrate-and-fire neurons (after Bellec et al. 2018): firing makes firing harder."""

from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from onespike.errors import OnespikeError
from onespike.functional.charge import expect_windows
from onespike.neurons.base import Incoming, Neuron, NeuronConfig, State, expect_config, expect_incoming, step

_OPTIONS = {"adaptation": 0.2, "adaptation_decay": 0.8}


@final
class AdaptiveLIF(Neuron):
    """LIF neurons whose threshold rises after a spike and decays again. Shapes are `Neuron`'s, P is that of `LIF`.

        V = alpha * P + I          S = 1 where V > threshold + a, else 0
        a = rho * a' + beta * S'

    a' and S' come from the previous window, where potentials are handed on, and from the previous time step; if there
    are both, their contributions add up. a starts at 0. The options are `adaptation`, beta >= 0, and
    `adaptation_decay`, rho, 0..1: those of the config, unless given here; else 0.2 and 0.8. A hook sees V, not V - a.
    The reset "subtract" subtracts the threshold without its rise a.
    """

    values_kept = 2  # V and a

    def __init__(
        self,
        channels: int,
        config: NeuronConfig | None = None,
        integrates: bool = True,
        adaptation: float | None = None,
        adaptation_decay: float | None = None,
    ) -> None:
        config = expect_config(config)
        given = {"adaptation": adaptation, "adaptation_decay": adaptation_decay}
        options = _OPTIONS | config.options | {name: one for name, one in given.items() if one is not None}
        super().__init__(channels, replace(config, name="adaptive", options=options), integrates)  # which checks them
        self.adaptation, self.adaptation_decay = options["adaptation"], options["adaptation_decay"]

    def extra_repr(self) -> str:
        """The constants, which are not among the weights."""
        return f"{super().extra_repr()}, adaptation={self.adaptation}, adaptation_decay={self.adaptation_decay}"

    @classmethod
    def check(cls, config: NeuronConfig) -> None:
        """Refuse an adaptation out of its range."""
        for name, most in (("adaptation", "1e6"), ("adaptation_decay", "1")):
            if not 0 <= config.options.get(name, 0) <= float(most):
                raise OnespikeError(f"{name}: expected 0 <= {name} <= {most}, got {config.options[name]}")

    def fire(self, potential: Tensor, rise: Tensor | None = None) -> Tensor:
        """S = 1 where V - a > threshold, else 0; without `rise`, a is 0."""
        return step(potential if rise is None else potential - rise, self.threshold, self.surrogate)

    def forward(self, potential: Tensor, *, spikes: Tensor | None = None, rise: Tensor | None = None) -> Tensor:
        """Map potentials to spikes, or pass `spikes` on; a hook sees the rise a as well."""
        return self.fire(potential, rise) if spikes is None else spikes

    def charge_and_fire(self, currents: Tensor, incoming: Incoming | None = None, before: State | None = None) -> State:
        """Charge and fire window by window; returns V, S and a."""
        expect_incoming(incoming)
        currents = self.driven(currents, before)
        start = torch.zeros_like(currents) if before is None else self._risen(before[2], before[1])
        if incoming is None:
            return currents, self(currents) if before is None else self(currents, rise=start), start
        expect_windows(currents, incoming.beside, incoming.behind)
        windows: list[tuple[Tensor, Tensor, Tensor]] = []
        for window, (current, rise) in enumerate(zip(currents.unbind(), start.unbind(), strict=True)):
            handed = None
            if windows:
                potential, spikes, risen = windows[-1]
                handed, rise = self.handed_on(potential, spikes), rise + self._risen(risen, spikes)
            arriving = incoming.arriving(window, handed)
            potential = current if arriving is None else self.leak(current, arriving)
            windows.append((potential, self.fire(potential, rise), rise))
        potential, spikes, risen = map(torch.stack, zip(*windows, strict=True))
        return potential, self(potential, spikes=spikes, rise=risen), risen

    def _risen(self, rise: Tensor, spikes: Tensor) -> Tensor:
        return self.adaptation_decay * rise + self.adaptation * spikes
