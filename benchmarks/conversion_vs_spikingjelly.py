"""`python -m benchmarks.conversion_vs_spikingjelly RUN`: our conversion beside SpikingJelly's rate coding."""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from benchmarks.machine import expect_counts
from onespike import OnespikeError, convert
from onespike.cli.command import call
from onespike.cli.main import exit_with
from onespike.conversion import Calibration
from onespike.data.dataset import open_dataset
from onespike.data.loader import EvalLoader
from onespike.data.sets import ImageSet
from onespike.durable import csv_text, expect_writable, save_text
from onespike.environment import environment
from onespike.errors import requires
from onespike.training import Run, load
from reproduce.statistics import paired

SETTINGS = {
    "spikingjelly": {"mode": "Max"},
    "spikingjelly 99.9%": {"mode": "99.9%"},
    "spikingjelly channels": {"mode": "99.9%", "channel_wise": True, "half_threshold": True},
}
#: What of our calibration is used; the last one, all of it, is what is compared.
OURS = {
    "ours, thresholds": Calibration(correct="none"),
    "ours, biases too": Calibration(correct="bias"),
    "ours": Calibration(),
}
BATCH = 250


def conversion(
    run: Path,
    images: int = 10_000,
    steps: list[int] = [1, 2, 4, 8, 16, 32],  # noqa: B006 - only read
    calibration_images: int = 512,
    csv: Path | None = None,
) -> int:
    """Our conversion beside SpikingJelly's rate coding: the same trained network and images. Needs the extra bench.

    SpikingJelly converts once and is read after each time step, by its own example's loop, in three settings: its
    default (the maximum of each layer's activations), the 99.9th percentile, and channel by channel with potentials
    that start at half a threshold. Ours is calibrated for each T: thresholds, and the weights behind them by least
    squares; beside it stand its thresholds alone, and thresholds with biases. Both see the same training images,
    without labels; nothing is trained by gradients. (SpikingJelly's example calibrates on the whole training set: give
    more images to see whether that helps.) All classify the same test images, so the interval of the difference is of
    pairs: 95%, Student's. SpikingJelly's best setting at each T is what ours is compared with. It cannot trace resmlp12
    and vit12.

    Args:
        run: A run of an artificial network with ReLU, such as of cifar10/resnet18.
        images: Test images.
        steps: Numbers of time steps.
        calibration_images: Training images that calibrate.
        csv: A file for the numbers.
    """
    expect_counts(images=images, calibration_images=calibration_images, steps=min(steps))
    if images < 2:
        raise OnespikeError(f"--images: expected at least 2, which an interval takes, got {images}")
    expect_writable(csv)
    torch.manual_seed(0)
    facts, opened = environment(), Run.open(run)
    card, data, ann = opened.checkpoint("best").card, open_dataset(opened.recipe.data), load(run)
    if getattr(card.model, "activation", "") != "relu" or card.conversion:
        raise OnespikeError(f"{run}: expected a run of an artificial network with ReLU, such as cifar10/resnet18")
    calibrating, _ = some(data.train, calibration_images, card.mean, card.std)
    shown, labels = some(data.test, images, card.mean, card.std)
    hits = {"artificial": {0: right(ann, shown, labels)}}
    for name, setting in SETTINGS.items():
        started = time.perf_counter()
        hits[name] = spikingjelly(ann, calibrating, shown, labels, setting, steps)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    for name, calibration in OURS.items():
        hits[name] = {}
        for count in steps:
            started = time.perf_counter()
            network = convert(ann, calibrating, time_steps=count, calibration=calibration).network
            hits[name][count] = right(network, shown, labels, BATCH // min(count, 8))
            print(f"{name}, T = {count}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    report(hits, steps, facts, csv)
    return 0


def some(images: ImageSet, count: int, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Some images, always the same, normalised; and their labels."""
    chosen = images.select(np.sort(np.random.default_rng(0).permutation(len(images))[:count]))
    batches = list(EvalLoader(chosen, mean, std, BATCH))
    return torch.cat([batch for batch, _ in batches]), torch.cat([labels for _, labels in batches])


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, batch: int) -> Tensor:
    """Logits of all images."""
    return torch.cat([network(part) for part in images.split(batch)])


def right(network: nn.Module, images: Tensor, labels: Tensor, batch: int = BATCH) -> Tensor:
    """Whether each image is classified correctly."""
    return predict(network, images, batch).argmax(1) == labels


def percent(right: Tensor) -> float:
    """Share of the images that were classified correctly."""
    return 100 * right.float().mean().item()


@torch.no_grad()
def spikingjelly(
    ann: nn.Module, calibrating: Tensor, images: Tensor, labels: Tensor, setting: dict[str, object], wanted: list[int]
) -> dict[int, Tensor]:
    """Whether each image is classified correctly by SpikingJelly's conversion, after each number of time steps."""
    with requires("bench"):
        from spikingjelly.activation_based import ann2snn, functional
    # Batches of one size: its observer averages over batches, however small one is.
    batches = calibrating.split(next(size for size in range(BATCH, 0, -1) if len(calibrating) % size == 0))
    recipe = ann2snn.RateCodingRecipe(dataloader=batches, **setting)
    try:
        network = ann2snn.Converter(recipe=recipe).convert(ann).eval()
    except fx.proxy.TraceError as error:
        raise OnespikeError(f"SpikingJelly cannot trace this network: {error}; use resnet18") from error
    hits: dict[int, list[Tensor]] = {steps: [] for steps in wanted}
    for part in images.split(BATCH):
        functional.reset_net(network)
        total: Tensor | float = 0.0
        for step in range(1, max(wanted) + 1):
            total = total + network(part)
            if step in hits:
                hits[step].append(total.argmax(1))
    return {steps: torch.cat(guesses) == labels for steps, guesses in hits.items()}


def report(hits: dict[str, dict[int, Tensor]], wanted: list[int], facts: dict[str, Any], file: Path | None) -> None:
    """Print, and write, accuracies and the difference to the best of SpikingJelly's settings."""
    rows = []
    for steps in wanted:
        best = max(SETTINGS, key=lambda name: hits[name][steps].sum().item())
        points, low, high = paired(*("".join("01"[hit] for hit in hits[name][steps].int()) for name in ("ours", best)))
        rows.append(
            {
                "time_steps": steps,
                "artificial": round(percent(hits["artificial"][0]), 2),
                **{name: round(percent(hits[name][steps]), 2) for name in (*SETTINGS, *OURS)},
                "ahead": round(points, 2),
                "low": round(low, 2),
                "high": round(high, 2),
                "verdict": "ahead" if low > 0 else "behind" if high < 0 else "indistinguishable",
                "images": len(hits["ours"][steps]),
                **{name: facts[name] for name in ("commit", "processor", "threads")},
                "torch": torch.__version__,
            }
        )
    text = csv_text(list(rows[0]), [list(row.values()) for row in rows])
    print(text)
    if file:
        save_text(text, file)


main = partial(call, conversion, usage="python -m benchmarks.conversion_vs_spikingjelly RUN")


if __name__ == "__main__":
    exit_with(main)
