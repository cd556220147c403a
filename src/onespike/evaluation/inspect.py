"""What a trained network makes of one image: windows, spikes and potentials of every block, and the answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onespike.data.augment import BatchAugment
from onespike.data.sources.image import decode, fit
from onespike.errors import OnespikeError
from onespike.functional import SURROGATES, window_side
from onespike.models import Block, Network
from onespike.neurons import Neuron
from onespike.training.monitor import SUPPORT
from onespike.training.run import Run

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, eq=False)
class LayerView:
    """What one layer of neurons did. The first axis of its tensors is time.

    Attributes:
        name: Where it is in its block, such as "unit.neuron1".
        potentials: Potentials at the moment of firing, (T, V, C, M, M); without V outside the windows.
        spikes: Zeros and ones, of the same shape.
        threshold: A scalar or (C, 1, 1).
        surrogate: Name of the surrogate.
    """

    name: str
    potentials: Tensor
    spikes: Tensor
    threshold: Tensor
    surrogate: str

    @property
    def distances(self) -> Tensor:
        """Potentials minus their threshold: those above 0 fire."""
        return self.potentials - self.threshold

    def to_json(self) -> dict[str, Any]:
        """The numbers."""
        potentials = self.potentials.double().numpy()
        supported = SURROGATES[self.surrogate](self.distances) > SUPPORT
        return {
            "name": self.name,
            "threshold": self.threshold.mean().item(),
            "firing_rate": self.spikes.mean().item(),
            "silent_neurons": (self.spikes.sum(0) == 0).float().mean().item(),
            "above_threshold": (self.distances > 0).float().mean().item(),
            "in_support": supported.float().mean().item(),
            "potential": {
                "mean": potentials.mean(),
                "std": potentials.std(),
                "quantiles": {str(q): float(np.quantile(potentials, q)) for q in QUANTILES},
            },
        }


@dataclass(frozen=True, eq=False)
class BlockView:
    """What one block did.

    Attributes:
        number: Position in the network, from 1.
        window_kind: "average" or "dilated".
        size: Side of its map.
        windows: Its four windows in the pixels of the image, as (left, top, right, bottom), right and bottom excluded.
        spike_map: The unit's output spikes as the next layer receives them (recomposed, region threshold applied), mean
            over channels and time steps, (L, L), 0..1.
        layers: Its layers of neurons, in the order in which they fire.
    """

    number: int
    window_kind: str
    size: int
    windows: tuple[tuple[int, int, int, int], ...]
    spike_map: Tensor
    layers: tuple[LayerView, ...]

    @property
    def unit_layers(self) -> tuple[LayerView, ...]:
        """The layers of neurons of the spiking unit alone."""
        return tuple(layer for layer in self.layers if layer.name.startswith("unit."))

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron of the unit, and time step."""
        return torch.cat([layer.spikes.flatten() for layer in self.unit_layers]).mean().item()

    def to_json(self) -> dict[str, Any]:
        """The numbers."""
        return {
            "block": self.number,
            "windows": self.window_kind,
            "map_side": self.size,
            "window_pixels": [dict(zip(("left", "top", "right", "bottom"), box, strict=True)) for box in self.windows],
            "firing_rate": self.firing_rate,
            "layers": [layer.to_json() for layer in self.layers],
        }


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a network makes of one image.

    Attributes:
        path: The image file.
        original: Width and height of the image in the file.
        pixels: The image as the network sees it, before normalisation, (H, W, C) uint8.
        classes: Class names.
        probabilities: Of each class, (K,).
        blocks: All blocks, in order.
        time_steps: Over so many time steps spikes and potentials are pooled.
        encoding: The network's encoding.
        seed: Seed of the draws of a Bernoulli encoding.
    """

    path: Path
    original: tuple[int, int]
    pixels: np.ndarray
    classes: tuple[str, ...]
    probabilities: Tensor
    blocks: tuple[BlockView, ...]
    time_steps: int
    encoding: str
    seed: int

    @property
    def note(self) -> str | None:
        """What was done to the image to make it fit, if anything."""
        side = self.pixels.shape[0]
        if self.original == (side, side):
            return None
        return f"resized from {self.original[0]}x{self.original[1]} to {side}x{side}, the centre kept"

    def guesses(self, count: int) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, the first one first."""
        best = self.probabilities.topk(min(count, len(self.classes)))
        return [(self.classes[i], p) for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def to_json(self) -> dict[str, Any]:
        """All that is drawn, as numbers."""
        return {
            "image": str(self.path),
            "original_size": list(self.original),
            "image_size": self.pixels.shape[0],
            "note": self.note,
            "time_steps": self.time_steps,
            "encoding": self.encoding,
            "seed": self.seed,
            "prediction": self.guesses(1)[0][0],
            "probabilities": dict(zip(self.classes, self.probabilities.tolist(), strict=True)),
            "blocks": [block.to_json() for block in self.blocks],
        }


def inspect_image(run: Run, path: Path, which: str = "best", seed: int = 0) -> Inspection:
    """Show one image to the network of a run and record what happens inside.

    Args:
        run: The run.
        path: The image file, in any format that Pillow reads; made to fit the network's size and channels.
        which: "best" or "last", the checkpoint; the other one if it is damaged.
        seed: Seed of the draws of a Bernoulli encoding.

    Returns:
        What happened.

    Raises:
        OnespikeError: The run or the image cannot be read, or the seed is out of its range.
    """
    if not 0 <= seed < 2**63:
        raise OnespikeError(f"seed: expected a whole number of 0 or more, below 2^63, got {seed}")
    checkpoint = run.checkpoint(which)
    card = checkpoint.card
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OnespikeError(f"cannot read the image {path}: {error.strerror}") from error
    whole = decode(content, str(path), card.in_channels)
    pixels = whole if whole.shape[:2] == (card.image_size, card.image_size) else fit(whole, card.image_size)
    config, network = card.blocks()
    network.eval()
    network.load_state_dict(checkpoint.weights)
    images = BatchAugment(card.mean, card.std)(torch.from_numpy(pixels.copy())[None])
    logits, blocks = _watch(network, images, torch.Generator().manual_seed(seed))
    if not logits.isfinite().all():
        raise OnespikeError(
            f"the network of {run.folder} answers with numbers that are not finite: its training failed"
        )
    return Inspection(
        path=path,
        original=(whole.shape[1], whole.shape[0]),
        pixels=pixels,
        classes=card.classes,
        probabilities=logits[0].softmax(0),
        blocks=blocks,
        time_steps=config.time_steps,
        encoding=config.encoding,
        seed=seed,
    )


@torch.no_grad()
def _watch(network: Network, image: Tensor, generator: torch.Generator) -> tuple[Tensor, tuple[BlockView, ...]]:
    """Run a network on one image (1, C, H, W), once, and keep what its neurons see and do."""
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
    received: dict[nn.Module, list[Tensor]] = {}

    def keep(layer: nn.Module, inputs: tuple[Tensor], spikes: Tensor) -> None:
        seen.setdefault(layer, []).append((inputs[0], spikes))

    def keep_input(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        received.setdefault(layer, []).append(inputs[0])

    for block in network.blocks():
        block.fc.register_forward_pre_hook(keep_input)
        for module in block.modules():
            if isinstance(module, Neuron):
                module.register_forward_hook(keep)
    logits = network(image, generator=generator)

    views = []
    for number, block in enumerate(network.blocks(), 1):
        layers = []
        for name, module in block.named_modules():
            if isinstance(module, Neuron):
                # Time becomes the first axis; the batch, of one image, goes.
                potentials, spikes = (torch.stack(tensors).squeeze(-4) for tensors in zip(*seen[module], strict=True))
                threshold = torch.as_tensor(module.threshold).detach()
                layers.append(LayerView(name, potentials, spikes, threshold, module.surrogate))
        spike_map = torch.stack(received[block.fc]).mean((0, 1, 2))
        windows = _window_pixels(block, network.image_size)
        views.append(BlockView(number, block.window_kind, block.size, windows, spike_map, tuple(layers)))
    return logits, tuple(views)


def _window_pixels(block: Block, image_size: int) -> tuple[tuple[int, int, int, int], ...]:
    """Find what the windows of a block cover of the image; an odd map is padded, and a window may reach into that."""
    side, scale = window_side(block.size, block.window_kind), image_size // block.size
    far = block.size + block.size % 2 - side
    corners = ((0, 0), (far, 0), (0, far), (far, far))
    edges = ((x, y, min(x + side, block.size), min(y + side, block.size)) for x, y in corners)
    return tuple((scale * left, scale * top, scale * right, scale * bottom) for left, top, right, bottom in edges)
