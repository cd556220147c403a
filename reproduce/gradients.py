"""Do deep networks train? Gradient norms of every block at the start, and after some steps of training."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from onespike.errors import OnespikeError
from onespike.models import Network, expect_blocks
from onespike.models.onespike import DEPTHS
from onespike.training.recipe import load_recipe
from onespike.training.set_up import set_up
from onespike.training.trainer import Trainer
from reproduce.report import Table, write_report

#: Steps over which the loss is averaged, at the beginning and at the end.
WINDOW = 10


@dataclass(frozen=True)
class Gradients:
    """How one model begins to train.

    `start` and `end` are the gradient norms of every block, at the start with a head that is not zero; the losses are
    means of the first steps and of the last.
    """

    model: str
    start: list[float]
    end: list[float]
    first_loss: float
    last_loss: float

    @property
    def unit(self) -> str:
        """Its unit: the name without the depth."""
        return self.model.rstrip("0123456789")


def gradients(
    units: tuple[str, ...] = ("conv", "lstm"),
    depths: tuple[int, ...] = tuple(DEPTHS),
    preset: str = "paper",
    steps: int = 100,
    batch_size: int = 64,
    channels: tuple[int, ...] | None = None,
    recipe: str = "cifar10/conv12",
    root: Path | None = None,
    out: Path = Path("results"),
) -> None:
    """Gradient norms of all blocks at each depth, at the start and after some steps.

    Args:
        units: Units of the models.
        depths: Depths of the models.
        preset: Their preset.
        steps: Steps of training; a tenth of them warms up.
        batch_size: Images for each step.
        channels: Channels of the stages; the paper's by default.
        recipe: The recipe, but for the model and the budget.
        root: Local folder of its data set; the Hub by default.
        out: Folder for gradients.csv, gradients.md and gradients.png.
    """
    if not units or not depths:
        raise OnespikeError("units and depths: expected at least one of each")
    if steps < 2 * WINDOW:
        raise OnespikeError(f"steps: expected at least {2 * WINDOW}, got {steps}")
    overrides: dict[str, Any] = {
        "model.preset": preset,
        "data.limit": -(-steps * batch_size * 10 // 9),
        "data.holdout": 0.1,
        "train.batch_size": batch_size,
        "train.epochs": 1,
        "train.warmup_epochs": 0.1,
    }
    overrides |= {} if channels is None else {"model.channels": list(channels)}
    overrides |= {} if root is None else {"data.root": str(root)}
    found = []
    for model in [f"{unit}{depth}" for unit in units for depth in depths]:
        one = measure(model, recipe, overrides, steps)
        found.append(one)
        print(
            f"{model}: loss {one.first_loss:.3f} to {one.last_loss:.3f}, smallest norm of a block "
            f"{min(one.start):.2e} at the start, {min(one.end):.2e} after {steps} steps"
        )
    widths = "the paper's channels" if channels is None else f"channels {', '.join(map(str, channels))}"
    about = (
        f"Preset {preset}, {widths}, the recipe {recipe} for {steps} steps of {batch_size} images, a tenth of them "
        "as warm-up. At the start the head, which begins at 0 and would let no gradient through, is drawn "
        "(Xavier uniform) for this measurement alone."
    )
    parts = [about, _by_model(found)]
    write_report(out, "gradients", "Gradient norms by depth", _by_block(found), parts, _draw(found, steps))


def _by_model(found: list[Gradients]) -> Table:
    norms = ("smallest at the start", "largest at the start", "smallest after", "largest after")
    losses = (f"loss, first {WINDOW} steps", f"loss, last {WINDOW}")
    rows = [
        (one.model, min(one.start), max(one.start), min(one.end), max(one.end), one.first_loss, one.last_loss)
        for one in found
    ]
    return Table({"model": "", **dict.fromkeys(norms, ".2e"), **dict.fromkeys(losses, ".3f")}, rows)


def _by_block(found: list[Gradients]) -> Table:
    rows = [
        (one.model, block, start, end)
        for one in found
        for block, (start, end) in enumerate(zip(one.start, one.end, strict=True), 1)
    ]
    return Table(dict.fromkeys(("model", "block", "norm_start", "norm_end"), ""), rows)


def measure(model: str, recipe: str, overrides: Mapping[str, Any], steps: int) -> Gradients:
    """Train one model for some steps, and measure before and after."""
    resolved = load_recipe(recipe, {"model.name": model, **overrides})
    if resolved.data.augmix_splits:
        raise OnespikeError(f"recipe: {recipe} has data.augmix_splits, batches of several parts; choose one without")
    trainer = set_up(resolved)
    network = expect_blocks(trainer.network, model)
    if len(trainer.batches) < steps:
        raise OnespikeError(
            f"steps: expected at most {len(trainer.batches)}, the batches of {resolved.train.batch_size} that the "
            f"training images of {resolved.data.name} give, got {steps}"
        )
    batches = list(islice(trainer.batches.epoch(0, 0), steps))
    zero = network.head.weight.detach().clone()
    nn.init.xavier_uniform_(network.head.weight)
    start = _norms(trainer, network, *batches[0])
    with torch.no_grad():
        network.head.weight.copy_(zero)
    losses = [trainer.step(number, images, labels)[0] for number, (images, labels) in enumerate(batches)]
    end = _norms(trainer, network, *batches[-1])
    return Gradients(model, start, end, mean(losses[:WINDOW]), mean(losses[-WINDOW:]))


def _norms(trainer: Trainer, network: Network, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
    network.train()
    nn.functional.cross_entropy(network(images).float(), labels).backward()
    norms = []
    for block in network.blocks():
        found = [parameter.grad for parameter in block.parameters() if parameter.grad is not None]
        norms.append(torch.stack([gradient.norm() for gradient in found]).norm().item())
    trainer.optimizer.zero_grad()
    return norms


def _draw(found: list[Gradients], steps: int) -> Figure:
    """One column for each unit: above at the start, below after the steps; a line for each depth."""
    units = list(dict.fromkeys(one.unit for one in found))
    figure = Figure((1.2 + 2.2 * len(units), 4.8), layout="constrained")
    grid = figure.subplots(2, len(units), sharex=True, sharey=True, squeeze=False)
    for column, unit in zip(grid.T, units, strict=True):
        for one in found:
            if one.unit == unit:
                for axis, norms in zip(column, (one.start, one.end), strict=True):
                    axis.plot(range(1, len(norms) + 1), norms, label=len(norms))
        column[0].set_title(unit)
        column[1].set_xlabel("block")
    for axis in grid.flat:
        axis.set_yscale("log")
        axis.grid(alpha=0.3)
    grid[0, 0].set_ylabel("gradient norm at the start")
    grid[1, 0].set_ylabel(f"after {steps} steps")
    grid[0, -1].legend(title="blocks", frameon=False, fontsize="small")
    return figure
