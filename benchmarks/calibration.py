"""`python -m benchmarks.calibration RUN`: what each step of calibration brings, in thresholds and in corrections."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.conversion_vs_spikingjelly import percent, predict, some
from benchmarks.machine import expect_counts
from onespike import convert
from onespike.cli.command import call
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


def calibration(
    run: Path,
    steps: list[int] = [1, 4],  # noqa: B006 - only read
    images: int = 1000,
    calibration_images: int = 512,
    out: Path = Path("results"),
) -> int:
    """Convert one trained network with other thresholds and corrections; none is trained on.

    Writes calibration-MODEL.csv, .md and .png: accuracy and the relative L2 error of the logits on some test images.

    Args:
        run: A run of an artificial network, such as of cifar10/resnet18.
        steps: Numbers of time steps.
        images: Test images.
        calibration_images: Training images that calibrate.
        out: Folder for the table.
    """
    expect_counts(images=images, calibration_images=calibration_images, steps=min(steps))
    expect_writable(folder=out)
    opened = Run.open(run)
    card, data, ann = opened.checkpoint("best").card, open_dataset(opened.recipe.data), load(run)
    calibrating, _ = some(data.train, calibration_images, card.mean, card.std)
    shown, labels = some(data.test, images, card.mean, card.std)
    wanted = predict(ann, shown, BATCH)
    about = (
        f"{card.model.name} with {getattr(card.model, 'activation', 'its own')} activations on {card.data}, before any "
        f"training on: {len(calibrating)} training images calibrate, {len(labels):,} test images are classified. The "
        "error is relative, L2, to the artificial network's logits."
    )
    rows: list[tuple[Any, ...]] = [("artificial network", "", 0, percent(wanted.argmax(1) == labels), 0.0)]
    for neurons in ("channel", "layer"):
        for name, choice in CHOICES.items():
            for count in steps:
                made = convert(ann, calibrating, time_steps=count, neurons=neurons, calibration=Calibration(**choice))
                logits = predict(made.network, shown, max(BATCH // count, 1))
                error = ((logits - wanted).norm() / wanted.norm()).item()
                rows.append((name, neurons, count, percent(logits.argmax(1) == labels), error))
                print(*rows[-1], file=sys.stderr, flush=True)
    columns = {
        "thresholds, correction": "",
        "a threshold per": "",
        "T": "d",
        "top-1 %": ".2f",
        "error of logits": ".3f",
    }
    table, name = Table(columns, rows), f"calibration-{card.model.name}"
    title = f"Calibration of {card.model.name}, step by step"
    write_report(out, name, title, table, [about, table], draw(rows))
    return 0


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


main = partial(call, calibration, usage="python -m benchmarks.calibration RUN")


if __name__ == "__main__":
    exit_with(main)
