"""Checkpoints: whole or not there, never unpickled.

A checkpoint is a folder:

    model.safetensors      the weights to use (the moving average, if the recipe has one)
    model.json             how to build the network around them, class names, normalisation
    training.safetensors   the optimiser's tensors, and the raw weights where others are used
    state.json             position, history, seed, the optimiser's numbers, a SHA-256 of each file
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from onespike.classpath import ClassPath
from onespike.configs import make, plain
from onespike.conversion import ConversionConfig
from onespike.conversion.network import spiking
from onespike.data.dataset import Dataset
from onespike.durable import whole_folder, write_folder
from onespike.errors import OnespikeError
from onespike.training.recipe import Recipe, model_from

FILES = ("model.safetensors", "model.json", "training.safetensors")
#: How many tensors that do not fit are listed.
LISTED = 5


@dataclass(frozen=True)
class ModelCard:
    """All that is needed to use a model, beside its weights: what `model.json` holds."""

    model: Any  # the architecture: a family's config, or somebody's class
    classes: tuple[str, ...]  # names of the classes
    in_channels: int  # channels of the images
    image_size: int  # side of the images, in pixels
    mean: tuple[float, ...]  # channel-wise mean for normalisation, 0..1
    std: tuple[float, ...]  # channel-wise standard deviation, 0..1
    data: str  # name of the data set it was trained on
    conversion: ConversionConfig | None = None  # how the model was converted into a spiking one; None if it was not

    @classmethod
    def of(cls, recipe: Recipe, data: Dataset) -> "ModelCard":
        """The card of a recipe's model for the images of a data set."""
        shape = (data.classes, data.in_channels, data.image_size, data.mean, data.std)
        return cls(recipe.model, *shape, data.name, recipe.conversion)

    @property
    def name(self) -> str:
        """What to call the model."""
        return str(self.model.name)

    @property
    def draws(self) -> bool | None:
        """Whether the network draws random numbers at test time; None where that is not known."""
        return False if self.conversion else getattr(self.model, "draws", None)

    def with_time_steps(self, time_steps: int) -> "ModelCard":
        """The card of the same network over another number of time steps; its config must have one."""
        part = "conversion" if self.conversion else "model"
        if not hasattr(getattr(self, part), "time_steps"):
            raise OnespikeError(f"time_steps: {self.name} has no such option")
        changed: dict[str, Any] = {part: replace(getattr(self, part), time_steps=time_steps)}
        return replace(self, **changed)

    def build(self, model: nn.Module | None = None) -> nn.Module:
        """Build the network, (B, C, H, W) to (B, K) or (T, B, K), of fresh weights or of `model`, not yet converted."""
        if model is None:
            shape = {"num_classes": len(self.classes), "in_channels": self.in_channels, "image_size": self.image_size}
            foreign = isinstance(self.model, ClassPath)
            model = self.model.make("model", **shape) if foreign else self.model.build(**shape)
        if not isinstance(model, nn.Module):
            raise OnespikeError(f"model: expected a torch.nn.Module, {self.name} gives a {type(model).__name__}")
        if self.conversion is None:
            return model
        like = next(model.parameters(), torch.empty(()))
        images = like.new_zeros(2, self.in_channels, self.image_size, self.image_size)
        return spiking(model, replace(self.conversion, allow_real=True), images)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "ModelCard":
        """Read what `plain` wrote."""
        return make(cls, {**content, "model": model_from(content["model"])}, "model.json")


@dataclass(frozen=True)
class Checkpoint:
    """What is saved, in memory."""

    card: ModelCard  # how to build the model
    weights: dict[str, Tensor]  # the weights to use
    training: dict[str, Tensor]  # tensors that only training needs
    state: dict[str, Any]  # everything else that training needs; must be representable in JSON

    def save(self, folder: Path) -> None:
        """Write the checkpoint; a reader finds the old one or this one, never a part, even if the disk is full."""
        files = {
            "model.safetensors": save(_contiguous(self.weights)),
            "model.json": json.dumps(plain(self.card), indent=2).encode(),
            "training.safetensors": save(_contiguous(self.training)),
        }
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        state = {**self.state, "sha256": digests | {"state": _digest(self.state)}}
        try:
            write_folder(folder, {**files, "state.json": json.dumps(state, indent=2).encode()})
        except OSError as error:
            advice = "the checkpoint before it is untouched: make room, then go on with --resume"
            raise OnespikeError(f"could not save the checkpoint {folder}: {error}; {advice}") from error

    @classmethod
    def load(cls, folder: Path) -> "Checkpoint":
        """Read a checkpoint, its tensors on the CPU; an `OnespikeError` if it is missing or damaged."""
        folder = whole_folder(folder)
        if not folder.is_dir():
            raise OnespikeError(f"there is no checkpoint {folder}")
        try:
            state = json.loads((folder / "state.json").read_text())
            digests = state.pop("sha256")
            files = {name: (folder / name).read_bytes() for name in FILES}
            found = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
            for name, digest in (found | {"state": _digest(state)}).items():
                if digest != digests[name]:
                    raise OnespikeError(f"the checkpoint {folder} is damaged: {name} is not what was written")
            card = ModelCard.from_json(json.loads(files["model.json"]))
            weights, training = (load(files[f"{name}.safetensors"]) for name in ("model", "training"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise OnespikeError(f"the checkpoint {folder} is damaged: {error}") from error
        return cls(card, weights, training, state)

    def network(self, model: nn.Module | None = None, time_steps: int | None = None) -> nn.Module:
        """Build the network with these weights, in evaluation mode; the arguments are those of `Run.model`."""
        card = self.card if time_steps is None else self.card.with_time_steps(time_steps)
        network = card.build(model)
        self.put_into(network, f"the checkpoint is of another network than {card.name} as it is built now")
        return network.eval()

    def put_into(self, network: nn.Module, complaint: str) -> None:
        """Load the weights into a network; if they do not fit, the complaint lists the first tensors that differ."""
        states = (network.state_dict(), self.weights)
        own, saved = ({name: tuple(one.shape) for name, one in state.items()} for state in states)
        names = [name for name in sorted(own.keys() | saved.keys()) if own.get(name) != saved.get(name)]
        wrong = [f"{name} {saved.get(name, 'missing')} instead of {own.get(name, 'nothing')}" for name in names]
        if wrong:
            more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
            raise OnespikeError(f"{complaint}: {', '.join(wrong[:LISTED])}{more}")
        network.load_state_dict(self.weights)


def split_tensors(tree: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """Move tensors from nested containers into `tensors`; `{"tensor": "prefix.…"}` in place of each leaves JSON."""
    if isinstance(tree, Tensor):
        tensors[prefix] = tree
        return {"tensor": prefix}
    if isinstance(tree, dict):
        # JSON turns whole numbers that are keys into strings; pairs keep them.
        return {"pairs": [[key, split_tensors(value, f"{prefix}.{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return [split_tensors(value, f"{prefix}.{number}", tensors) for number, value in enumerate(tree)]
    return tree


def join_tensors(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Put tensors back in the places from which `split_tensors` took them (tuples come back as lists)."""
    if isinstance(tree, dict) and "tensor" in tree:
        return tensors[tree["tensor"]]
    if isinstance(tree, dict):
        return {key: join_tensors(value, tensors) for key, value in tree["pairs"]}
    return [join_tensors(value, tensors) for value in tree] if isinstance(tree, list) else tree


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU: safetensors knows no strides (channels-last) and no shared memory."""
    return {name: one.detach().cpu().clone(memory_format=torch.contiguous_format) for name, one in tensors.items()}


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
