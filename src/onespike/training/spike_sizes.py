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

#: Images of a probe. In each the neurons of a channel fire once, twice, as often as the square of its number, or here
#: and there. Means of squares are none, so that a mean over channels is not taken for a channel.
PROBES = 4
#: Its multiples, less what is whole in them, are no simple fractions of one another.
GOLDEN = (1 + 5**0.5) / 2


class _Source(NamedTuple):
    """Whose spikes a layer reads: in each channel the place of their size, and in how many parts means split one."""

    neurons: tuple[Any, ...]
    places: Tensor  # among the sizes of all these neurons, one after the other
    parts: Tensor  # 0 where none of their spikes arrive


class SpikeSizes:
    """The sizes of the spikes that convolutions and linear layers read, as they are at the time, with their gradient.

    One layer of neurons after the other fires a pattern, while all others are silent. What a layer reads then says
    whose spikes it reads, in which channel, and behind which means. In the end all fire at once, in odd sizes, and what
    a layer reads has to be whole spikes of these. No size is known for a layer that reads anything else, or is called
    several times.
    """

    def __init__(self, network: nn.Module, image: tuple[int, ...]) -> None:
        every = [one for one in network.modules() if isinstance(one, IntegrateFire | QCFS)]
        self._sources: dict[nn.Module, _Source] = {}
        if not every:
            return
        found: dict[nn.Module, _Source | None] = {
            layer: None if x is None or x.any() else _Source((), torch.zeros(1).long(), torch.zeros(1))
            for layer, x in _probe(network, image, every, {}).items()
        }
        for one in every:
            for layer, x in _probe(network, image, every, {one: 1.0}).items():
                so_far = found.get(layer)
                if so_far is not None and (x is None or x.any()):
                    found[layer] = None if x is None else _added(so_far, x, one)
        odd = {one: 1 + (number * GOLDEN) % 1 for number, one in enumerate(every, 1)}
        for layer, x in _probe(network, image, every, odd).items():
            source = found.get(layer)
            if source is not None and x is not None and source.parts.all():
                sizes = torch.cat([torch.full((one.size.numel(),), odd[one]) for one in source.neurons]).to(x)
                spikes = x[3] * (source.parts / sizes[source.places])[:, None]
                if torch.allclose(spikes, spikes.round(), atol=1e-3):
                    self._sources[layer] = source

    def known(self, layer: nn.Module) -> bool:
        """Whether the layer reads spikes of known sizes."""
        return layer in self._sources

    def proves(self, layer: nn.Module) -> bool:
        """Whether that alone says that it reads spikes: at one time step, and few enough of them in one value."""
        if not self.known(layer):
            return False
        neurons, _, parts = self._sources[layer]
        most = max(one.levels if isinstance(one, QCFS) else one.population for one in neurons)
        at_once = all(isinstance(one, QCFS) or one.time_steps == 1 for one in neurons)
        return at_once and most * int(parts.max()) <= LEVELS

    def of(self, layer: nn.Module) -> Tensor:
        """The size of a spike in each channel, in a shape that broadcasts to what the layer reads."""
        neurons, places, parts = self._sources[layer]
        sizes = torch.cat([one.size.view(-1) for one in neurons])[places] / parts
        return sizes.view(-1, *[1] * (-1 - channel_axis(layer)))


@torch.no_grad()
def _probe(
    network: nn.Module, image: tuple[int, ...], neurons: list[Any], sizes: dict[Any, float]
) -> dict[nn.Module, Tensor | None]:
    """What each layer reads while some neurons fire spikes of these sizes, (PROBES, C, …).

    It is None where a layer is called again, or by what are no images.
    """
    like, seen = next(network.parameters()), dict[nn.Module, Tensor | None]()

    def read(layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = (*inputs, *named.values())[0]
        axis = channel_axis(layer)
        whole = layer not in seen and x.ndim > -axis and len(x) % PROBES == 0
        seen[layer] = x.unflatten(0, (-1, PROBES)).movedim((1, axis), (0, 1)).flatten(2) if whole else None

    with aside(network), ExitStack() as stack:
        torch.manual_seed(0)
        for one in neurons:
            stack.callback(one.register_forward_hook(partial(_fire, sizes.get(one, 0.0))).remove)
        for layer in network.modules():
            if isinstance(layer, _ConvNd | nn.Linear):
                stack.callback(layer.register_forward_pre_hook(read, with_kwargs=True).remove)
        images = torch.randn((PROBES, *image), device=like.device, dtype=like.dtype)
        network(images.transpose(0, 1) if images.ndim == 5 else images)
    return seen


def _fire(size: float, neurons: Any, inputs: Any, out: Tensor) -> Tensor:  # noqa: ARG001
    """Put a pattern, or silence, in the place of what neurons answered, (T * PROBES, …)."""
    if not size or len(out) % PROBES:
        return torch.zeros_like(out)
    numbers = torch.arange(neurons.size.numel(), device=out.device, dtype=out.dtype) + 1
    numbers = spread(numbers, neurons.axis, out) if len(numbers) > 1 else numbers.view([1] * out.ndim)
    some = (torch.rand(out.shape) < 0.25).to(out)
    images = torch.arange(len(out), device=out.device) % PROBES
    patterns = torch.stack(torch.broadcast_tensors(torch.ones_like(out), 2 * torch.ones_like(out), numbers**2, some))
    return size * patterns[images, torch.arange(len(out), device=out.device)]


def _added(source: _Source, x: Tensor, neurons: Any) -> _Source | None:
    """Add neurons whose pattern a layer reads, as x, (PROBES, C, …); None if that is no pattern of whole spikes."""
    once, twice, numbered, some = x
    read, numbers = once.amax(1) > 0, numbered.amax(1).clamp(min=0).sqrt().round()
    parts = next((n for n in range(1, LEVELS + 1) if torch.allclose(some * n, (some * n).round(), atol=1e-3)), 0)
    same = torch.allclose(twice, 2 * once) and torch.allclose(numbered, numbers[:, None] ** 2 * once)
    alone = torch.allclose(once.amax(1), read.to(once)) and not (read & (source.parts.to(x) > 0)).any()
    if not (parts and same and alone):
        return None
    place = sum(one.size.numel() for one in source.neurons) - 1
    places = torch.where(read, place + numbers.long(), source.places.to(numbers.device))
    return _Source((*source.neurons, neurons), places, torch.where(read, parts, source.parts.to(numbers)))
