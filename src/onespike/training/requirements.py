"""What a network and a loss have to be for a training, tried on blank images before it begins."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress

import torch
from torch import Tensor, nn

from onespike.classpath import REFUSALS
from onespike.data.augment import seed_everything, seeded
from onespike.data.dataset import Dataset
from onespike.data.loader import Share
from onespike.errors import OnespikeError, reason, shown, warn
from onespike.neurons.watch import aside, ask, depends_on_batch, logits_of, reset_state
from onespike.training.callbacks import swapped
from onespike.training.checkpoint import Checkpoint
from onespike.training.config import TrainConfig
from onespike.training.growth import sizes
from onespike.training.layout import laid_out
from onespike.training.losses import Loss, over_time
from onespike.training.recipe import Recipe


def expect_suitable(network: nn.Module, loss: Loss, recipe: Recipe, data: Dataset, share: Share) -> None:
    """Raise an `OnespikeError` unless a network and a loss can be trained by a recipe, on the images of a data set."""
    for name, one in network.state_dict().items():
        if not isinstance(one, Tensor):
            state = f"{shown(name)} is a {type(one).__name__}, and checkpoints hold tensors alone"
            raise OnespikeError(f"model: {state}: remove its get_extra_state")
    for path, part in network.named_modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.sparse:
            raise OnespikeError(f"model: {path or 'it'} has sparse gradients; expected dense ones: sparse=False")
    if data.num_classes < 2:
        raise OnespikeError(
            f"data: {data.name} has one class, {shown(data.classes[0])}: expected two or more, to tell apart"
        )
    config, logits = recipe.train, expect_logits(network, data, share)
    warn_of_state(network, data.blank(2, device=share.device, dtype=share.dtype))
    expect_sizes(network, data, share, config)
    frames = frames_of(network) if config.loss == "tet" and logits.ndim == 2 else 1
    logits = logits.expand(frames, *logits.shape) if frames > 1 else logits  # as training gets them
    if recipe.loss is not None:
        splits = max(1, recipe.data.augmix_splits)
        expect_loss(loss, logits, bool(config.mixup), splits, parts=config.accumulate * share.world)
    elif config.loss == "tet" and logits.ndim == 2 and time_steps(network) != 1:
        expected = "tet expects logits of each time step (T, B, K)"
        raise OnespikeError(f"train.loss: {expected}, got {tuple(logits.shape)}; use mean")
    if config.recompute and not hasattr(network, "recompute"):
        expected = "expected a network of the library, such as conv12 or spiking-resnet-m"
        raise OnespikeError(f"train.recompute: {expected}, got {recipe.model.name}")


def warn_of_state(network: nn.Module, like: Tensor) -> None:
    """Warn of a network whose answer for an image depends on those before it, or on those beside it in the batch."""

    def answered(images: Tensor, seed: int = 0) -> Tensor:
        seed_everything(seed)
        reset_state(network)
        return over_time(ask(network, images.clone()))  # it may change them in place

    with aside(network), seeded(0):
        images = torch.rand_like(torch.cat([like, like], -4))
        first, second = answered(images), answered(images)
        draws = not torch.equal(first, answered(images, seed=1))  # and other numbers for a larger batch
        beside = answered(torch.cat([images, 0.5 * torch.rand_like(images)], -4))[: len(first)]
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-5, equal_nan=True):
        warn("model: it answers the same images differently the second time: what it keeps, reset in its forward")
    elif not draws and depends_on_batch(first, beside):
        state = "its answer for an image depends on the other images of the batch, and so does its accuracy"
        warn(f"model: {state}: look for batch norm without running statistics, and for means over the batch")


def expect_loads_its_state(network: nn.Module) -> None:
    """Raise an `OnespikeError` unless a network loads its own state, as every checkpoint of it will be."""
    try:
        network.load_state_dict(network.state_dict())
    except REFUSALS as error:
        raise OnespikeError(f"model: it does not load its own state_dict: {reason(error)}") from error


def unsaved(network: nn.Module) -> dict[str, Tensor]:
    """Copy the buffers of a network that its state_dict leaves out."""
    saved = set(map(id, network.state_dict(keep_vars=True).values()))  # whatever it calls them
    return {name: one.detach().clone() for name, one in network.named_buffers() if id(one) not in saved}


def warn_of_lost_state(
    network: nn.Module,
    before: Mapping[str, Tensor],
    saved: Checkpoint,
    data: Dataset,
    autocast: Callable[[], AbstractContextManager[None]],
) -> None:
    """Warn of a trained network that answers otherwise once it is built anew, from what was saved.

    Of one that was passed, nobody can build another: it answers anew with what is not saved as it was `before`.
    """
    weight = next(network.parameters())
    like = data.blank(4, device=weight.device, dtype=weight.dtype)

    def answer(one: nn.Module) -> Tensor:
        # As training computed. Not around the building: autocast would keep the casts of weights that are loaded later.
        with autocast(), aside(one), seeded(0), torch.compiler.set_stance("force_eager"):
            return over_time(ask(one, torch.rand_like(like))).float()

    trained = answer(network)
    if getattr(saved.card.model, "init_args", ()) is None:
        now = dict(network.named_buffers())
        with swapped([(one, now[name]) for name, one in before.items() if name in now]):
            loaded = answer(network)
    else:
        loaded = answer(laid_out(saved.network().to(like.device, like.dtype), like))
    if not torch.allclose(trained, loaded, rtol=1e-2, atol=1e-3, equal_nan=True):
        advice = "make it a parameter, or a buffer that is saved (persistent=True)"
        warn(f"model: training changed more of it than is saved, so it answers otherwise once it is loaded: {advice}")


def expect_logits(network: nn.Module, data: Dataset, share: Share, side: int | None = None) -> Tensor:
    """Return a network's logits for blank images of a data set; an `OnespikeError` if it has none for them.

    `side` is the side of the images after resizing, if they are resized first.
    """
    blank = data.blank(2, side, device=share.device, dtype=share.dtype)
    try:
        with aside(network):
            return logits_of(network, blank, data.num_classes)
    except OnespikeError as error:
        raise OnespikeError(f"model: with the images of {data.name}, {error}") from error


def expect_sizes(network: nn.Module, data: Dataset, share: Share, config: TrainConfig) -> None:
    """Raise an `OnespikeError` unless a network takes a data set's images in every size that training shows them in."""
    for side in sizes(config, data.image_size)[:-1]:
        try:
            expect_logits(network, data, share, side)
        except OnespikeError as error:
            remedy = "choose another size, another model, or --train.start_size 0"
            raise OnespikeError(f"train.start_size: {error}; {remedy}") from error


