"""Checkpoints: complete or absent, and never unpickled.

A checkpoint is a folder:

    model.safetensors      the weights to use (the moving average, if the recipe has one)
    model.json             how to build the network around them, class names, normalisation
    training.safetensors   the optimiser's tensors, and the raw weights where others are used
    state.json             position, history, seed, the optimiser's numbers, a SHA-256 of each file
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from onespike.classpath import ClassPath
from onespike.configs import check, expect_keys, expect_plain, make, plain, read_json
from onespike.conversion import ConversionConfig
from onespike.data.augment import BatchAugment, seeded
from onespike.data.dataset import Dataset
from onespike.data.sources import expect_class_names
from onespike.durable import digest_of, is_as_written, read_whole
from onespike.errors import OnespikeError, shown
from onespike.folders import read_folder, write_folder
from onespike.models.pretrained import CARD, WEIGHTS
from onespike.neurons.watch import aside, ask
from onespike.tensors import expect_alike, expect_weights, not_finite, read_tensors, to_save
from onespike.training.progress import Progress
from onespike.training.recipe import Recipe, model_from

TRAINING, STATE = "training.safetensors", "state.json"
#: Largest file of a checkpoint, in bytes.
_MOST = 1 << 36
#: Columns that each row of a run's history has: finite numbers, like all other columns.
_COLUMNS: dict[str, Any] = {"epoch": int, "lr": float, "train_loss": float, "train_top1": float}
_COLUMNS |= {"valid_loss": float | None, "valid_top1": float | None, "epoch_seconds": float, "images_per_second": float}


@dataclass(frozen=True)
class ModelCard:
    """All that is needed to use a model, besides its weights: the content of `model.json`.

    Attributes:
        model: The architecture: a family's config, or a user's class.
        classes: Names of the classes.
        in_channels: Channels of the images.
        image_size: Side of the images, in pixels.
        mean: Channel-wise mean for normalisation, 0..1.
        std: Channel-wise standard deviation, 0..1.
        data: Name of the data set it was trained on.
        conversion: How the model was converted into a spiking one; None if it was not.
    """

    model: Any
    classes: tuple[str, ...]
    in_channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str
    conversion: ConversionConfig | None = None

    def __post_init__(self) -> None:
        check(self, "model.json", in_channels=(1, 8192), image_size=(1, 8192), mean=(0, 1), std=(1e-9, 1))
        expect_class_names(self.classes, "model.json")
        if not len(self.mean) == len(self.std) == self.in_channels:
            raise OnespikeError("model.json: expected a mean and std for each channel of the images")
        expect_plain(self.model, "model.init_args")  # now: a training would end before anybody reads its checkpoint

    @classmethod
    def of(cls, recipe: Recipe, data: Dataset) -> "ModelCard":
        """The card of a recipe's model for the images of a data set."""
        shape = (data.classes, data.in_channels, data.image_size, data.mean, data.std)
        return cls(recipe.model, *shape, data.name, recipe.conversion)

    @property
    def name(self) -> str:
        """Name of the model."""
        return str(self.model.name)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Raw images, uint8 (B, C, H, W), as the network reads them: (pixels / 255 - mean) / std.

        Raises:
            OnespikeError: They are not uint8, or not of this shape.
        """
        image = self.in_channels, self.image_size, self.image_size
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or tuple(pixels.shape[1:]) != image:
            got = f"{str(pixels.dtype).removeprefix('torch.')} {tuple(pixels.shape)}"
            others = "one image: pixels[None]; channels last: pixels.movedim(-1, 1)"
            expected = f"expected uint8 (B, {', '.join(map(str, image))})"
            raise OnespikeError(f"pixels: {expected}, got {got}; {others}")
        return BatchAugment(self.mean, self.std, device=pixels.device)(pixels.movedim(1, -1))

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
        """Build the network, (B, C, H, W) to (B, K) or (T, B, K), with fresh weights or from an unconverted `model`."""
        if model is not None:
            expect_weights(model)
        else:
            shape = {"num_classes": len(self.classes), "in_channels": self.in_channels, "image_size": self.image_size}
            foreign = isinstance(self.model, ClassPath)
            model = self.model.make("model", **shape) if foreign else self.model.build(**shape)
            if isinstance(model, nn.Module) and any(map(is_lazy, chain(model.parameters(), model.buffers()))):
                with aside(model):
                    ask(model, torch.zeros(2, self.in_channels, self.image_size, self.image_size))
        if not isinstance(model, nn.Module):
            raise OnespikeError(f"model: expected a torch.nn.Module, {self.name} gives a {type(model).__name__}")
        if self.conversion is None:
            return model
        like = next(model.parameters(), torch.empty(()))
        images = like.new_zeros(2, self.in_channels, self.image_size, self.image_size)
        from onespike.conversion.network import spiking  # it imports timm, which takes a second

        return spiking(model, replace(self.conversion, allow_real=True), images)

    @classmethod
    def from_json(cls, content: Any) -> "ModelCard":
        """Read what `plain` wrote; anything else is an `OnespikeError`."""
        model = {"model": model_from(content.get("model"))} if isinstance(content, Mapping) else {}
        return make(cls, {**content, **model} if model else content, "model.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory."""

    card: ModelCard  # how to build the model
    weights: dict[str, Tensor]  # the weights to use
    training: dict[str, Tensor]  # tensors that only training needs
    state: dict[str, Any]  # everything else that training needs, as JSON can hold it

    @property
    def digest(self) -> str:
        """SHA-256 of the network, in hexadecimal: of how it is built, and of its weights."""
        return hashlib.sha256(digest_of(plain(self.card)).encode() + save(to_save(self.weights))).hexdigest()

    def save(self, folder: Path) -> None:
        """Write the checkpoint; a reader finds the old one or this one, never a part, even if the disk is full."""
        files = {
            WEIGHTS: save(to_save(self.weights)),
            CARD: json.dumps(plain(self.card), indent=2).encode(),
            TRAINING: save(to_save(self.training)),
        }
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        state = {**self.state, "sha256": digests | {"state": digest_of(self.state)}}
        try:
            write_folder(folder, {**files, STATE: json.dumps(state, indent=2).encode()})
        except OSError as error:
            advice = "the checkpoint before it is untouched: make room, then go on with --resume"
            raise OnespikeError(f"could not save the checkpoint {folder}: {error}; {advice}") from error

    @classmethod
    def load(cls, folder: Path) -> "Checkpoint":
        """Read a checkpoint, its tensors on the CPU; an `OnespikeError` if it is missing or damaged."""
        try:
            names = (WEIGHTS, CARD, TRAINING, STATE)
            files = read_folder(folder, lambda place: {name: read_whole(place / name, _MOST) for name in names})
            text = files.pop(STATE)
            state = read_state(read_json(text, STATE))
            if not is_as_written(text, state):
                raise OnespikeError(f"{STATE} is not what was written")
            digests = state.pop("sha256")
            found = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
            for name, digest in (found | {"state": digest_of(state)}).items():
                if digest != digests.get(name):
                    raise OnespikeError(f"{name} is not what was written")
            card = ModelCard.from_json(read_json(files[CARD], CARD))
            weights, training = (read_tensors(files[name], name) for name in (WEIGHTS, TRAINING))
        except FileNotFoundError as error:
            what = f"is damaged: no {Path(error.filename).name}" if folder.is_dir() else "is not there"
            raise OnespikeError(f"the checkpoint {folder} {what}") from error
        except (OnespikeError, OSError, ValueError, KeyError, RecursionError) as error:
            raise OnespikeError(f"the checkpoint {folder} is damaged: {error}") from error
        return cls(card, weights, training, state)

    def network(
        self, model: nn.Module | None = None, time_steps: int | None = None, dtype: torch.dtype | None = None
    ) -> nn.Module:
        """Build the network with these weights, in evaluation mode; the arguments are those of `Run.model`.

        A `dtype` makes it compute in that one before it takes the weights, which so lose no digits.
        """
        card = self.card if time_steps is None else self.card.with_time_steps(time_steps)
        with seeded(0):  # the weights that it begins with are replaced: nobody else's draws should change for them
            network = card.build(model)
        network = network if dtype is None else network.to(dtype)
        self.put_into(network, f"the checkpoint is of another network than {card.name} as it is built now")
        return network.cpu().eval()  # one that was trained in place may be on an accelerator

    def put_into(self, network: nn.Module, complaint: str, weights: Mapping[str, Tensor] | None = None) -> None:
        """Load these weights, or `weights`, into a network.

        Weights that do not fit are an `OnespikeError` that begins with `complaint` and lists the differences. So are
        weights that are not finite.
        """
        weights = self.weights if weights is None else weights
        expect_alike(weights, weights_of(network), complaint)
        own = {name: weights[uncompiled(name)] for name in network.state_dict()}
        if name := not_finite(own, network):
            raise OnespikeError(f"the weights {name} of the checkpoint are not finite numbers: its training failed")
        network.load_state_dict(own)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """The state of a network, by the names that it has where nothing of it is compiled."""
    return {uncompiled(name): one for name, one in network.state_dict().items()}


