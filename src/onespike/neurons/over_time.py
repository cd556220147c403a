"""Neurons over time: the state that one pass leaves to the next, and steps put together."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from onespike.neurons.base import Neuron


class Carry:
    """The state of a network over time, during one pass: each layer with a state takes its own and leaves the next.

    Layers do so in the order in which a batch reaches them. `state` is what an earlier pass left in `after`; None
    starts anew. The modules themselves keep nothing.

    With `ends`, no pass follows: the final states do not matter, and layers need not compute them.
    """

    def __init__(self, state: Sequence[Any] | None = None, ends: bool = False) -> None:
        self._given, self.ends = state, ends
        self.after: list[Any] = []

    def before(self) -> Any:
        """The state of the next layer in the order; None at the start."""
        if self._given is None:
            return None
        if len(self.after) >= len(self._given):
            raise ValueError(f"state: of {len(self._given)} layers, this network has more; give what it returned")
        return self._given[len(self.after)]

    def rest(self) -> "Carry":
        """A `Carry` for the layers that are still to come."""
        return Carry(None if self._given is None else self._given[len(self.after) :], self.ends)


class OverTime(nn.Module):
    """Neurons over time as a module, so that a hook sees the currents and spikes of all time steps together."""

    carries = True

    def __init__(self, neuron: "Neuron") -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, currents: Tensor, carry: Carry | None = None) -> Tensor:
        """Map currents (T, B, C, …) to spikes of the same shape."""
        return self.neuron.over_time(currents, carry)


def stacked(steps: Sequence[Tensor]) -> Tensor:
    """Put steps (B, …) together, (T, B, …); unlike `torch.stack` it keeps their channels last."""
    if not steps:
        raise ValueError("time steps: expected one at least, (T, B, ...) with T > 0, got none")
    return torch.cat(tuple(steps)).unflatten(0, (len(steps), steps[0].shape[0]))  # len() is an int in a trace