def time_steps(network: nn.Module) -> int | None:
    """For how many time steps a network says that it shows an image; None if it says nothing."""
    return getattr(getattr(network, "config", None), "time_steps", None)


def frames_of(network: nn.Module) -> int:
    """As how many frames an image is shown to a network that answers each; 1 if the network repeats it by itself."""
    return (time_steps(network) or 1) if hasattr(network, "over_time") else 1


def expect_loss(loss: Loss, logits: Tensor, soft: bool, splits: int = 1, parts: int = 1) -> None:
    """Raise an `OnespikeError` unless a user's loss maps these logits and labels, or `soft` ones, to one number.

    With AugMix an image has logits of each of its `splits`, and one label. The optimiser moves the network's weights
    alone, so a loss may have none that need a gradient. Of a batch that is computed in several `parts`, the loss is the
    mean of theirs, so it must not be a sum over images.
    """
    weights = loss.named_parameters() if isinstance(loss, nn.Module) else ()
    if learned := [name for name, one in weights if one.requires_grad]:
        advice = "put it into the model, or freeze it by requires_grad_(False)"
        raise OnespikeError(f"loss: its weight {learned[0]} would not be trained: {advice}")
    labels = torch.zeros(logits.shape[-2], dtype=torch.long, device=logits.device)
    targets = nn.functional.one_hot(labels, logits.shape[-1]).to(logits.dtype) if soft else labels
    logits = torch.cat([logits] * splits, -2)
    shapes = f"logits {tuple(logits.shape)} and labels {tuple(targets.shape)}"
    tried = loss
    with suppress(Exception):  # a copy, since it may keep a state: what cannot be copied is tried itself
        tried = copy.deepcopy(loss)
    try:
        with torch.enable_grad():
            number = tried(logits.detach().requires_grad_(), targets)
    except REFUSALS as error:
        remedy = "; it is a class: call it first, as in loss=…()" if isinstance(loss, type) else ""
        remedy += "; Mixup makes labels soft: --train.mixup 0" if soft else ""
        remedy += "; logits over time are (T, B, K): take their mean in it" if logits.ndim == 3 else ""
        raise OnespikeError(f"loss: it does not take {shapes}: {reason(error)}{remedy}") from error
    if not isinstance(number, Tensor) or number.numel() != 1:
        given = f"shape {tuple(number.shape)}" if isinstance(number, Tensor) else type(number).__name__
        raise OnespikeError(f"loss: expected a tensor of one number for {shapes}, got {given}")
    if not number.requires_grad:
        raise OnespikeError("loss: it does not depend on the logits: expected one with a gradient")
    if parts > 1 and splits == 1 and _adds_up(tried, logits.detach(), targets, number.item()):
        state = f"it sums over images, and a batch of {parts} parts takes the mean of theirs"
        raise OnespikeError(f"loss: {state}: take its mean, or train in one process, with --train.accumulate 1")


def _adds_up(loss: Loss, logits: Tensor, targets: Tensor, number: float) -> bool:
    """Whether a loss, a number above 0, is twice as large for twice the images."""
    with suppress(Exception), torch.no_grad():  # it may take batches of one size alone
        twice = loss(torch.cat([logits, logits], -2), torch.cat([targets, targets])).item()
        return number > 0 and abs(twice - 2 * number) < 1e-3 * number
    return False
