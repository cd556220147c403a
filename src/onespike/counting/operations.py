"""Operations of a network for one image, layer by layer, counted on real images."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from onespike.counting.counter import ProductCounter
from onespike.counting.origins import memory
from onespike.counting.products import Product
from onespike.counting.watching import Neurons, Watch
from onespike.errors import OnespikeError
from onespike.models.patch import Merging
from onespike.neurons.watch import aside, ask, resetter
from onespike.tensors import expect_weights
from onespike.units import Traffic, Unit


@dataclass(frozen=True)
class Layer:
    """Operations of one module for one image, without those of the modules inside it.

    Attributes:
        path: Where the module is; empty for the model itself.
        type: Name of its class.
        products: Products, in the order in which they are first computed.
        elementwise: Element-wise work, by kind: "add", "multiply", "compare", "special", "random".
        potentials: Potentials that are handed on, read and written.
        handing: Whether its element-wise work is done to hand potentials on: charging and fusing them.
        merging: Whether all that it does merges maps of potentials, products included.
    """

    path: str
    type: str
    products: tuple[Product, ...]
    elementwise: dict[str, float]
    potentials: Traffic
    handing: bool
    merging: bool = False

    @property
    def group(self) -> str:
        """The part of the network that it belongs to: the first name of its path, and the number behind it."""
        names = self.path.split(".")
        return ".".join(names[: 2 if len(names) > 1 and names[1].isdigit() else 1])


@dataclass(frozen=True)
class Operations:
    """Operations of a network for one image.

    Attributes:
        images: Number of images that were counted on.
        layers: The modules that compute something, in the network's order.
        neurons: The layers of neurons, in that order.
        weights: Parameters of the model, or the weights of its products if these are more, as buffers may be.
        steps: Time steps for one image, of a network over time.
    """

    images: int
    layers: tuple[Layer, ...] = field(repr=False)
    neurons: tuple[Neurons, ...] = field(repr=False)
    weights: int
    steps: int = 1

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """All products of all layers."""
        return tuple(product for layer in self.layers for product in layer.products)

    @property
    def macs(self) -> float:
        """Dense multiply-accumulates, as frameworks count them."""
        return sum(product.macs for product in self.products)

    def macs_of(self, kind: str) -> float:
        """Dense multiply-accumulates of the products whose inputs are "binary", "signed", "graded" or "real"."""
        return sum(product.macs for product in self.products if product.arrives == kind)

    @property
    def synaptic_operations(self) -> float:
        """Accumulates: one for each spike and weight that it meets."""
        return sum(product.operations for product in self.products if product.arrives != "real")

    @property
    def elementwise(self) -> dict[str, float]:
        """Element-wise work of the whole network, by kind."""
        kinds = dict.fromkeys(kind for layer in self.layers for kind in layer.elementwise)
        return {kind: sum(layer.elementwise.get(kind, 0) for layer in self.layers) for kind in kinds}

    @property
    def potentials(self) -> Traffic:
        """Potentials that are handed on in the whole network."""
        return Traffic(*(sum(layer.potentials[side] for layer in self.layers) for side in (0, 1)))

    @property
    def firing_rate(self) -> float | None:
        """Spikes per neuron, window and time step: mean over the layers of neurons; None where none are known."""
        return sum(layer.firing_rate for layer in self.neurons) / len(self.neurons) if self.neurons else None


@torch.no_grad()
def count_operations(
    model: nn.Module,
    batches: Iterable[Tensor],
    before: Callable[[int], object] | None = None,
    batch_axis: int | None = None,
) -> Operations:
    """Count the operations of a model for one image, the mean over all images.

    Args:
        model: Any PyTorch model. It runs in evaluation mode, and uncompiled if it was compiled. Neurons of other
            packages are reset before each batch.
        batches: Batches of inputs, (B, ...) or frames (T, B, C, H, W); real ones, since the kind of a layer's inputs is
            judged by their values.
        before: Called with the number of each batch before it runs, to seed the draws of an encoding, say.
        batch_axis: The axis of the images in a batch; None finds it from the output, by the first side of logits (B,
            K).

    Raises:
        OnespikeError: The model does something that cannot be counted, which is named; or there are no batches.
    """
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        kind = type(batches).__name__
        raise OnespikeError(f"batches: expected tensors (B, ...), one after the other, such as [images], got a {kind}")
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    expect_weights(model)
    counter, watch = ProductCounter(model), Watch()
    reset, images, seen = resetter(model), 0, 0
    with aside(model), watch.watch(model):
        for number, batch in enumerate(batches):
            reset()
            if before is not None:
                before(number)
            answer = _answer(model, batch, counter)
            found, frames = _images_in(model, batch, answer, batch_axis)
            images, seen = images + found, seen + 1
            calls = (tally.calls for tally in counter.tallies.values() if tally.weights)
            watch.end_batch(frames, max(calls, default=0) // seen)
    if not images:
        raise OnespikeError("there are no images to audit the network on: expected at least one")
    layers = tuple(_layers(model, counter, watch, images, seen))
    neurons = tuple(tally.conclude(path) for path, tally in watch.neurons.items())
    sizes = {memory(one): one.numel() for one in (*model.buffers(), *model.parameters())}
    read = {which[0] for _, _, which, _ in counter.tallies if isinstance(which, tuple)}  # whole, or in parts
    weights = max(sum(one.numel() for one in model.parameters()), sum(sizes.get(place, 0) for place in read))
    return Operations(images, layers, neurons, weights, watch.steps)


def _answer(model: nn.Module, batch: Any, counter: ProductCounter) -> Any:
    """Count one batch, whatever a user passed as such; returns the model's output."""
    got = f"batches: expected tensors (B, ...), got a {type(batch).__name__}"
    if type(batch) in (tuple, list):
        raise OnespikeError(f"{got}; of a loader pass (images for images, _ in loader)")
    with counter.watch():
        answer = ask(model, batch)
    if not isinstance(batch, Tensor) or not batch.ndim:
        raise OnespikeError(got)
    if batch.is_floating_point() and not batch.isfinite().all():
        raise OnespikeError("batches: expected finite images, got some values that are not")
    if isinstance(answer, Tensor) and not answer.isfinite().all():
        raise OnespikeError("the network answers with numbers that are not finite: its training failed")
    return answer