def uncompiled(name: str) -> str:
    """A tensor's or module's name, as it is where nothing is compiled."""
    return name.replace("_orig_mod.", "")  # which torch.compile puts before all that it wraps


def split_tensors(tree: Any, prefix: str, tensors: dict[str, Tensor]) -> Any:
    """Move tensors from nested containers into `tensors`; each leaves `{"tensor": "prefix.…"}`, which JSON can hold.

    What a checkpoint could not be read with, such as an infinite number, is an `OnespikeError`.
    """
    if isinstance(tree, Tensor):
        if tree.layout != torch.strided or tree.is_meta or tree.is_quantized:
            kind = "meta" if tree.is_meta else tree.dtype if tree.is_quantized else tree.layout
            raise OnespikeError(f"{prefix}: a tensor that is {kind} cannot be saved; expected a dense one with values")
        while prefix in tensors:  # as of the keys 1 and "1", or "a.b" and "a"
            prefix += "'"
        tensors[prefix] = tree
        return {"tensor": prefix}
    if isinstance(tree, dict):
        for key in tree:
            expect_savable(key, f"{prefix}: the key")
        # JSON turns integer keys into strings; pairs keep them.
        return {"pairs": [[key, split_tensors(value, f"{prefix}.{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return [split_tensors(value, f"{prefix}.{number}", tensors) for number, value in enumerate(tree)]
    expect_savable(tree, f"{prefix}:", ", tensors, or lists and dictionaries of these")
    return tree


def expect_savable(value: object, where: str, more: str = "") -> None:
    """Raise an `OnespikeError` unless JSON knows a value as it is; what may be there as well, the message says."""
    if isinstance(value, float | int):
        savable = isfinite(value) if isinstance(value, float) else value.bit_length() < 10_000  # Python reads no longer
    else:
        savable = value is None or isinstance(value, str)
    if not savable:
        expected = f"expected finite numbers, text, True, False, None{more}"
        found = shown(value) if isinstance(value, int) else shown(repr(value))
        raise OnespikeError(f"{where} {found} cannot be saved; {expected}")


def join_tensors(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Take tensors out of `tensors`, to the places from which `split_tensors` took them (tuples come back as lists)."""
    if isinstance(tree, dict) and "tensor" in tree:
        return tensors.pop(tree["tensor"])
    if isinstance(tree, dict):
        return {key: join_tensors(value, tensors) for key, value in tree["pairs"]}
    return [join_tensors(value, tensors) for value in tree] if isinstance(tree, list) else tree


@dataclass
class _State:
    """The content of `state.json`."""

    sha256: dict[str, str]  # of each file, and of the rest of this one
    progress: Progress  # how far the run has come
    train: dict[str, Any] = field(default_factory=dict)  # values of the recipe that cannot change
    images: int = 0  # training images
    labels: str = ""  # SHA-256 of their labels; a run of an older version does not know
    looks: str = ""  # SHA-256 of some of them, likewise; empty, too, if they are others each time
    teacher: str = ""  # SHA-256 of the weights of `train.teacher`, likewise
    optimizer: Any = None  # trees, whose tensors lie in `training.safetensors`
    callbacks: Any = None
    scaler: dict[str, Any] | None = None
    converted: str = ""  # the run that it was converted from


def expect_row(row: Mapping[str, Any], epoch: int, where: str) -> None:
    """Raise an `OnespikeError` unless a row of a run's history is of this epoch, and has numbers for its columns."""
    numbers = {key: value for key, value in row.items() if key in _COLUMNS or not isinstance(value, bool)}
    expect_keys(numbers, dict.fromkeys(numbers, float | None) | _COLUMNS, where)  # callbacks may add True, too
    if row["epoch"] != epoch:
        raise OnespikeError(f"{where}: expected epoch {epoch}, got {shown(row['epoch'])}")


def read_state(content: Any) -> dict[str, Any]:
    """Check the content of `state.json`; optimiser and callbacks check their own parts themselves."""
    expect_keys(content, {"progress": dict[str, Any]}, "state.json")
    expect_keys(content["progress"], {"epoch": int}, "state.json: progress")
    known = {key: value for key, value in content.items() if key in _State.__annotations__}
    progress = make(_State, known, "state.json").progress
    for number, row in enumerate(progress.history, 1):
        expect_row(row, number, f"state.json: progress.history: row {number}")
    for name in ("epoch", "epochs_before", "flops", "flops_before", "step", "images", "epoch_seconds", "seconds"):
        if (getattr(progress, name) or 0) < 0:
            raise OnespikeError(f"state.json: progress: {name}: expected 0 or more, got {getattr(progress, name)}")
    return dict(content)
