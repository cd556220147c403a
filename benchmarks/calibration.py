"""What each step of calibration brings: one trained network, converted with other thresholds and corrections.

    python -m benchmarks.calibration RUN [--steps 1 4] [--images 1000] [--out results]

RUN is a run of an artificial network, such as of cifar10/resnet18. Writes calibration-MODEL.csv, .md and .png: accuracy
and the relative L2 error of the logits on some test images. None is trained on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.conversion_vs_spikingjelly import some
from benchmarks.machine import expect_counts
from onespike import convert
from onespike.cli.main import exit_with
from onespike.conversion import Calibration
from onespike.data.dataset import open_dataset
from onespike.durable import expect_writable
from onespike.training import Run, load
from reproduce.report import Table, write_report

#: What is varied; all else as by default.
CHOICES: dict[str, dict[str, Any]] = {
    "maximum, none": {"thresholds": "maximum", "correct": "none"},
    "percentile, none": {"thresholds": "percentile", "correct": "none"},
    "least error, none": {"correct": "none"},
    "least error, bias": {"correct": "bias"},
    "least error, weights, ridge 1": {"ridge": 1.0},
    "least error, weights, ridge 0.1": {},
    "least error, weights, ridge 0.01": {"ridge": 0.01},
}
BATCH = 125


def main(arguments: Sequence[str]) -> int:
    """Convert in each way, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--calibration-images", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    expect_counts(images=options.images, calibration_images=options.calibration_images, steps=min(options.steps))
    expect_writable(folder=options.out)
    run = Run.open(options.run)
    card, data = run.checkpoint("best").card, open_dataset(run.recipe.data)
    ann = load(options.run)
    calibrating, _ = some(data.train, options.calibration_images, card.mean, card.std)
    images, labels = some(data.test, options.images, card.mean, card.std)
    wanted = predict(ann, images, BATCH)
    rows: list[tuple[Any, ...]] = [("artificial network", "", 0, percent(wanted, labels), 0.0)]
    for neurons in ("channel", "layer"):
        for name, choice in CHOICES.items():
            for steps in options.steps:
                conversion = convert(
                    ann, calibrating, time_steps=steps, neurons=neurons, calibration=Calibration(**choice)
                )
                logits = predict(conversion.network, images, max(BATCH // steps, 1))
                error = ((logits - wanted).norm() / wanted.norm()).item()
                rows.append((name, neurons, steps, percent(logits, labels), error))
                print(*rows[-1], file=sys.stderr, flush=True)
    columns = {
        "thresholds, correction": "",
        "a threshold per": "",
        "T": "d",
        "top-1 %": ".2f",
        "error of logits": ".3f",
    }
    about = (
        f"{card.model.name} with {card.model.activation} activations on {card.data}, before any training on: "
        f"{len(calibrating)} training images calibrate, {len(labels):,} test images are classified. The error is "
        "relative, L2, to the artificial network's logits."
    )
    table, name = Table(columns, rows), f"calibration-{card.model.name}"
    title = f"Calibration of {card.model.name}, step by step"
    write_report(options.out, name, title, table, [about, table], draw(rows))
    return 0


@torch.no_grad()
def predict(network: torch.nn.Module, images: Tensor, batch: int) -> Tensor:
    """Logits of all images."""
    return torch.cat([network(part) for part in images.split(batch)])


def percent(logits: Tensor, labels: Tensor) -> float:
    """Accuracy, in percent."""
    return 100 * (logits.argmax(1) == labels).float().mean().item()


def draw(rows: list[tuple[Any, ...]]) -> Figure:
    """Draw accuracies as bars, a panel for each number of time steps."""
    steps = sorted({row[2] for row in rows[1:]})
    figure = Figure((4 + 3 * len(steps), 4.5), layout="constrained")
    for axis, count in zip(figure.subplots(1, len(steps), sharey=True, squeeze=False)[0], steps, strict=True):
        bars = [row for row in rows[1:] if row[2] == count]
        axis.barh([f"{row[0]} ({row[1]})" for row in bars], [row[3] for row in bars])
        axis.axvline(rows[0][3], color="black", linestyle="--", label=rows[0][0])
        axis.set(title=f"T = {count}", xlabel="top-1 %")
        axis.legend()
    axis.invert_yaxis()
    return figure


if __name__ == "__main__":
    exit_with(main)
