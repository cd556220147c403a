"""Watching the spikes of a network while it trains: who fires, who never does, who can still learn."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onespike.functional import SURROGATES
from onespike.neurons import Neuron

#: Below this firing rate a layer of neurons counts as silent: no gradient worth the name passes through its spikes.
SILENT = 1e-3
#: A potential is inside the surrogate's support where the surrogate exceeds this share of its peak.
SUPPORT = 0.01


@dataclass(frozen=True)
class BlockActivity:
    """What the neurons of one block did, over the batches that were watched. All values are shares, 0..1.

    Attributes:
        firing_rate: Spikes per neuron and image.
        dead: Neurons that fired for no image.
        always_firing: Neurons that fired for every image.
        in_support: Potentials at which the surrogate's gradient is not negligible.
        silent: Whether a whole layer of the block fires less than once in a thousand.
        layers: Neuron rate of each of the block's layers of neurons.
    """

    firing_rate: float
    dead: float
    always_firing: float
    in_support: float
    silent: bool
    layers: tuple[float, ...]


class SpikeMonitor:
    """Counts spikes per neuron in the units of a network. Costs nothing outside `watch()`.

    Args:
        network: The network to watch. In a converted one each layer of neurons counts as a block; an artificial one has
            none.
    """

    def __init__(self, network: nn.Module) -> None:
        groups: Callable[[], dict[str, list[nn.Module]]] | None = getattr(network, "neuron_groups", None)
        alone = [[module] for module in network.modules() if isinstance(module, Neuron)]
        self._layers: list[list[Any]] = list(groups().values()) if groups is not None else alone
        self.clear()

    @property
    def blocks(self) -> int:
        """Number of blocks that are watched."""
        return len(self._layers)

    def clear(self) -> None:
        """Forget all counts."""
        self._spikes: dict[nn.Module, Tensor] = {}
        self._images: dict[nn.Module, int] = defaultdict(int)
        self._supported: dict[nn.Module, Tensor] = {}
        self._potentials: dict[nn.Module, int] = defaultdict(int)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count during the forward passes inside this context."""
        handles = [layer.register_forward_hook(self._count) for layers in self._layers for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def _count(self, layer: Neuron, inputs: tuple[Tensor], spikes: Tensor) -> None:
        (potential,) = inputs
        fired = spikes.float().sum(1)  # (V, C, M, M): how many images of the batch each neuron fired for
        inside = (SURROGATES[layer.surrogate](potential.float() - layer.threshold) > SUPPORT).sum()
        self._spikes[layer] = self._spikes[layer] + fired if layer in self._spikes else fired
        self._supported[layer] = self._supported[layer] + inside if layer in self._supported else inside
        self._images[layer] += spikes.shape[1]
        self._potentials[layer] += potential.numel()

    def summary(self) -> list[BlockActivity]:
        """Summarise what was counted.

        Returns:
            One entry for each block, in order; empty if nothing was watched yet.
        """
        if not self._spikes:
            return []
        return [self._block(layers) for layers in self._layers]

    def _block(self, layers: list[Neuron]) -> BlockActivity:
        rates = [self._spikes[layer] / self._images[layer] for layer in layers]
        neurons = torch.cat([rate.flatten() for rate in rates])
        return BlockActivity(
            firing_rate=neurons.mean().item(),
            dead=(neurons == 0).float().mean().item(),
            always_firing=(neurons == 1).float().mean().item(),
            in_support=sum(self._supported[layer].item() for layer in layers)
            / sum(self._potentials[layer] for layer in layers),
            silent=any(rate.mean().item() < SILENT for rate in rates),
            layers=tuple(rate.mean().item() for rate in rates),
        )
