"""Optimiser, schedule, loss: timm's, chosen by a recipe."""

from collections.abc import Callable
from typing import Any

import torch
from timm.data import Mixup
from timm.loss import JsdCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn

from onespike.errors import OnespikeError, unknown
from onespike.training.config import Recipe, TrainConfig

#: What PyTorch does in one kernel for each weight, on CPU, CUDA and MPS (timm's names); on a CPU 2 to 4 times as fast.
FUSED = ("sgd", "nesterov", "momentum", "adam", "adamw")


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimiser.

    Raises:
        OnespikeError: timm has none of that name, or it cannot be used here.
    """
    if config.optimizer not in list_optimizers():
        raise unknown("train.optimizer", config.optimizer, list_optimizers())
    try:
        optimizer = create_optimizer_v2(
            model,
            opt=config.optimizer,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **({"fused": True} if config.optimizer in FUSED else {}),
        )
    except (AssertionError, ImportError, TypeError, RuntimeError) as error:  # it wants a package, a device, an argument
        raise OnespikeError(f"train.optimizer: {config.optimizer} cannot be used here: {error}") from error
    if getattr(optimizer, "is_second_order", False):
        raise OnespikeError(f"train.optimizer: {config.optimizer} wants second derivatives; a spike has none")
    return optimizer


def make_scheduler(config: TrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Any:
    """Make the learning rate's cosine, with warm-up and noise; `step_update(n)` sets the rate of step n."""
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=config.epochs,
        min_lr=config.min_lr,
        warmup_epochs=config.warmup_epochs,
        warmup_lr=config.warmup_lr,
        noise=list(config.noise_range) if config.noise_range else None,
        noise_pct=config.noise_limit,
        noise_seed=config.seed,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return scheduler


def make_mixup(config: TrainConfig, classes: int) -> Mixup | None:
    """Make Mixup, which also smooths the labels; None if the recipe has none."""
    if not config.mixup:
        return None
    return Mixup(mixup_alpha=config.mixup, label_smoothing=config.label_smoothing, num_classes=classes)


def make_loss(recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the loss: cross-entropy, with soft targets under Mixup, with a Jensen-Shannon term under AugMix splits."""
    smoothing = recipe.train.label_smoothing
    if recipe.data.augmix_splits:
        return JsdCrossEntropy(num_splits=recipe.data.augmix_splits, smoothing=smoothing)
    if recipe.train.mixup:
        return SoftTargetCrossEntropy()
    return nn.CrossEntropyLoss(label_smoothing=smoothing)
