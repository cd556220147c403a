"""Our conversion beside SpikingJelly's rate coding: the same trained network, the same images, T = 1 to 32.

    python benchmarks/conversion_vs_spikingjelly.py RUN [--images 10000] [--steps 1 2 4 8 16 32] [--csv FILE]

RUN is a run of an artificial network with ReLU, such as of cifar10/resnet18. Needs: pip install 'onespike[bench]'.
SpikingJelly converts once and is read after each time step, by its own example's loop, in three settings: its default
(the maximum of each layer's activations), the 99.9th percentile, and channel by channel with potentials that start at
half a threshold. Ours is calibrated for each T. Both see the same training images, none is trained on. What is compared
are the same test images under both, so the interval of the difference is of pairs: 95%, by bootstrap.
"""

import argparse
import csv
import io
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from onespike import OnespikeError
from onespike.conversion import convert
from onespike.data.dataset import ImageSet, open_dataset
from onespike.data.loader import EvalLoader
from onespike.evaluation.output import save_text
from onespike.training import Run, load, load_recipe

SETTINGS = {
    "spikingjelly": {"mode": "Max"},
    "spikingjelly 99.9%": {"mode": "99.9%"},
    "spikingjelly channels": {"mode": "99.9%", "channel_wise": True, "half_threshold": True},
}
BATCH, RESAMPLES = 250, 2000


def main() -> None:
    """Convert both ways, test, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--calibration-images", type=int, default=512)
    parser.add_argument("--csv", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    torch.manual_seed(0)
    run = Run.open(options.run)
    card, data = run.checkpoint("best").card, open_dataset(load_recipe(str(run.config)).data)
    ann = load(options.run)
    calibrating, _ = some(data.train, options.calibration_images, card.mean, card.std)
    images, labels = some(data.test, options.images, card.mean, card.std)
    hits = {"artificial": {0: right(ann, images, labels)}}
    for name, setting in SETTINGS.items():
        started = time.perf_counter()
        hits[name] = spikingjelly(ann, calibrating, images, labels, setting, options.steps)
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    hits["ours"] = {}
    for steps in options.steps:
        started = time.perf_counter()
        network = convert(ann, calibrating, time_steps=steps).network
        hits["ours"][steps] = right(network, images, labels, BATCH // min(steps, 8))
        print(f"ours, T = {steps}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    report(hits, options.steps, options.csv)


def some(images: ImageSet, count: int, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Some images, always the same, normalised; and their labels."""
    chosen = images.select(np.sort(np.random.default_rng(0).permutation(len(images))[:count]))
    batches = list(EvalLoader(chosen, mean, std, BATCH))
    return torch.cat([batch for batch, _ in batches]), torch.cat([labels for _, labels in batches])


@torch.no_grad()
def right(network: nn.Module, images: Tensor, labels: Tensor, batch: int = BATCH) -> Tensor:
    """Whether each image is classified correctly."""
    return torch.cat([network(part).argmax(1) for part in images.split(batch)]) == labels


@torch.no_grad()
def spikingjelly(
    ann: nn.Module,
    calibrating: Tensor,
    images: Tensor,
    labels: Tensor,
    setting: dict[str, object],
    wanted: list[int],
) -> dict[int, Tensor]:
    """Whether each image is classified correctly by SpikingJelly's conversion, after each number of time steps."""
    try:
        from spikingjelly.activation_based import ann2snn, functional
    except ImportError as error:
        raise OnespikeError("spikingjelly is not installed: pip install 'onespike[bench]'") from error
    recipe = ann2snn.RateCodingRecipe(dataloader=calibrating.split(BATCH), **setting)
    network = ann2snn.Converter(recipe=recipe).convert(ann).eval()
    hits: dict[int, list[Tensor]] = {steps: [] for steps in wanted}
    for part in images.split(BATCH):
        functional.reset_net(network)
        total: Tensor | float = 0.0
        for step in range(1, max(wanted) + 1):
            total = total + network(part)
            if step in hits:
                hits[step].append(total.argmax(1))
    return {steps: torch.cat(guesses) == labels for steps, guesses in hits.items()}


def report(hits: dict[str, dict[int, Tensor]], wanted: list[int], file: Path | None) -> None:
    """Print, and write, accuracies and the difference to the best of SpikingJelly's settings."""
    rows: list[dict[str, object]] = []
    for steps in wanted:
        best = max(SETTINGS, key=lambda name: hits[name][steps].sum().item())
        low, high = interval(hits["ours"][steps].float() - hits[best][steps].float())
        ours = hits["ours"][steps].float().mean().item()
        rows.append(
            {
                "time_steps": steps,
                "artificial": round(100 * hits["artificial"][0].float().mean().item(), 2),
                **{name: round(100 * hits[name][steps].float().mean().item(), 2) for name in SETTINGS},
                "ours": round(100 * ours, 2),
                "ahead": round(100 * (ours - hits[best][steps].float().mean().item()), 2),
                "low": round(100 * low, 2),
                "high": round(100 * high, 2),
                "images": len(hits["ours"][steps]),
            }
        )
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    print(text.getvalue())
    if file:
        save_text(text.getvalue(), file)


def interval(differences: Tensor) -> tuple[float, float]:
    """The 95% interval of the mean, by bootstrap over the images."""
    values, generator = differences.numpy(), np.random.default_rng(0)
    means = [values[generator.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    try:
        main()
    except OnespikeError as error:
        sys.exit(f"error: {error}")