def _images_in(model: nn.Module, batch: Tensor, answer: Any, axis: int | None) -> tuple[int, int]:
    """How many images a batch holds, and how many frames over time of each."""
    of_volumes = any(isinstance(module, nn.Conv3d | nn.ConvTranspose3d) for module in model.modules())
    if axis is None:
        axis = int(batch.ndim == 5 and not of_volumes)
        is_logits = isinstance(answer, Tensor) and answer.ndim == 2 and len(answer) in batch.shape[:2]
        if is_logits and len(answer) != batch.shape[axis]:
            axis = 1 - axis  # logits are (B, K), whether time comes first in the batch or not
    elif not -batch.ndim <= axis < batch.ndim:
        raise OnespikeError(f"batch_axis: expected an axis of {tuple(batch.shape)}, got {axis}")
    images = batch.shape[axis]
    if batch.ndim == 5 and axis % 5 == 1 and not of_volumes:
        return images, len(batch)
    over_time = axis % batch.ndim == 0 and isinstance(answer, Tensor) and answer.ndim == 3  # (T, B, K)
    return images, len(answer) if over_time and answer.shape[1] == images else 1


def _layers(model: nn.Module, counter: ProductCounter, watch: Watch, images: int, batches: int) -> list[Layer]:
    products, traffic = defaultdict[str, list[Product]](list), watch.traffic
    merging = set[nn.Module]()
    for (path, *_), tally in counter.tallies.items():
        products[path].append(tally.conclude(images, batches, watch.steps))
    for module in model.modules():
        if isinstance(module, Merging) and module.potential is not None:
            merging.update(module.potential.modules())
    layers = []
    for path, module in model.named_modules():
        if path in products or path in counter.elementwise or path in traffic:
            elementwise = {kind: times / images for kind, times in counter.elementwise[path].items()}
            potentials = Traffic(traffic[path]["reads"] / images, traffic[path]["writes"] / images)
            done = path, type(module).__name__, tuple(products[path])
            layers.append(Layer(*done, elementwise, potentials, isinstance(module, Unit), module in merging))
    return layers
