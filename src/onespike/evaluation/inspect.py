"""What a trained network does with one image: the spikes and potentials of its neurons, its windows, and the answer."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onespike.configs import convert
from onespike.data.augment import BatchAugment, are_as_given
from onespike.data.sources.image import decode, fit
from onespike.durable import path_of, read_whole
from onespike.errors import OnespikeError, warn
from onespike.evaluation.evaluate import expect_same_images
from onespike.evaluation.recordings import picture
from onespike.evaluation.views import Box, Inspection, LayerView, View
from onespike.functional import window_count, window_side
from onespike.models import Network
from onespike.neurons.watch import NO_LAYERS, Fired, aside, logits_of, watch_neurons
from onespike.tensors import expect_weights
from onespike.training.checkpoint import ModelCard
from onespike.training.layout import laid_out
from onespike.training.run import Run

#: Path, width and height in the file, and pixels of an image, as in `Inspection`.
_Shown = tuple[Path, tuple[int, int], np.ndarray]


def inspect_image(
    run: Run | str | Path, path: str | Path, which: str = "best", seed: int = 0, model: nn.Module | None = None
) -> Inspection:
    """Show one image to the network of a run and record what happens inside.

    Args:
        run: The run, or its folder.
        path: The image file (JPEG, PNG, WebP, BMP, GIF, PPM or TIFF, 8 bits a channel); it is made to
            fit the network's size and channels.
        which: "best" or "last", the checkpoint; the other one if it is damaged.
        seed: Seed of the draws of a Bernoulli encoding.
        model: As for `Run.model`, if the network is of a user's class.

    Raises:
        OnespikeError: The run or the image cannot be read, or the seed is out of its range.
    """
    run, path = Run.open(run), path_of(path, "file")
    checkpoint = run.checkpoint(which)
    return inspect_network(checkpoint.network(model), checkpoint.card, path, seed, f"the network of {run.folder}")


def inspect_sample(
    run: Run | str | Path,
    number: int,
    which: str = "best",
    seed: int = 0,
    model: nn.Module | None = None,
    data: Any = None,
) -> tuple[Inspection, np.ndarray]:
    """Show a test sample, counted from 0, to the network of a run; what is not said here is as for `inspect_image`.

    `data` are the images, as for `Run.dataset`; those of the run if None.

    Returns the inspection, and the raw sample, (H, W, C), or frames of events (H, W, T, C), uint8.
    """
    run = Run.open(run)
    checkpoint, dataset = run.checkpoint(which), run.dataset(data)
    expect_same_images(dataset, checkpoint.card)
    if not 0 <= (number := convert(number, int, "sample")) < len(dataset.test):
        raise OnespikeError(f"sample: expected 0 to {len(dataset.test) - 1} of {dataset.name}, got {number}")
    image, label = dataset.test[number]
    raw = np.array(image)
    if raw.dtype != np.uint8:
        raise OnespikeError(f"sample: {dataset.name} gives floats, which are no picture; expected raw images")
    name, path = f"the network of {run.folder}", Path(f"{dataset.name}-{number}")
    pixels = picture(raw)
    shown = path, (len(pixels), len(pixels)), pixels
    view = _inspect(checkpoint.network(model), checkpoint.card, raw, shown, seed, name)
    return replace(view, label=view.classes[label]), raw


def inspect_network(
    network: nn.Module, card: ModelCard, path: Path, seed: int = 0, name: str = "the network"
) -> Inspection:
    """Show one image to any network on the CPU, see `inspect_image`; errors call it `name`."""
    try:
        content = read_whole(path)
    except OSError as error:
        raise OnespikeError(f"cannot read the image {path}: {error.strerror}") from error
    if card.in_channels not in (1, 3):
        state = f"{path}: {name} takes {card.in_channels} channels; a picture has 1 or 3"
        raise OnespikeError(f"{state}; pass --sample NUMBER, or call inspect_sample, for a sample of its data")
    whole = decode(content, str(path), card.in_channels)
    if are_as_given(card.mean, card.std):
        warn(f"{path} has bytes, taken as 0 to 1; {name} knows floats that their owner normalised")
    pixels = whole if whole.shape[:2] == (card.image_size, card.image_size) else fit(whole, card.image_size)
    return _inspect(network, card, pixels.copy(), (path, (whole.shape[1], whole.shape[0]), pixels), seed, name)


def _inspect(network: nn.Module, card: ModelCard, raw: np.ndarray, shown: _Shown, seed: int, name: str) -> Inspection:
    """Show a raw image or frames."""
    if (seed := convert(seed, int, "seed")) < 0:
        raise OnespikeError(f"seed: expected a whole number of 0 or more, below 2^63, got {seed}")
    expect_weights(network)
    images = BatchAugment(card.mean, card.std)(torch.from_numpy(raw)[None])
    logits, blocks = _watch(laid_out(network, images), images, seed, len(card.classes))
    if not blocks:
        warn(f"inspect: {NO_LAYERS}: none is shown")
    if not logits.isfinite().all():
        raise OnespikeError(f"{name} answers with numbers that are not finite: its training failed")
    probabilities = logits.softmax(0)
    steps = max((len(layer.spikes) for block in blocks for layer in block.layers), default=1)
    encoding = getattr(card.model, "encoding", "") if card.draws else ""
    return Inspection(*shown, card.classes, probabilities, blocks, steps, encoding, seed)


@torch.no_grad()
def _watch(network: nn.Module, image: Tensor, seed: int, classes: int) -> tuple[Tensor, tuple[View, ...]]:
    """Run a network on one image (1, C, H, W), once; returns its logits (K,) and the activity of its neurons."""
    seen: dict[str, list[Fired]] = defaultdict(list)
    received: dict[nn.Module, list[Tensor]] = defaultdict(list)
    blocks, spiking = [], True
    if isinstance(network, Network):
        blocks, spiking = network.blocks(), network.config.neuron.neuron.spiking
    with ExitStack() as stack:
        for block in blocks:
            hook = block.fc.register_forward_pre_hook(lambda fc, inputs: received[fc].append(inputs[0]))
            stack.callback(hook.remove)
        stack.enter_context(watch_neurons(network, lambda call: seen[call.path].append(call)))
        stack.enter_context(aside(network))
        torch.manual_seed(seed)
        logits = logits_of(network, image, classes)
    paths = {module: path for path, module in network.named_modules()}
    views = []
    for number, block in enumerate(blocks, 1):
        inside = {name: f"{paths[block]}.{name}" for name, _ in block.named_modules()}
        layers = tuple(layer for name, path in inside.items() for layer in _layers(name, seen.get(path, [])))
        spikes = torch.stack(received[block.fc])
        spike_map = (spikes.abs() if spiking else spikes.ne(0).float()).mean((0, 1, 2))
        windows = _window_pixels(block.size, block.window_kind, image.shape[-1])
        views.append(View(number, f"block {number}", spike_map, layers, block.window_kind, windows))
    if not blocks:
        found = [layer for path, calls in seen.items() for layer in _layers(path, calls)]
        for number, layer in enumerate(found, 1):
            rates = layer.spikes.abs().mean(0)
            spike_map = rates.flatten(0, -3).mean(0) if rates.ndim > 2 else rates.view(-1, rates.shape[-1])
            views.append(View(number, layer.name, spike_map, (layer,)))
    return logits.view(-1, logits.shape[-1]).mean(0), tuple(views)


def _layers(name: str, calls: list[Fired]) -> Iterator[LayerView]:
    """Join the calls of a layer of neurons; used on maps of several sizes, it has a view, and a name, for each."""
    sizes: dict[tuple[int, ...], list[Fired]] = defaultdict(list)
    for call in calls:
        sizes[call.spikes.shape[call.batch_axis + 1 :]].append(call)
    for size, some in sizes.items():
        first, is_spiking = some[0], getattr(some[0].neuron, "spiking", True)
        yield LayerView(
            name if len(sizes) == 1 else f"{name}, {'x'.join(map(str, size))}",
            _known_over_time(some, [call.potential for call in some]),
            _known_over_time(some, [call.distance for call in some]),
            # Spikes of another package may have a size of their own.
            _over_time(some, [call.spikes.sign() if is_spiking else call.spikes.ne(0).float() for call in some]),
            None if first.threshold is None else torch.as_tensor(first.threshold).float().mean().item(),
            first.surrogate,
        )


def _over_time(calls: list[Fired], values: list[Any]) -> Tensor:
    """Join a tensor of each call along time, (T, ...); the batch axis, of one image, is dropped."""
    steps = []
    for call, x in zip(calls, values, strict=True):
        steps.append(x.squeeze(call.batch_axis) if call.steps > 1 else x.movedim(call.batch_axis, 0))
    return torch.cat(steps)


def _known_over_time(calls: list[Fired], values: list[Tensor | None]) -> Tensor | None:
    """Likewise; None if a call's tensor is unknown, or is not finite, as potentials may be where spikes are."""
    return _over_time(calls, values) if all(x is not None and x.isfinite().all() for x in values) else None


def _window_pixels(size: int, kind: str, image_size: int) -> tuple[Box, ...]:
    """Find the pixels of the image that each window covers; the padding of an odd map is left out."""
    side, scale = window_side(size, kind), image_size // size
    far = size + size % 2 - side
    corners = ((0, 0), (far, 0), (0, far), (far, far))[: window_count(kind)]
    edges = ((x, y, min(x + side, size), min(y + side, size)) for x, y in corners)
    return tuple((scale * left, scale * top, scale * right, scale * bottom) for left, top, right, bottom in edges)
