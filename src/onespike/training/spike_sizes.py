"""The size of the spikes that a layer reads, where training changes it: in converted networks, and behind a QCFS."""

from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from onespike.conversion.kinds import channel_axis
from onespike.counting.arrivals import LEVELS
from onespike.neurons.integrate_fire import QCFS, IntegrateFire, spread
from onespike.neurons.watch import aside

#: Images of a probe. In each the neurons of a channel fire once, twice, as often as its number says, or here and there.
PROBES = 4


class _Source(NamedTuple):
    """Where each channel's spikes come from: the place of their size among all sizes, and its share in one value."""

    places: Tensor
    share: Tensor
    levels: int  # most spikes in one value


class SpikeSizes:
    """The sizes of the spikes that convolutions and linear layers read, as they are at the time, with their gradient.

    One layer of neurons after the other fires a pattern, while all others are silent. What a layer reads then tells
    whose spikes it reads, in which channel, and behind which means; whatever the weights are. There is no size where
    it reads anything else, spikes of several neurons added up, or the spikes of several calls.
    """

    def __init__(self, network: nn.Module, image: tuple[int, ...]) -> None:
        self._neurons = [one for one in network.modules() if isinstance(one, IntegrateFire | QCFS)]
        self._sources: dict[nn.Module, _Source] = {}
        if not self._neurons:
            return
        silent = _probe(network, image, self._neurons, None)
        found: dict[nn.Module, list[_Source | None]] = {
            layer: [None] if len(calls) > 1 or calls[0].any() else [] for layer, calls in silent.items()
        }
        place = 0
        for one in self._neurons:
            for layer, calls in _probe(network, image, self._neurons, one).items():
                if calls[0].any():
                    found[layer].append(_source(calls[0], one, place))
            place += one.size.numel()
        for layer, sources in found.items():
            there = [one for one in sources if one is not None]
            if there and len(there) == len(sources):
                read = torch.stack([one.share > 0 for one in there])
                if (read.sum(0) == 1).all():
                    places, share = (sum(getattr(one, key) for one in there) for key in ("places", "share"))
                    self._sources[layer] = _Source(places, share, max(one.levels for one in there))

    def known(self, layer: nn.Module) -> bool:
        """Whether the layer reads spikes of known sizes."""
        return layer in self._sources

    def proves(self, layer: nn.Module) -> bool:
        """Whether that alone says that it reads spikes: at one time step, and few enough of them in one value."""
        steps = max((getattr(one, "time_steps", 1) for one in self._neurons), default=1)
        return steps == 1 and self.known(layer) and self._sources[layer].levels <= LEVELS

    def of(self, layer: nn.Module) -> Tensor:
        """The size of a spike in each channel, in a shape that broadcasts to what the layer reads."""
        places, share, _ = self._sources[layer]
        sizes = torch.cat([one.size.view(-1) for one in self._neurons])[places] * share
        return sizes.view(-1, *[1] * (-1 - channel_axis(layer)))  # type: ignore[arg-type]


@torch.no_grad()
def _probe(
    network: nn.Module, image: tuple[int, ...], neurons: list[Any], firing: nn.Module | None
) -> dict[nn.Module, list[Tensor]]:
    """What each layer reads while one layer of neurons fires, (PROBES, C, …), call by call."""
    like, seen = next(network.parameters()), dict[nn.Module, list[Tensor]]()

    def read(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = (*inputs, *named.values())[0]
        x = x.unflatten(0, (-1, PROBES)) if len(x) % PROBES == 0 else torch.full_like(x, torch.nan)[None]
        seen.setdefault(layer, []).append(x.movedim(channel_axis(layer), 0).movedim(2, 0).flatten(2))

    with aside(network), ExitStack() as stack:
        torch.manual_seed(0)
        for one in neurons:
            stack.callback(one.register_forward_hook(partial(_fire, one is firing)).remove)
        for layer in network.modules():
            if isinstance(layer, _ConvNd | nn.Linear):
                stack.callback(layer.register_forward_pre_hook(read, with_kwargs=True).remove)
        images = torch.zeros((PROBES, *image), device=like.device, dtype=like.dtype)
        network(images.transpose(0, 1) if images.ndim == 5 else images)
    return seen


def _fire(fires: bool, neurons: Any, inputs: Any, out: Tensor) -> Tensor:  # noqa: ARG001
    """Put a pattern, or silence, in the place of what neurons answered, (T * PROBES, …)."""
    if not fires or len(out) % PROBES:
        return torch.zeros_like(out)
    numbers = torch.arange(neurons.size.numel(), device=out.device, dtype=out.dtype) + 1
    numbers = spread(numbers, neurons.axis, out) if len(numbers) > 1 else numbers.view([1] * out.ndim)
    some = (torch.rand(out.shape) < 0.25).to(out)
    images = torch.arange(len(out), device=out.device) % PROBES
    patterns = torch.stack(torch.broadcast_tensors(torch.ones_like(out), 2 * torch.ones_like(out), numbers, some))
    return patterns[images, torch.arange(len(out), device=out.device)]


def _source(x: Tensor, neurons: Any, place: int) -> _Source | None:
    """Describe a layer that reads x, (PROBES, C, …), of a probe; None if these are no multiples of spikes."""
    once, twice, numbered, _ = x.amax(2)
    read = once > 0
    numbers = (numbered / once.where(read, 1)).round()
    few = (x[3] / once.where(read, 1)[:, None])[x[3] > 0]
    whole = torch.isclose(twice, 2 * once) & torch.isclose(numbered, numbers * once) & (numbers <= neurons.size.numel())
    if not (whole & (read == (numbers >= 1))).all() or not few.numel() or (x < 0).any():
        return None
    part = few.min()
    levels = round(1 / part.item()) * getattr(neurons, "levels", getattr(neurons, "population", 1))
    return _Source(torch.where(read, place + numbers.long() - 1, 0), part * once, levels)
