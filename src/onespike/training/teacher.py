"""Distillation: a student learns from a teacher's answers (Hinton et al. 2015), and from its features if asked to.

    loss = (1 - w) own + w tau^2 KL(softmax(teacher / tau) || softmax(student / tau))
           + f mean_l |n(student_l) - n(teacher_l)|^2

w, tau and f are `train.teacher_weight`, `teacher_temperature` and `teacher_features`; l runs over layers of neurons.
Features are the layers' spikes, or the outputs of activations; n divides those of an image by their norm. Logits over
time are averaged.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.configs import make, plain
from onespike.conversion.kinds import ACTIVATIONS
from onespike.conversion.network import ConvertedNetwork
from onespike.conversion.trace import free_path
from onespike.data.dataset import Dataset, warn_of_floats
from onespike.data.loader import Share
from onespike.errors import OnespikeError, reason, unknown
from onespike.models.registry import family
from onespike.models.strict_layers import adding_up
from onespike.neurons.watch import Fired, aside, neuron_layers, resetter, watch_neurons
from onespike.tensors import weights_digest, wide
from onespike.training.callbacks import Callback
from onespike.training.checkpoint import ModelCard
from onespike.training.layout import laid_out
from onespike.training.losses import over_time
from onespike.training.pretrained import HUB, PACKAGE
from onespike.training.recipe import Recipe
from onespike.training.requirements import expect_sizes
from onespike.training.run import Run

if TYPE_CHECKING:
    from onespike.training.trainer import Trainer

#: The teacher that is the student's artificial twin, and its folder in the student's run.
TWIN, FOLDER = "twin", "teacher"
#: Options that are switched off for a twin: it fires no spikes, and has no teacher.
NOT_OF_TWINS: dict[str, Any] = {"rate_penalty": 0.0, "energy_budget": 0.0, "hoyer": 0.0, "surrogate_width_end": 0.0}
NOT_OF_TWINS |= {"teacher": "", "teacher_features": 0.0}
#: Options of windows that a twin has none of, where its student has windows.
IN_WINDOWS: dict[str, Any] = {"fusion": "none", "region_threshold": None}


@dataclass
class Found:
    """A teacher: its network, and what is known of its images."""

    network: nn.Module
    mean: tuple[float, ...]  # of each channel, 0..1, by which its images are normalised
    std: tuple[float, ...]
    size: int  # side of its images, in pixels
    classes: tuple[str, ...] | None = None  # None: not known, taken to be the data's
    flops: float | None = None  # FLOPs of its training; None where that is not known


class Teacher(Callback):
    """Adds to the loss how far the student is from a teacher that sees the same augmented images.

    `recipe.train.teacher` names one. An `OnespikeError` says if there is none of that name, or if it does not suit the
    data or has no features in common with the student.
    """

    def __init__(self, student: nn.Module, recipe: Recipe, data: Dataset, share: Share) -> None:
        self.student, self.config = student, recipe.train
        self.found = found = find_teacher(recipe, data)
        network = found.network.to(share.device, share.dtype).eval().requires_grad_(False)
        blank = torch.zeros(2, len(found.mean), found.size, found.size, device=share.device, dtype=share.dtype)
        self.network = laid_out(network, blank)
        # By this a resumed run knows it; a twin has its weights only later, and lies in the run.
        self.digest = "" if recipe.train.teacher == TWIN else weights_digest(network)
        self._reset = resetter(self.network)
        if data.in_channels not in (1, channels := len(found.mean)):  # grey is the same in all channels
            raise self._refusal(f"its images have {channels} channels, those of {data.name} {data.in_channels}")
        warn_of_floats(data, found.mean, found.std, "the teacher")
        self.seeing = _Seeing(self.network, found, data, share)  # the same, for the student's images
        self.layers: set[str] = set()  # paths of the layers of neurons whose features are compared
        self._seen: tuple[Tensor, Tensor, dict[str, Tensor]] | None = None
        self._expect_to_suit(data, share)
        try:
            expect_sizes(self.seeing, data, share, self.config)
        except OnespikeError as error:  # which takes it for the model that is trained
            raise OnespikeError(f"train.teacher: {self.config.teacher}: {error}") from error

    def start(self, trainer: "Trainer") -> None:
        """Take the weights of a twin, which is trained by now."""
        if self.config.teacher == TWIN and trainer.run is not None:
            run = Run.open(trainer.run.folder / FOLDER)
            run.checkpoint("best").put_into(self.network, f"{run.folder} is not the twin of {trainer.card.name}")
            self.found.flops = run.flops()

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Record the student's images, logits and features."""
        images = list[Tensor]()
        with _features(self.student, self.layers) as features:

            def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
                images.append(inputs[0].clone())  # the student may change its own in place

            def see(_: nn.Module, __: tuple[Any, ...], logits: Tensor) -> None:
                self._seen = images.pop(), logits, features

            with self.student.register_forward_pre_hook(keep), self.student.register_forward_hook(see):
                yield

    def penalty(self, trainer: "Trainer", images: int) -> Tensor:  # noqa: ARG002
        """The terms of the loss that come from the teacher."""
        assert self._seen, "the student was asked before"
        (seen, logits, features), self._seen = self._seen, None
        with torch.no_grad(), trainer.accelerator.autocast(), _features(self.network, self.layers) as its:
            answers = self._answers(seen)
        temperature = self.config.teacher_temperature
        student, teacher = (F.log_softmax(wide(over_time(one)) / temperature, 1) for one in (logits, answers))
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        loss = self.config.teacher_weight * temperature**2 * divergence
        if not self.layers:
            return loss
        distances = [(_unit(features[path]) - _unit(its[path])).square().sum(1).mean() for path in sorted(self.layers)]
        return loss + self.config.teacher_features * torch.stack(distances).mean()

    def _answers(self, images: Tensor) -> Tensor:
        self._reset()
        with adding_up(self.network):
            return self.seeing(images)

    @torch.no_grad()
    def _expect_to_suit(self, data: Dataset, share: Share) -> None:
        found, side = self.found, data.image_size
        if found.classes is not None and len(found.classes) == data.num_classes and found.classes != data.classes:
            ours, its = next(pair for pair in zip(data.classes, found.classes, strict=True) if len(set(pair)) > 1)
            raise self._refusal(f"it has a class {its!r} where {data.name} has {ours!r}")
        images = data.blank(2, device=share.device, dtype=share.dtype)
        with aside(self.network), _features(self.network) as features:
            try:
                logits = self._answers(images)
            except (RuntimeError, ValueError, TypeError, AssertionError) as error:
                sides = f"its images have {found.size} pixels a side, those of {data.name} {side}"
                raise self._refusal(f"{sides}: {reason(error)}") from error
        count = logits.shape[-1] if isinstance(logits, Tensor) and logits.ndim in (2, 3) else "no"
        if count != data.num_classes:
            raise self._refusal(f"it knows {count} classes, {data.name} has {data.num_classes}")
        if self.config.teacher_features:
            self.layers = self._common_layers(images, features)

    def _common_layers(self, images: Tensor, its: dict[str, Tensor]) -> set[str]:
        """Layers of neurons, or activations, that both networks have, of the same shape."""
        with aside(self.student), _features(self.student) as features:
            self.student(images)
        common = {path for path in features.keys() & its.keys() if features[path].shape == its[path].shape}
        if not common:
            expected = "expected layers of neurons, or activations, of the same names and shapes, as a twin has"
            raise OnespikeError(f"train.teacher_features: {expected}; {self.config.teacher} has none: set 0")
        return common

    def _refusal(self, why: str) -> OnespikeError:
        return OnespikeError(f"train.teacher: {self.config.teacher} does not suit the data: {why}")


