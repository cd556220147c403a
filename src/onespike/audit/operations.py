"""Operations: what a network does for one image, layer by layer, counted while it looks at real ones."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from onespike.audit.counter import ProductCounter
from onespike.audit.potentials import Neurons, NeuronWatch, kept_over_time
from onespike.audit.products import Product
from onespike.errors import OnespikeError
from onespike.models.patch import Merging
from onespike.neurons import IntegrateFire, Neuron, OverTime
from onespike.units import Traffic, Unit, UnitOutput


@dataclass(frozen=True)
class Layer:
    """What one module does for one image, the modules inside it left out.

    Attributes:
        path: Where the module is; empty for the model itself.
        type: Name of its class.
        products: Products, in the order in which they are first computed.
        elementwise: Work value by value, by kind: "add", "multiply", "compare", "special", "random".
        potentials: Potentials that are handed on, read and written.
        handing: Whether all of this is done to hand potentials on: charging and fusing them, merging their maps.
    """

    path: str
    type: str
    products: tuple[Product, ...]
    elementwise: dict[str, float]
    potentials: Traffic
    handing: bool

    @property
    def group(self) -> str:
        """The part of the network that it belongs to: the first name of its path, and the number behind it."""
        names = self.path.split(".")
        return ".".join(names[: 2 if len(names) > 1 and names[1].isdigit() else 1])


@dataclass(frozen=True)
class Operations:
    """What a network does for one image.

    Attributes:
        images: How many were looked at.
        layers: The modules that do something, in the order in which they first do.
        neurons: The layers of neurons, in that order.
        weights: Parameters of the model.
    """

    images: int
    layers: tuple[Layer, ...]
    neurons: tuple[Neurons, ...]
    weights: int

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """All products of all layers."""
        return tuple(product for layer in self.layers for product in layer.products)

    @property
    def macs(self) -> float:
        """Dense multiply-accumulates, as frameworks count them."""
        return sum(product.macs for product in self.products)

    def macs_of(self, kind: str) -> float:
        """Dense multiply-accumulates of the products at which "binary", "graded" or "real" values arrive."""
        return sum(product.macs for product in self.products if product.arrives == kind)

    @property
    def synaptic_operations(self) -> float:
        """Accumulates: one for each spike and weight that it meets."""
        return sum(product.operations for product in self.products if product.arrives != "real")

    @property
    def elementwise(self) -> dict[str, float]:
        """Element-wise work of the whole network, by kind."""
        total: dict[str, float] = defaultdict(float)
        for layer in self.layers:
            for kind, times in layer.elementwise.items():
                total[kind] += times
        return dict(total)

    @property
    def potentials(self) -> Traffic:
        """Potentials that are handed on in the whole network."""
        return Traffic(
            sum(layer.potentials.reads for layer in self.layers), sum(layer.potentials.writes for layer in self.layers)
        )

    @property
    def firing_rate(self) -> float | None:
        """Spikes per neuron, window and time step: mean over the layers of neurons; None where none are known."""
        return sum(layer.firing_rate for layer in self.neurons) / len(self.neurons) if self.neurons else None


@torch.no_grad()
def count_operations(
    model: nn.Module, batches: Iterable[Tensor], before: Callable[[int], object] | None = None
) -> Operations:
    """Count what a model does.

    Args:
        model: Any model of the framework. It runs in evaluation mode; one that was compiled runs as it was written.
        batches: Batches of inputs, (B, ...); real ones, since what arrives at a layer is judged by its values.
        before: Called with the number of each batch before it runs, to seed the draws of an encoding, say.

    Returns:
        The operations for one image, mean over all.

    Raises:
        OnespikeError: The model does something that cannot be counted, which is named; or there are no images.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    counter = ProductCounter(model)
    modes = [(module, module.training) for module in model.modules()]  # parts may be frozen, in a mode of their own
    neurons: dict[str, NeuronWatch] = defaultdict(NeuronWatch)
    traffic: dict[str, Counter[str]] = defaultdict(Counter)
    images = 0
    with ExitStack() as stack:
        stack.callback(_restore_modes, modes)
        model.eval()
        for path, module in model.named_modules():
            hook = _hook_for(path, module, neurons, traffic)
            if hook is not None:
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        for number, batch in enumerate(batches):
            if before is not None:
                before(number)
            with counter.watch():
                model(batch)
            images += len(batch)
    if not images:
        raise OnespikeError("there are no images to audit the network on: expected at least one")
    return Operations(
        images=images,
        layers=_layers(model, counter, traffic, images),
        neurons=tuple(watch.conclude(path) for path, watch in neurons.items()),
        weights=sum(parameter.numel() for parameter in model.parameters()),
    )


def _restore_modes(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        module.training = training


def _hook_for(
    path: str, module: nn.Module, neurons: dict[str, NeuronWatch], traffic: dict[str, Counter[str]]
) -> Callable[..., None] | None:
    """Make the hook that watches a layer of neurons, or a unit; None for other modules."""

    def watch_neurons(layer: Neuron, args: tuple[Tensor], _kwargs: dict[str, Any], spikes: Tensor) -> None:
        with _disable_current_modes():
            neurons[path].see(layer, args[0], spikes)

    def watch_unit(unit: Unit, args: tuple[Any, ...], kwargs: dict[str, Any], out: UnitOutput) -> None:
        given = dict(zip(("spikes", "potential", "memory"), args, strict=False)) | kwargs
        reads, writes = unit.potential_traffic(given.get("potential"), given.get("memory"), out)
        traffic[path] += Counter(reads=int(reads), writes=int(writes))

    def watch_time(neuron: nn.Module, args: tuple[Tensor], _kwargs: dict[str, Any], _spikes: Tensor) -> None:
        kept = kept_over_time(neuron, args[0])
        traffic[path] += Counter(reads=kept, writes=kept)

    if isinstance(module, Neuron):
        return watch_neurons
    if isinstance(module, OverTime | IntegrateFire):
        return watch_time
    return watch_unit if isinstance(module, Unit) else None


def _layers(
    model: nn.Module, counter: ProductCounter, traffic: dict[str, Counter[str]], images: int
) -> tuple[Layer, ...]:
    modules = dict(model.named_modules())
    handing = {path for path, module in modules.items() if isinstance(module, Unit)}
    handing |= {
        f"{path}.{inner}" if path else inner
        for path, module in modules.items()
        if isinstance(module, Merging)
        for inner, _ in module.named_modules()
        if inner.split(".")[0] == "potential"
    }
    products: dict[str, list[Product]] = defaultdict(list)
    for (path, *_), tally in counter.tallies.items():
        products[path].append(tally.conclude(images))
    order = {path: number for number, path in enumerate(modules)}
    found = sorted({*products, *counter.elementwise, *traffic}, key=order.__getitem__)
    return tuple(
        Layer(
            path=path,
            type=type(modules[path]).__name__,
            products=tuple(products[path]),
            elementwise={kind: times / images for kind, times in counter.elementwise[path].items()},
            potentials=Traffic(traffic[path]["reads"] / images, traffic[path]["writes"] / images),
            handing=path in handing,
        )
        for path in found
    )
