"""What a training is made of: a trainer from a recipe, and from what is passed in place of its parts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from onespike.classpath import ClassPath
from onespike.data.augment import BatchAugment
from onespike.data.config import PASSED
from onespike.data.dataset import Dataset, as_configured, expect_used_with, open_dataset
from onespike.errors import OnespikeError
from onespike.tensors import expect_weights
from onespike.training.callbacks import Callback
from onespike.training.checkpoint import ModelCard
from onespike.training.device import make_accelerator
from onespike.training.losses import Loss, make_loss
from onespike.training.recipe import Recipe, dump
from onespike.training.requirements import expect_loads_its_state
from onespike.training.trainer import Trainer

#: Number of training images from which layers such as whitening are set before training.
LEARNT_FROM = 5000


def set_up(
    recipe: Recipe,
    model: nn.Module | None = None,
    data: Any = None,
    loss: Loss | None = None,
    callbacks: Sequence[Callback] = (),
    resumed: Recipe | None = None,
) -> Trainer:
    """Make a trainer from a recipe, or from what is passed in place of its parts, as `train` does.

    A run that goes on passes the recipe that it began with as `resumed`.
    """
    if model is not None:  # now: to open the data may take long
        _expect_trainable(model)
    if not isinstance(callbacks, Sequence):
        raise OnespikeError(f"callbacks: expected a list of onespike.Callback, got a {type(callbacks).__name__}")
    if odd := [one for one in callbacks if not isinstance(one, Callback)]:
        raise OnespikeError(f"callbacks: expected onespike.Callback, got a {type(odd[0]).__name__}")
    if model is not None:
        made = _written(model, resumed and resumed.model)
        named = recipe.model == made or getattr(recipe.model, "init_args", None) is not None
        conversion = recipe.conversion if named else None  # of a converted run, go on with it
        recipe = replace(recipe, model=made, conversion=conversion)
    if loss is not None:
        recipe = replace(recipe, loss=_written(loss, resumed and resumed.loss))
    if data is not None:
        expect_used_with(data, recipe.data)
        recipe = replace(recipe, data=replace(recipe.data, name=PASSED, root=None, class_path=None, init_args={}))
    dump(recipe)  # now, too: what `config.yaml` cannot hold is refused
    accelerator = make_accelerator(recipe.train)
    with accelerator.main_process_first():
        images = open_dataset(recipe.data) if data is None else as_configured(data, recipe.data)
    if images.of_events and hasattr(recipe.model, "time_steps"):  # as a recipe does that names them
        recipe = replace(recipe, model=replace(recipe.model, time_steps=images.frames))
    torch.manual_seed(recipe.train.seed)
    network = ModelCard.of(recipe, images).build(model)
    _expect_trainable(network)
    if model is None:
        learn_from(network, images)
    trainer = Trainer(network, loss or make_loss(recipe), images, recipe, accelerator, callbacks)
    if model is not None:  # now: a network that is refused stays as it was
        learn_from(trainer.network, images, passed=True)
        if trainer.average:
            trainer.average.begin()
    expect_loads_its_state(trainer.network)  # after the images have set its whitening, which a load would stand for
    return trainer


def _expect_trainable(network: nn.Module) -> None:
    """Raise an `OnespikeError` unless a network's weights are real numbers, and no wrapper has its forward pass."""
    expect_weights(network)
    if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        advice = "pass its .module, and start several processes by accelerate launch"
        raise OnespikeError(f"model: it is wrapped in {type(network).__name__}: {advice}")
    for name, one in (*network.named_parameters(), *network.named_buffers()):
        if one.is_complex():
            raise OnespikeError(f"model: {name} is complex: expected real numbers, such as torch.view_as_real's")


def _written(passed: Any, before: Any) -> ClassPath:
    """What is written down for an object that was passed: nobody knows the arguments that its class was called with.

    A resumed run that was built by a path, `before`, keeps it: whether the weights fit is seen when they are restored.
    """
    return before if getattr(before, "init_args", None) is not None else ClassPath.of(passed)


def learn_from(network: nn.Module, data: Dataset, passed: bool = False) -> None:
    """Set layers that have a method `learn_from`, such as whitening, by normalised training images, before training.

    Layers whose `is_set` is True stay as they are. So do, in a network that was `passed`, layers without `is_set`, and
    all layers if a norm has seen images: somebody has trained that network.
    """
    layers = [module for module in network.modules() if hasattr(module, "learn_from")]
    learners: list[Any] = [layer for layer in layers if not getattr(layer, "is_set", passed)]
    seen = [number for name, number in network.named_buffers() if name.endswith("num_batches_tracked")]
    if learners and not (passed and any(number.any() for number in seen)):
        pixels = data.frames * data.image_size**2  # of large images, and of recordings of many frames, fewer will do
        most = min(LEARNT_FROM, max(1, LEARNT_FROM * 64**2 // pixels))
        positions = np.random.default_rng(0).permutation(len(data.train))[:most]
        images = BatchAugment(data.mean, data.std)(data.train.gather(positions)[0])
        images = images.flatten(0, -4)  # frames of events are images each
        for module in learners:
            module.learn_from(images)
