"""What is seen of a network with one image: by layer of neurons, by block, and the answer."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onespike.functional import Surrogate
from onespike.training.monitor import SUPPORT

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
#: Left, top, right, bottom in pixels; right and bottom excluded.
Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class LayerView:
    """Activity of one layer of neurons; None stands for what is not known. The first axis of its tensors is time.

    Attributes:
        name: Where it is in its block, such as "unit.neuron1", or in the network; with the
            size, ", 4x8x8", if there are several.
        potentials: Potentials at the moment of firing, (T, V, C, M, M); without V outside the windows, without M where
            there is no map.
        distances: How far the potentials are beyond the threshold, of the same shape: those above 0 fire.
        spikes: Zeros and ones, of the same shape; of a ternary neuron -1, 0 and 1; of a ReLU, 1 where it is not 0.
        threshold: Their threshold; the mean, if each channel has its own.
        surrogate: The surrogate derivative.
    """

    name: str
    potentials: Tensor | None = field(repr=False)
    distances: Tensor | None = field(repr=False)
    spikes: Tensor = field(repr=False)
    threshold: float | None
    surrogate: Surrogate | None

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron and time step."""
        return self.spikes.abs().mean().item()

    def to_json(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        distances, surrogate = self.distances, self.surrogate
        inside = None if distances is None or surrogate is None else surrogate.of_peak(distances) > SUPPORT
        potential = None
        if self.potentials is not None:
            potentials = self.potentials.double().numpy()
            quantiles = {str(q): float(np.quantile(potentials, q)) for q in QUANTILES}
            potential = {"mean": potentials.mean(), "std": potentials.std(), "quantiles": quantiles}
        return {
            "name": self.name,
            "threshold": self.threshold,
            "firing_rate": self.firing_rate,
            "silent_neurons": (self.spikes.abs().sum(0) == 0).float().mean().item(),
            "above_threshold": None if distances is None else (distances > 0).float().mean().item(),
            "in_support": None if inside is None else inside.float().mean().item(),
            "potential": potential,
        }


@dataclass(frozen=True, eq=False)
class View:
    """Activity of one block; in a network without blocks, of one layer of neurons.

    Attributes:
        number: Position in the network, from 1.
        name: What it is called: "block 1", or where the layer of neurons is; likewise.
        spike_map: Mean over channels and time steps, (L, L), 0..1. Of a block: the unit's output spikes as the next
            layer receives them (recomposed, region threshold applied). Of neurons that have no map, (1, C) or (N, C).
        layers: Its layers of neurons, in the order in which they are registered.
        window_kind: "average", "dilated" or "whole"; empty where there are no blocks.
        windows: Its windows in the pixels of the image, one if "whole"; empty where there are no blocks.
    """

    number: int
    name: str
    spike_map: Tensor = field(repr=False)
    layers: tuple[LayerView, ...] = field(repr=False)
    window_kind: str = ""
    windows: tuple[Box, ...] = ()

    @property
    def unit_layers(self) -> tuple[LayerView, ...]:
        """The layers of neurons of the spiking unit alone; where there is no unit, all."""
        return tuple(layer for layer in self.layers if layer.name.startswith("unit.")) or self.layers

    @property
    def firing_rate(self) -> float:
        """Spikes per neuron of the unit, and time step."""
        return torch.cat([layer.spikes.abs().flatten() for layer in self.unit_layers]).mean().item()

    @property
    def shape(self) -> str:
        """The sides of its map, such as "8x8"."""
        return "x".join(map(str, self.spike_map.shape))

    def to_json(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        boxes = [dict(zip(("left", "top", "right", "bottom"), box, strict=True)) for box in self.windows]
        return {
            "block": self.number,
            "name": self.name,
            "map_side": len(self.spike_map),
            "firing_rate": self.firing_rate,
            **({"windows": self.window_kind, "window_pixels": boxes} if boxes else {}),
            "layers": [layer.to_json() for layer in self.layers],
        }


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a network does with one image.

    Attributes:
        path: The image file.
        original: Width and height in the file.
        pixels: The image as the network sees it, before normalisation, (H, W, C) uint8.
        classes: Class names.
        probabilities: Probability of each class, (K,).
        blocks: All blocks, in order; in a network without such blocks, all layers of neurons.
        time_steps: Time steps over which spikes and potentials are pooled.
        encoding: The network's encoding, if it draws; otherwise empty.
        seed: Seed of the draws of a Bernoulli encoding.
        label: The true class of a test sample; None of an image file.
    """

    path: Path
    original: tuple[int, int]
    pixels: np.ndarray = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    probabilities: Tensor = field(repr=False)
    blocks: tuple[View, ...] = field(repr=False)
    time_steps: int
    encoding: str
    seed: int
    label: str | None = None

    @property
    def note(self) -> str | None:
        """How the image was changed to fit, if it was."""
        (width, height), side = self.original, self.pixels.shape[0]
        return None if width == height == side else f"resized from {width}x{height} to {side}x{side}, the centre kept"

    def guesses(self, count: int) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, the first one first."""
        values, places = self.probabilities.sort(descending=True, stable=True)
        return [(self.classes[i], p) for i, p in zip(places[:count].tolist(), values[:count].tolist(), strict=True)]

    def to_json(self) -> dict[str, Any]:
        """All that is drawn, as numbers."""
        return {
            "image": str(self.path),
            "original_size": list(self.original),
            "image_size": self.pixels.shape[0],
            **{name: getattr(self, name) for name in ("note", "time_steps", "encoding", "seed")},
            "label": self.label,
            "prediction": self.guesses(1)[0][0],
            "probabilities": dict(zip(self.classes, self.probabilities.tolist(), strict=True)),
            "blocks": [block.to_json() for block in self.blocks],
        }
