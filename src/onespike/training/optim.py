"""Optimiser and schedule, timm's, chosen by a recipe."""

from fnmatch import fnmatch
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from torch import nn

from onespike.errors import OnespikeError, unknown
from onespike.training.checkpoint import uncompiled
from onespike.training.config import TrainConfig

#: Optimisers that PyTorch fuses on CPU, CUDA and MPS (timm's names); on a CPU they are 2 to 4 times as fast.
FUSED = ("sgd", "nesterov", "momentum", "adam", "adamw")
#: Muon's orthogonal steps by three iterations of Newton and Schulz, as in Jordan's airbench94; timm's default is five.
#: Networks are as accurate, and sooner trained: in every process all weights take them in full.
ORTHOGONAL = {"ns_steps": 3, "ns_coefficients": "original"}


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimiser; an `OnespikeError` if timm has none of that name, or it cannot be used here."""
    name = config.optimizer.removeprefix("lookahead_")
    if name not in list_optimizers():
        raise unknown("train.optimizer", name, list_optimizers())
    if not any(parameter.requires_grad for parameter in model.parameters()):
        expected = "expected some that require a gradient; choose another, or evaluate it as it is"
        raise OnespikeError(f"model: it has no weights to train; {expected}")
    try:
        own = {"fused": True} if name in FUSED else ORTHOGONAL if "muon" in name else {}
        groups = parameter_groups(config, model)
        optimizer = create_optimizer_v2(groups, config.optimizer, config.lr, momentum=config.momentum, **own)
    except (AssertionError, ImportError, TypeError, ValueError, RuntimeError) as error:  # it needs a package, a device
        raise OnespikeError(f"train.optimizer: {config.optimizer} cannot be used here: {error}") from error
    if getattr(optimizer, "is_second_order", False):
        raise OnespikeError(f"train.optimizer: {config.optimizer} wants second derivatives; a spike has none")
    more = [key for key in optimizer.state_dict() if key not in ("state", "param_groups")]
    # A dtype of its own: a checkpoint would give such tensors back in that of the weights.
    more += [key for group in optimizer.param_groups for key, one in group.items() if isinstance(one, torch.dtype)]
    if more:
        state = f"keeps {more[0]} beside the state of the weights, so that no run could be resumed; choose another"
        raise OnespikeError(f"train.optimizer: {config.optimizer} {state}")
    return optimizer


def parameter_groups(config: TrainConfig, model: nn.Module) -> list[dict[str, Any]]:
    """Split the parameters into those exempt from weight decay, which may learn at another rate, and the weights.

    Exempt are parameters along a single axis, in whatever shape (biases, norms, thresholds), and those that the model
    names in `no_weight_decay`, a method or a set of names or patterns. Muon makes the steps of matrices orthogonal,
    those named there included. The head, which is the last weight, and what is no matrix to timm take AdamW's steps
    (Jordan et al. 2024).
    """
    shapes = {name: one.shape for name, one in model.named_parameters() if one.requires_grad}
    exempt = {name for name, shape in shapes.items() if shape.numel() == max(shape, default=1)}
    named = getattr(model, "no_weight_decay", ())
    patterns = tuple(named() if callable(named) else named)
    exempt |= {name for name in shapes if any(fnmatch(uncompiled(name), pattern) for pattern in patterns)}
    head = [name for name in shapes if name not in exempt][-1:] if "muon" in config.optimizer else []
    groups: list[dict[str, Any]] = param_groups_weight_decay(
        model, 1.0, no_weight_decay_list=exempt, fallback_list=head
    )
    for group in groups:  # timm's scheduler multiplies by `lr_scale`
        group["lr_scale"] = 1.0 if group["weight_decay"] else config.norm_lr_factor
        group["weight_decay"] *= config.weight_decay
    return groups


def make_scheduler(config: TrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> Any:
    """Make the learning rate's cosine, with warm-up and noise; `step_update(n)` sets the rate of step n."""
    cosine = {"sched": "cosine", "num_epochs": config.epochs, "min_lr": config.min_lr}
    warm_up = {"warmup_epochs": config.warmup_epochs, "warmup_lr": min(config.warmup_lr, config.lr)}
    between = list(config.noise_range) if config.noise_range else None
    noise = {"noise": between, "noise_pct": config.noise_limit, "noise_seed": config.seed}
    steps = {"step_on_epochs": False, "updates_per_epoch": steps_per_epoch}
    return create_scheduler_v2(optimizer, **cosine, **warm_up, **noise, **steps)[0]