class _Seeing(nn.Module):
    """A teacher's network, for the images that its student sees."""

    def __init__(self, network: nn.Module, found: Found, data: Dataset, share: Share) -> None:
        super().__init__()
        self.network, self._repeats = network, data.frames == 1
        # From the student's normalisation to its own: (x * std + mean - its mean) / its std.
        own, its = (torch.tensor([one.mean, one.std], dtype=torch.float64)[..., None, None] for one in (data, found))
        self._scale, self._shift = ((x / its[1]).to(share.device, share.dtype) for x in (own[1], own[0] - its[0]))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        if self._repeats and images.ndim == 5:  # frames of one image, for a loss of each step of the student's
            images = images[0]
        return self.network(images * self._scale + self._shift)


def twin_of(recipe: Recipe) -> Recipe:
    """The artificial twin of a recipe: the same network with ReLUs in place of neurons, trained in the same way."""
    model = recipe.model
    if not hasattr(model, "neuron"):
        expected = "expected a registered model that has one, such as conv12, or another teacher"
        raise OnespikeError(f"train.teacher: {model.name} has no option neuron to make a twin by: {expected}")
    if recipe.data.frames > 1:
        expected = f"expected data.frames 1, got {recipe.data.frames}, or another teacher"
        raise OnespikeError(f"train.teacher: a twin runs at one time step: {expected}")
    values, preset = plain(model), family(model.name).presets.get("ann")
    # The neuron's options start anew: those of spikes have no meaning. In windows nothing is handed on or made whole.
    changes: dict[str, Any] = {"neuron": "relu", "preset": ""}
    if values.get("windows", "none") != "none":
        changes |= {key: value for key, value in IN_WINDOWS.items() if key in values}
    changes |= {"preset": "ann", **preset} if preset else {}
    changes |= {"time_steps": 1} if "time_steps" in values else {}
    twin = make(type(model), {**values, **changes}, "model")
    return replace(recipe, model=twin, train=replace(recipe.train, **NOT_OF_TWINS))


