"""The standard spiking network to compare with: VGG-11 over several time steps, trained by another run's recipe."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load, save

from onespike.audit import Audit, audit
from onespike.data.dataset import Dataset, open_dataset
from onespike.data.loader import EvalLoader, Share, TrainLoader, derive_seed
from onespike.data.policy import seed_everything
from onespike.durable import write_whole
from onespike.errors import OnespikeError
from onespike.models import SpikingVGG11, create_model
from onespike.training.config import Recipe
from onespike.training.device import make_accelerator
from onespike.training.optim import make_loss, make_mixup, make_optimizer, make_scheduler
from onespike.training.scores import score
from reproduce.trained import BATCH

TIME_STEPS = 4


@dataclass(frozen=True)
class Standard:
    """A trained VGG-11.

    Attributes:
        network: The network, on the CPU.
        facts: What `standard.json` holds: width, time steps, epochs, best epoch, test accuracy, data set.
    """

    network: SpikingVGG11
    facts: dict[str, Any]

    def audit(self, recipe: Recipe, images: int) -> Audit:
        """Audit it on test images, evenly spread, as runs are audited.

        Raises:
            OnespikeError: The recipe's images are not those that it was trained on.
        """
        dataset = open_dataset(recipe.data)
        if (dataset.name, dataset.num_classes) != (self.facts["data"], self.facts["classes"]):
            raise OnespikeError(
                f"the VGG-11 was trained on {self.facts['data']} and the run on {dataset.name}: choose another --vgg"
            )
        count = min(images, len(dataset.test))
        chosen = dataset.test.select(np.linspace(0, len(dataset.test) - 1, count).round().astype(int))
        batches = EvalLoader(chosen, dataset.mean, dataset.std, BATCH)
        found = audit(self.network, (batch for batch, _ in batches), accuracy=self.facts["test_top1"])
        return replace(found, name=f"spiking VGG-11, T = {self.facts['time_steps']}", data=dataset.name)


def open_or_train_vgg(folder: Path, recipe: Recipe, width: int) -> Standard:
    """Open a VGG-11, or train it: the very recipe of another network, without a moving average of its weights.

    Its weights are those of the epoch that did best on the held-out images, as everywhere here. A training that is
    stopped starts anew.

    Args:
        folder: Where it is, or shall be.
        recipe: The recipe of the network that it is compared with; its model is not used.
        width: Channels of the first convolution; of one that is trained already, what it has.

    Returns:
        The network.

    Raises:
        OnespikeError: There is something else in the folder, or the images do not suit the network.
    """
    facts_file, weights_file = folder / "standard.json", folder / "model.safetensors"
    if not facts_file.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OnespikeError(f"{folder} is not empty and holds no VGG-11: choose another --vgg")
        network, facts = _train(recipe, width)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(weights_file, save(network.state_dict()))
        write_whole(facts_file, json.dumps(facts, indent=2))
    try:
        facts = json.loads(facts_file.read_text())
        network = create_model(
            "spiking-vgg11",
            num_classes=facts["classes"],
            in_channels=facts["in_channels"],
            width=facts["width"],
            time_steps=facts["time_steps"],
        )
        network.load_state_dict(load(weights_file.read_bytes()))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise OnespikeError(
            f"{folder} cannot be read as a VGG-11: {error}; delete it, or choose another --vgg"
        ) from None
    return Standard(network.eval(), facts)


def _train(recipe: Recipe, width: int) -> tuple[SpikingVGG11, dict[str, Any]]:
    config, data = recipe.train, open_dataset(recipe.data)
    if data.image_size % 16:
        raise OnespikeError(
            f"the VGG-11 halves its map four times: expected a multiple of 16 pixels, got {data.image_size}"
        )
    accelerator, console = make_accelerator(config), Console(highlight=False)
    share = Share(accelerator.device)
    torch.manual_seed(config.seed)
    network = create_model(
        "spiking-vgg11",
        num_classes=data.num_classes,
        in_channels=data.in_channels,
        image_size=data.image_size,
        width=width,
        time_steps=TIME_STEPS,
    )
    network = network.to(accelerator.device)
    batches = TrainLoader(data, recipe.data, config.batch_size, config.seed, share)
    held_out, test = (
        EvalLoader(part, data.mean, data.std, config.batch_size, share) for part in (data.validation, data.test)
    )
    loss_of, mixup = make_loss(recipe), make_mixup(config, data.num_classes)
    plain = make_optimizer(config, network)
    scheduler = make_scheduler(config, plain, len(batches))
    model, optimizer = accelerator.prepare(network, plain)
    best, best_epoch, weights = -1.0, 0, network.state_dict()
    for epoch in range(config.epochs):
        for step, (images, labels) in enumerate(batches.epoch(epoch), epoch * len(batches)):
            seed_everything(derive_seed(config.seed, step))
            scheduler.step_update(step)
            x, y = mixup(images, labels) if mixup else (images, labels)
            with accelerator.autocast():
                loss = loss_of(model(x), y)
            accelerator.backward(loss)
            if config.clip_grad:
                accelerator.clip_grad_norm_(network.parameters(), config.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
        top1 = _top1(network, held_out, data, accelerator) if len(data.validation) else float(epoch)
        if top1 >= best:
            best, best_epoch = top1, epoch + 1
            weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        console.print(f"VGG-11: epoch {epoch + 1}/{config.epochs}  loss {loss.item():.4f}  held out {top1:.2f}%")
    network.load_state_dict(weights)
    facts = {
        "test_top1": _top1(network, test, data, accelerator),
        "best_epoch": best_epoch,
        "epochs": config.epochs,
        "seed": config.seed,
        "width": width,
        "time_steps": TIME_STEPS,
        "classes": data.num_classes,
        "in_channels": data.in_channels,
        "data": data.name,
    }
    return network.cpu(), facts


def _top1(network: SpikingVGG11, batches: EvalLoader, data: Dataset, accelerator: Any) -> float:
    return score(network, batches, data.num_classes, accelerator).top1
