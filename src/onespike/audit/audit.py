"""The audit of a run, of a fresh model, or of any model on any images."""

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from onespike.audit.joules import Joules, measure_joules
from onespike.audit.latency import measure_latency
from onespike.audit.result import Audit
from onespike.audit.scaling import scaling
from onespike.counting.energy import EnergyTable
from onespike.counting.operations import count_operations
from onespike.data.config import DataConfig
from onespike.data.dataset import Dataset, open_dataset
from onespike.data.loader import EvalLoader, Share, derive_seed
from onespike.errors import OnespikeError
from onespike.models import ModelConfig, OnespikeConfig
from onespike.training.checkpoint import ModelCard
from onespike.training.config import TrainConfig
from onespike.training.optim import make_accelerator
from onespike.training.recipe import load_recipe
from onespike.training.run import Run

#: Images in a batch while counting, and in the large batch of the latency.
_BATCH = 64


def audit(
    model: nn.Module,
    batches: Iterable[Tensor],
    name: str = "",
    table: EnergyTable | None = None,
    accuracy: float | None = None,
    seed: int = 0,
) -> Audit:
    """Audit any model on any images.

    Args:
        model: The model, trained, on the device of the images.
        batches: Batches of real images as the model takes them, (B, ...).
        name: What to call it; its class by default.
        table: The constants of energy; the package's own by default.
        accuracy: Top-1 on the test images in percent, if it is known: without it no energy is compared.
        seed: Seed of the draws of a Bernoulli encoding.

    Returns:
        Its operations and energy.

    Raises:
        OnespikeError: The model does something that cannot be counted, which is named; or there are no images.
    """
    operations = count_operations(model, batches, lambda number: torch.manual_seed(derive_seed(seed, number)))
    return Audit(name or type(model).__name__, operations, table or EnergyTable.load(), accuracy=accuracy)


def audit_run(
    run: Run,
    data: DataConfig | None = None,
    images: int = 512,
    table: EnergyTable | None = None,
    device: Literal["auto", "cpu"] = "auto",
    latency: bool = True,
    scale: bool = False,
) -> Audit:
    """Audit the network of a run, with its best weights, on test images.

    Args:
        run: The run.
        data: The images; those of the run if None.
        images: How many of the test images, evenly spread.
        table: The constants of energy; the package's own by default.
        device: "auto" takes the accelerator if there is one.
        latency: Whether to measure time, memory and joules.
        scale: Whether to count and time the network in other sizes as well.

    Returns:
        What it costs.

    Raises:
        OnespikeError: The run or the data cannot be read, do not suit each other, or the network cannot be counted.
    """
    recipe = load_recipe(str(run.config))
    checkpoint = run.checkpoint("best")
    card = checkpoint.card
    network = card.build()
    network.load_state_dict(checkpoint.weights)
    dataset = open_dataset(data or recipe.data)
    result = _audit(card, network, dataset, images, table, device, latency, scale)
    same = (dataset.name, dataset.classes) == (card.data, card.classes)  # else what training found says nothing of them
    return replace(result, name=str(run.folder), accuracy=_accuracy(run, card.data) if same else None)


def audit_model(
    config: ModelConfig,
    data: DataConfig,
    images: int = 512,
    table: EnergyTable | None = None,
    device: Literal["auto", "cpu"] = "auto",
    latency: bool = True,
    scale: bool = False,
) -> Audit:
    """Audit a registered model with fresh weights: its firing rates mean little, its dense counts are exact.

    Args:
        config: The architecture.
        data: The images.
        images: How many of the test images, evenly spread.
        table: The constants of energy; the package's own by default.
        device: "auto" takes the accelerator if there is one.
        latency: Whether to measure time, memory and joules.
        scale: Whether to count and time the network in other sizes as well.

    Returns:
        What it costs.

    Raises:
        OnespikeError: The data cannot be read, or do not suit the model.
    """
    dataset = open_dataset(data)
    torch.manual_seed(0)
    card = ModelCard(
        config, dataset.classes, dataset.in_channels, dataset.image_size, dataset.mean, dataset.std, dataset.name
    )
    result = _audit(card, card.build(), dataset, images, table, device, latency, scale)
    return replace(result, name=config.name, trained=False)


def _audit(
    card: ModelCard,
    network: nn.Module,
    dataset: Dataset,
    images: int,
    table: EnergyTable | None,
    device: Literal["auto", "cpu"],
    latency: bool,
    scale: bool,
) -> Audit:
    if images < 1:
        raise OnespikeError(f"images: expected at least 1, got {images}")
    if (dataset.in_channels, dataset.image_size) != (card.in_channels, card.image_size):
        raise OnespikeError(
            f"the images of {dataset.name} have {dataset.in_channels} channels and {dataset.image_size} pixels a side, "
            f"the network takes {card.in_channels} and {card.image_size}: choose others with the options --data.*"
        )
    if scale and not isinstance(card.config, OnespikeConfig):
        raise OnespikeError(f"--scaling: expected a network of spiking blocks such as conv12, got {card.config.name}")
    place = make_accelerator(TrainConfig(device=device)).device
    network = network.to(place).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    count = min(images, len(dataset.test))
    chosen = dataset.test.select(np.linspace(0, len(dataset.test) - 1, count).round().astype(int))
    batches = EvalLoader(chosen, card.mean, card.std, _BATCH, Share(place))
    result = audit(network, (batch for batch, _ in batches), table=table)
    joules, measured = Joules(None, "not measured: the latency was not asked for"), []
    if latency:
        large, _ = next(iter(batches))
        measured = [measure_latency(network, large[:1]), measure_latency(network, large)]
        joules = measure_joules(network, large)
    return replace(
        result,
        preset=card.config.preset,
        data=dataset.name,
        latency=tuple(measured),
        joules=joules,
        scaling=scaling(card.config, card.in_channels, card.image_size, latency)
        if scale and isinstance(card.config, OnespikeConfig)
        else (),
    )


def _accuracy(run: Run, data: str) -> float | None:
    """Top-1 on the test images, as training found it, or else an evaluation of the best weights on these images."""
    try:
        return float(json.loads(run.summary.read_text())["test_top1"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        content = json.loads((run.folder / "evaluation" / "evaluation.json").read_text())
        of_these = (content["part"], content["checkpoint"], content["data"]) == ("test", "best", data)
        return float(content["top1"]["mean"]) if of_these else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