def find_teacher(recipe: Recipe, data: Dataset) -> Found:
    """Find the teacher that a recipe names; a twin still has fresh weights. Raises `OnespikeError` if there is none."""
    teacher = recipe.train.teacher
    if teacher == TWIN:
        return _of_card(ModelCard.of(twin_of(recipe), data))
    source, colon, name = teacher.partition(":")
    if not colon or teacher.startswith((PACKAGE, HUB)) or Path(teacher).exists():
        try:
            run = Run.open(teacher)
            checkpoint = run.checkpoint("best")
            if getattr(checkpoint.card.model, "init_args", {}) is None:
                state = f"the network of {run.folder} was passed from Python, and nobody can build it again here"
                raise OnespikeError(f"{state}: train it by its class, --model.class_path")
            return replace(_of_card(checkpoint.card, checkpoint.network()), flops=run.flops())
        except OnespikeError as error:
            raise OnespikeError(f"train.teacher: {error}; or twin, torchvision:NAME, timm:NAME") from error
    if source not in SOURCES:
        raise unknown("train.teacher", teacher, [TWIN, "RUN", *(f"{one}:NAME" for one in (*SOURCES, "pretrained"))])
    try:
        return SOURCES[source](name)
    except OnespikeError:
        raise
    except Exception as error:  # whatever a download fails with
        expected = f"its weights come from the cache of {source}, or from the network"
        raise OnespikeError(f"train.teacher: {teacher} cannot be loaded ({reason(error)}); {expected}") from error


def _of_card(card: ModelCard, network: nn.Module | None = None) -> Found:
    return Found(network or card.build(), card.mean, card.std, card.image_size, card.classes)


def _torchvision(name: str) -> Found:
    from torchvision import models

    if name not in (known := models.list_models(models)):
        raise unknown("train.teacher torchvision", name, known)
    weights = models.get_model_weights(name).DEFAULT
    weights.get_state_dict(check_hash=True, weights_only=True)  # refuses code, which the next line would run
    preset, network = weights.transforms(), models.get_model(name, weights=weights)
    return Found(network, tuple(preset.mean), tuple(preset.std), preset.crop_size[0])


def _timm(name: str) -> Found:
    import timm

    if not {":", "/"} & set(name) and not timm.is_model(name):
        raise unknown("train.teacher timm", name, timm.list_models())
    network = timm.create_model(name, pretrained=True)
    images = network.pretrained_cfg
    return Found(network, tuple(images["mean"]), tuple(images["std"]), images["input_size"][-1])


#: Sources of pretrained teachers, by the prefix of their names.
SOURCES: dict[str, Callable[[str], Found]] = {"torchvision": _torchvision, "timm": _timm}


@contextmanager
def _features(network: nn.Module, layers: set[str] | None = None) -> Iterator[dict[str, Tensor]]:
    """Collect what layers of neurons, all or those in `layers`, fire on each image, (B, N), summed over calls.

    Of an artificial network it is what its activations give. Each call counts alone, by the path that its neurons have
    where the network is converted.
    """
    features, called = dict[str, Tensor](), set[str]()

    def see(fired: Fired) -> None:
        if layers is None or fired.path in layers:
            spikes = fired.spikes.movedim(fired.batch_axis, 0).flatten(1)
            features[fired.path] = features[fired.path] + spikes if fired.path in features else spikes

    def see_activation(path: str, out: Tensor, steps: int) -> None:
        path = free_path(path, called)
        if out.ndim > 1 and (layers is None or path in layers):
            # The sum is a copy, which an operation in place leaves as it is.
            features[path] = out.unflatten(0, (steps, -1)).sum(0).flatten(1)

    with ExitStack() as stack:
        if layers is None or layers:
            activations, steps = _activations(network)
            for path, module in activations.items():
                hook = module.register_forward_hook(lambda _m, _i, out, path=path: see_activation(path, out, steps))
                stack.callback(hook.remove)
            if not activations:
                stack.enter_context(watch_neurons(network, see, foreign_potentials=False))
        yield features


def _activations(network: nn.Module) -> tuple[dict[str, nn.Module], int]:
    """A converted network's neurons, by the paths of the activations that they replaced, and its time steps.

    Else an artificial network's activations; none of a network that spikes.
    """
    if isinstance(network, ConvertedNetwork):
        return dict(network.neurons), network.time_steps
    found = {path: one for path, one in network.named_modules() if isinstance(one, ACTIVATIONS)}
    return ({} if neuron_layers(network) else found), 1


def _unit(features: Tensor) -> Tensor:
    """Divide each row by its norm, or by 1 if its norm is below that of a single spike; zeros stay zeros."""
    return F.normalize(wide(features), dim=1, eps=1.0)
