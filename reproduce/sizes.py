"""How large the registered models are, and what one image takes: weights, and operations by what arrives."""

from pathlib import Path

import torch

from onespike.counting import count_operations
from onespike.models import MODELS, create_model
from onespike.search.drawing import plain_figure
from reproduce.report import Table, write_report

#: Depths of the paper's networks that are left out: the same blocks, more often.
DEEPER = ("20", "24", "36")


def models(out: Path = Path("results")) -> None:
    """Weights and operations of the registered models, with fresh weights: what does not depend on their training.

    Args:
        out: Folder for models.csv, models.md and models.png.
    """
    ours = [name for name, family in MODELS.items() if family.builder.__module__.startswith("onespike.")]
    names = [name for name in ours if not name.endswith(DEEPER)]
    rows = []
    for name in names:
        torch.manual_seed(0)
        network = create_model(name, num_classes=10, in_channels=3, image_size=32)
        counted = count_operations(network, [torch.randn(1, 3, 32, 32)])
        rows.append([name, counted.weights, round(counted.macs), round(counted.macs_of("real"))])
    columns = {"model": "", "weights": ",d", "multiply-accumulates": ",d", "of these on real numbers": ",d"}
    about = (
        "Of images of 32x32 pixels in colour and ten classes, all options as by default. "
        "Multiply-accumulates are dense: what the layers would take if nothing were skipped. Those on real numbers "
        "are multiplied; of the others only those are added at which a spike arrives. Of the paper's networks those of "
        "12 blocks are here: deeper ones have the same blocks, more often."
    )
    figure, axis = plain_figure(9, 5.5)
    axis.scatter([row[1] for row in rows], [row[2] for row in rows], s=18)
    for name, weights, macs, _ in rows:
        axis.annotate(name, (weights, macs), (4, 2), textcoords="offset points", fontsize=6)
    axis.set(xscale="log", yscale="log", xlabel="weights", ylabel="multiply-accumulates of an image, dense")
    table = Table(columns, rows)
    write_report(out, "models", "Models: weights and multiply-accumulates", table, [about, table], figure)
