"""Potentials: what neurons hand on (values that must be written and read again), and how they are distributed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onespike.audit.arrivals import in_memory_order
from onespike.neurons import IntegrateFire, Neuron

#: Potentials looked at in each layer and batch, evenly spread; and the shares below which the quantiles lie.
_SAMPLE, QUANTILES = 4096, (0.05, 0.25, 0.5, 0.75, 0.95)
#: Of these, the most that are kept over all batches; above, every second one goes.
_KEPT = 2**20


def kept_over_time(neuron: nn.Module, currents: Tensor) -> int:
    """Count the potentials that a neuron of its own kind keeps: written at all steps but the last, then read again.

    Args:
        neuron: An integrate-and-fire neuron, whose time lies in the batch, or a leaky one, whose time comes first.
        currents: What came into it, over all time steps.

    Returns:
        The values written, and as often read.
    """
    steps = neuron.time_steps if isinstance(neuron, IntegrateFire) else len(currents)
    return currents.numel() // steps * (steps - 1)


@dataclass(frozen=True)
class Neurons:
    """A layer of neurons.

    Attributes:
        path: The module.
        firing_rate: Spikes per neuron, window and time step, 0..1; of a ReLU, the share that is not 0. The spikes of an
            image are this times its windows and time steps.
        threshold: The threshold; the mean, if each channel has its own.
        potentials: The potential below which 5, 25, 50, 75 and 95% of all potentials lie.
    """

    path: str
    firing_rate: float
    threshold: float
    potentials: tuple[float, ...]


class NeuronWatch:
    """Watches one layer of neurons over all batches."""

    def __init__(self) -> None:
        self._fired = self._values = 0
        self._samples: list[Tensor] = []
        self._seen = 0  # potentials looked at, of which every `_every`-th is kept
        self._every = 1
        self._threshold = 0.0

    def see(self, layer: Neuron, potential: Tensor, spikes: Tensor) -> None:
        """Look at a batch."""
        self._fired += int(spikes.count_nonzero())
        self._values += spikes.numel()
        flat = in_memory_order(potential)
        self._sample(flat[:: max(1, flat.numel() // _SAMPLE)].float().cpu())
        threshold = layer.threshold
        self._threshold = threshold.mean().item() if isinstance(threshold, Tensor) else threshold

    def _sample(self, values: Tensor) -> None:
        """Keep every `_every`-th value of all batches together; more rarely once there are too many."""
        kept = values[-self._seen % self._every :: self._every]
        self._samples.append(kept.clone())  # potentials may be changed in place, and lie in larger memory
        self._seen += len(values)
        if self._seen > _KEPT * self._every:
            self._samples = [torch.cat(self._samples)[::2]]
            self._every *= 2

    def conclude(self, path: str) -> Neurons:
        """Sum up."""
        quantiles = torch.cat(self._samples).quantile(torch.tensor(QUANTILES)).tolist()
        return Neurons(path, self._fired / max(self._values, 1), self._threshold, tuple(quantiles))
