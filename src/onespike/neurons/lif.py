"""Leaky integrate-and-fire neurons, the paper's."""

from typing import final

import torch
from torch import Tensor

from onespike.functional import charge_and_fire
from onespike.neurons.base import Incoming, Neuron, State, expect_incoming


@final
class LIF(Neuron):
    """Leaky integrate-and-fire neurons. Arguments and shapes are `Neuron`'s.

        V = alpha * P + I          S = 1 where V > threshold, else 0

    P is the potential that the neurons receive: that of the previous window (`Incoming`) and, over time, their own,
    V(t-1) * (1 - S(t-1)).
    """

    def charge_and_fire(self, currents: Tensor, incoming: Incoming | None = None, before: State | None = None) -> State:
        """Charge and fire as every neuron does; in one autograd function where possible and gradients are enabled."""
        expect_incoming(incoming)
        trained = torch.is_grad_enabled() and self.raw_threshold is None and type(self) is LIF
        if incoming is None or not trained or not self._in_one_function():
            return super().charge_and_fire(currents, incoming, before)
        constants = self.constant_decay, self.constant_threshold, self.surrogate
        potential, spikes = charge_and_fire(self.driven(currents, before), *constants, **vars(incoming))
        return potential, self(potential, spikes=spikes)
