"""Watch the spikes of a network in training: which neurons fire, which never do, which can still learn."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from onespike.neurons.watch import Fired, neuron_layers, watch_neurons

#: Below this firing rate a layer of neurons counts as silent: no gradient worth the name passes through its spikes.
SILENT = 1e-3
#: A potential is inside the surrogate's support where the surrogate exceeds this share of its peak.
SUPPORT = 0.01


@dataclass(frozen=True)
class Activity:
    """Activity of a group of neurons, over the batches that were watched. All values are shares, 0..1."""

    firing_rate: float  # spikes per neuron, image and time step
    dead: float  # neurons that fired for no image
    always_firing: float  # neurons that fired for every image, at each time step
    in_support: float | None  # potentials where the surrogate's gradient is not negligible; None where none is known
    silent: bool  # whether a whole layer of the group fires less than once in a thousand
    layers: tuple[float, ...]  # firing rate of each of the group's layers of neurons


@dataclass
class _Counts:
    """Counts of one layer of neurons; if it is called on maps of several sizes it has neurons for each."""

    fired: dict[torch.Size, Tensor] = field(default_factory=dict)
    seen: dict[torch.Size, int] = field(default_factory=dict)
    supported: Tensor | int = 0
    potentials: int = 0

    @property
    def rates(self) -> Tensor:
        """Firing rate of each neuron."""
        return torch.cat([(spikes / self.seen[shape]).flatten() for shape, spikes in self.fired.items()])


class SpikeMonitor:
    """Counts spikes per neuron in any network, during the forward passes inside `watch()`.

    Args:
        network: The network to watch. Its method `neuron_groups`, if it has one, says which layers of neurons belong
            together: {label: layers}; otherwise each layer is a group of its own, its label the layer's path.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        each = {path: [neuron] for path, neuron in neuron_layers(network).items()}
        self._groups = getattr(network, "neuron_groups", lambda: each)()
        self.labels = tuple(self._groups)
        self._layers = [layer for layers in self._groups.values() for layer in layers]
        self.clear()

    def clear(self) -> None:
        """Forget all counts."""
        self._counts: dict[nn.Module, _Counts] = {}

    def state(self) -> list[dict[str, Any]]:
        """The counts of each layer, for a checkpoint; nothing if nothing was watched yet."""
        watched = [self._counts.get(layer, _Counts()) for layer in self._layers] if self._counts else []
        return [
            {
                "fired": [*counts.fired.values()],
                "seen": [*counts.seen.values()],
                "supported": int(counts.supported),
                "potentials": counts.potentials,
            }
            for counts in watched
        ]

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Restore what `state` returned; impossible counts are a ValueError."""
        self.clear()
        for layer, kept in zip(self._layers if state else (), state, strict=True):
            if kept["fired"]:
                device = next((one.device for one in self._network.parameters()), torch.device("cpu"))
                fired = {one.shape: one.to(device) for one in kept["fired"]}
                seen = {shape: int(count) for shape, count in zip(fired, kept["seen"], strict=True)}
                for shape, spikes in fired.items():
                    possible = (spikes >= 0) & (spikes <= seen[shape])
                    if spikes.dtype != torch.float32 or not spikes.numel() or not possible.all():
                        raise ValueError(f"expected how often each neuron fired in {seen[shape]} images")
                self._counts[layer] = _Counts(fired, seen, int(kept["supported"]), int(kept["potentials"]))

    def watch(self) -> AbstractContextManager[None]:
        """Count during the forward passes inside this context."""
        return watch_neurons(self._network, self._count, foreign_potentials=False)

    @torch.no_grad()
    def _count(self, call: Fired) -> None:
        if call.neuron not in self._layers:
            return
        counts, spikes = self._counts.setdefault(call.neuron, _Counts()), (call.spikes != 0).float()
        spikes = spikes.movedim(call.batch_axis, 0)  # (B, …), or (B, T, …) of several time steps
        fired = spikes.sum((0, 1) if call.batch_axis and call.steps > 1 else 0)  # how often each neuron fired
        counts.fired[fired.shape] = counts.fired.get(fired.shape, 0) + fired
        counts.seen[fired.shape] = counts.seen.get(fired.shape, 0) + len(spikes) * call.steps
        if call.surrogate is not None and (distance := call.distance) is not None:
            counts.supported = counts.supported + (call.surrogate.of_peak(distance) > SUPPORT).sum()
            counts.potentials += distance.numel()

    def summary(self) -> dict[str, Activity]:
        """Summarise each group, by its label; nothing if nothing was watched yet."""
        if not self._counts:
            return {}
        # A layer that no batch reached did not fire.
        device = next(fired.device for counts in self._counts.values() for fired in counts.fired.values())
        silent = _Counts({torch.Size([1]): torch.zeros(1, device=device)}, {torch.Size([1]): 1})
        return {
            label: self._group([self._counts.get(one, silent) for one in layers])
            for label, layers in self._groups.items()
        }

    def _group(self, layers: list[_Counts]) -> Activity:
        rates = [layer.rates for layer in layers]
        neurons, potentials = torch.cat(rates), sum(layer.potentials for layer in layers)
        means = tuple(rate.mean().item() for rate in rates)
        return Activity(
            firing_rate=neurons.mean().item(),
            dead=(neurons == 0).float().mean().item(),
            always_firing=(neurons == 1).float().mean().item(),
            in_support=float(sum(layer.supported for layer in layers)) / potentials if potentials else None,
            silent=any(rate < SILENT for rate in means),
            layers=means,
        )
