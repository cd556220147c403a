"""The fusion functions: their surfaces beside the plane, and how often neurons fire with each of them.

The supplement calls a neuron over-activated where the plane X + Y lies in (th, 2 th]: it is above the threshold though
neither of the two potentials is. So, for any fusion and potentials of 0 or more:

    over-activated   Omega(X, Y) > th   though X <= th and Y <= th
    suppressed       the plane over-activates, Omega does not
    added            Omega over-activates, the plane does not
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from onespike.errors import OnespikeError
from onespike.functional import FUSIONS, fuse
from onespike.models import OnespikeConfig, expect_blocks
from onespike.search.drawing import make_plain
from onespike.training.checkpoint import Checkpoint
from onespike.training.config import TrainConfig
from onespike.training.device import make_accelerator
from onespike.training.monitor import SpikeMonitor
from onespike.training.run import Run
from onespike.training.scores import score
from reproduce.report import Table, write_report
from reproduce.trained import describe, expect_images, open_or_train, some_test_images

#: Points along each side of a square on which a surface is looked at.
POINTS = 400
#: What the small network changes in the recipe "digits".
SMALL = {"train.epochs": 6, "train.warmup_epochs": 1}


@dataclass(frozen=True)
class Surface:
    """What a fusion does to two potentials of 0 or more. Shares are in percent of the square 0 <= X, Y <= th.

    Attributes:
        over_activated: Share that is above the threshold though neither potential is.
        suppressed: Share that the plane over-activates and this fusion does not.
        added: Share that this fusion over-activates and the plane does not.
        grad_d: Volume below the surface less the volume below the plane, over th <= X, Y <= 2 th.
    """

    over_activated: float
    suppressed: float
    added: float
    grad_d: float


def square(low: float, high: float) -> tuple[Tensor, Tensor]:
    """Points of a square, each in the middle of its cell: X and Y, (`POINTS`, `POINTS`), float64."""
    step = (high - low) / POINTS
    line = torch.arange(POINTS, dtype=torch.float64) * step + low + step / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x, y


def measure(kind: str, theta: float, th: float) -> Surface:
    """Measure where a fusion, with its radian factor and a threshold, suppresses over-activation."""
    x, y = square(0, th)
    fused, plane = fuse(x, y, kind, theta) > th, x + y > th
    far_x, far_y = square(th, 2 * th)
    lowered = fuse(far_x, far_y, kind, theta) - (far_x + far_y)
    return Surface(
        100 * fused.double().mean().item(),
        100 * (plane & ~fused).double().mean().item(),
        100 * (fused & ~plane).double().mean().item(),
        lowered.mean().item() * th**2,
    )


@dataclass(frozen=True)
class Firing:
    """How a trained network fires with one fusion.

    Attributes:
        images: Test images that it saw.
        top1: Accuracy on them, in percent.
        rates: Firing rate of each block's last layer of neurons, 0..1: the one whose potentials are fused. (A
            convolutional block's first layer takes its potential from the window before, and fuses nothing.)
        neurons: Number of neurons in each of these layers.
    """

    images: int
    top1: float
    rates: list[float]
    neurons: list[int]

    @property
    def rate(self) -> float:
        """Firing rate of all these neurons together: blocks on large maps have more of them."""
        fired = sum(rate * neurons for rate, neurons in zip(self.rates, self.neurons, strict=True))
        return fired / sum(self.neurons)


def fire(run: Run, checkpoint: Checkpoint, config: OnespikeConfig, images: int) -> dict[str, Firing]:
    """Swap the fusion of a trained network, the weights as they are, and count its spikes; the same draws for all.

    Raises:
        OnespikeError: The run's potentials do not travel, though its unit's would with another fusion.
    """
    accelerator = make_accelerator(TrainConfig())
    batches = some_test_images(run, checkpoint, images, accelerator.device)
    found = {}
    for kind in FUSIONS:
        swapped: dict[str, Any] = {"fusion": kind}
        card = replace(checkpoint.card, model=replace(config, **swapped))
        network = card.build()
        own = network.state_dict().keys()
        if own - checkpoint.weights.keys():
            raise OnespikeError(
                f"{run.folder} was trained with fusion {config.fusion}: it has no weights for "
                f"potentials that travel, as {kind} needs them; expected a run with another fusion"
            )
        network.load_state_dict({name: tensor for name, tensor in checkpoint.weights.items() if name in own})
        network = network.to(accelerator.device)
        monitor = SpikeMonitor(network)
        with monitor.watch():
            scores = score(network, batches, len(card.classes), accelerator)
        rates = [block.layers[-1] for block in monitor.summary().values()]
        windows = [block.draw_shape(1) for block in network.blocks()]  # (V, 1, C, M, M); dilated ones overlap
        neurons = [
            count * side**2 * block.unit.out_channels
            for (count, *_, side), block in zip(windows, network.blocks(), strict=True)
        ]
        found[kind] = Firing(scores.images, scores.top1, rates, neurons)
    return found


def fusion(
    out: Path = Path("results"), run: Path | None = None, images: int = 1000, work: Path = Path("runs/paper")
) -> None:
    """Surfaces of all fusions and the plane, and how often the neurons of a trained network fire with each.

    Args:
        out: Folder for fusion.csv, fusion.md and fusion.png.
        run: Run folder of the trained network; by default a small one is trained on the digits.
        images: Test images on which spikes are counted, at most.
        work: Folder in which the small network is trained.
    """
    expect_images(images)
    trained = open_or_train(run, "fusion-digits", SMALL, work)
    checkpoint = trained.checkpoint("best")
    config = expect_blocks(checkpoint.card.build(), checkpoint.card.name).config
    neuron = config.neuron
    surfaces = {kind: measure(kind, config.theta, neuron.threshold) for kind in FUSIONS}
    firing = fire(trained, checkpoint, config, images)
    means = {kind: one.rate for kind, one in firing.items()}
    blocks = range(len(firing["sum"].rates))

    shape = {
        "fusion": "",
        "over-activated %": ".1f",
        "suppressed %": ".1f",
        "added %": ".1f",
        "grad D": ".4f",
        "firing rate": ".4f",
        "against the plane": "+.1%",
        "top-1 %": ".2f",
    }
    against = {kind: mean / means["sum"] - 1 if means["sum"] else None for kind, mean in means.items()}
    rows = [
        [kind, *vars(one).values(), means[kind], against[kind], firing[kind].top1] for kind, one in surfaces.items()
    ]
    per_block = Table(
        {"block": "d", **dict.fromkeys(FUSIONS, ".4f")},
        [[number + 1, *(firing[kind].rates[number] for kind in FUSIONS)] for number in blocks],
    )
    everything = Table(
        {**shape, **{f"block {number + 1}": ".4f" for number in blocks}},
        [[*row, *firing[kind].rates] for kind, row in zip(FUSIONS, rows, strict=True)],
    )
    parts: list[str | Table] = [
        f"theta = {config.theta:g}, th = {neuron.threshold:g}. A fusion over-activates where Omega(X, Y) > th though "
        "neither X nor Y, both 0 or more, exceeds th: for the plane (`sum`) that is where X + Y is in (th, 2 th], the "
        "supplement's range. Suppressed: the plane over-activates, the fusion does not; added: the other way round. "
        "All three in percent of the square 0 <= X, Y <= th. grad D as in Table 1, over th <= X, Y <= 2 th.",
        Table(shape, rows),
        f"Firing rates are those of {describe(checkpoint, config)}, trained with `{config.fusion}`: its weights "
        f"are kept, the fusion alone is swapped, on {firing[config.fusion].images:,} test images; with `none` no "
        "potential at all is handed on. Counted are the neurons whose potentials are fused, the last layer of each "
        "block: each once, so that blocks on large maps weigh more. By block:",
        per_block,
        _remark(surfaces, means),
    ]
    figure = _draw(surfaces, firing, config.fusion, config.theta, neuron.threshold)
    write_report(out, "fusion", "Fusion: surfaces, over-activation, firing rates", everything, parts, figure)


def _remark(surfaces: dict[str, Surface], means: dict[str, float]) -> str:
    """What the numbers say, also against the paper."""
    adds = [f"`{kind}` ({one.added:.1f}%)" for kind, one in surfaces.items() if one.added > 0.05]
    fewer = [f"`{kind}`" for kind in FUSIONS if kind != "sum" and means[kind] < means["sum"]]
    more = [f"`{kind}`" for kind in FUSIONS if kind != "sum" and means[kind] > means["sum"]]
    steep = "over-activate where the plane does not, since near 0 these surfaces are steeper than the plane"
    lines = {
        f"Not only suppression: {', '.join(adds)} {steep} (slope theta pi > 1).": adds,
        f"With {', '.join(fewer)} the network fires less than with the plane.": fewer,
        f"With {', '.join(more)} it fires more than with the plane.": more,
    }
    return " ".join(line for line, kinds in lines.items() if kinds)


def _draw(surfaces: dict[str, Surface], firing: dict[str, Firing], own: str, theta: float, th: float) -> Figure:
    figure = Figure(figsize=(13, 5.8), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.75, 1), squeeze=False)[0]
    axes = left.subplots(2, 3, sharex=True, sharey=True)
    kinds = ("sum", *(kind for kind in FUSIONS if kind != "sum"))
    for axis, kind in zip(axes.flat, kinds, strict=True):
        filled = _surface(axis, kind, theta, th)
        one = surfaces[kind]
        name = "sum, the plane" if kind == "sum" else kind
        axis.set_title(f"{name}\n{one.over_activated:.0f}% over-activated", loc="left", fontsize=9)
    for axis in axes[1, :]:
        axis.set_xlabel("X")
    for axis in axes[:, 0]:
        axis.set_ylabel("Y")
    left.colorbar(filled, ax=axes, label="fused potential", shrink=0.9)
    left.legend(
        handles=[
            Line2D([], [], color="white", linewidth=2.2, label="Omega = th"),
            Line2D([], [], color="white", linestyle="--", label="square 0..th"),
            Patch(facecolor="none", edgecolor="white", hatch="///", label="over-activation suppressed"),
            Patch(facecolor="none", edgecolor="red", hatch="...", label="over-activation added"),
        ],
        loc="outside lower center",
        ncols=4,
        fontsize=8.5,
        facecolor="#3b528b",
        labelcolor="white",
    )
    lines = right.subplots()
    for number, kind in enumerate(kinds):
        rates = firing[kind].rates
        label = f"{kind}{' (trained with it)' if kind == own else ''}"
        lines.plot(range(1, len(rates) + 1), rates, "o-", markersize=4, color=f"C{number}", label=label)
    lines.set(xlabel="block", ylabel="firing rate", xticks=range(1, len(rates) + 1))
    lines.set_title("firing rate of a trained network, fusion swapped", loc="left", fontsize=9.5)
    make_plain(lines)
    lines.legend(frameon=False, fontsize=9)
    return figure


def _surface(axis: Axes, kind: str, theta: float, th: float) -> QuadContourSet:
    """Draw one surface over 0 <= X, Y <= 2 th."""
    x, y = square(0, 2 * th)
    fused, plane = fuse(x, y, kind, theta), x + y
    neither = (x <= th) & (y <= th)
    levels = torch.linspace(0, 4 * th, 41).tolist()
    filled = axis.contourf(x, y, fused.clamp(0, 4 * th), levels)
    if (fused > th).any():
        axis.contour(x, y, fused, [th], colors="white", linewidths=2.2)
    for mask, hatch, colour in (
        (neither & (plane > th) & (fused <= th), "///", "white"),
        (neither & (plane <= th) & (fused > th), "...", "red"),
    ):
        if mask.any():
            marked = axis.contourf(x, y, mask.double(), [0.5, 1.5], colors="none", hatches=[hatch])
            marked.set_edgecolor(colour)
            marked.set_linewidth(0)
    axis.add_patch(Rectangle((0, 0), th, th, fill=False, edgecolor="white", linestyle="--"))
    axis.set(aspect="equal", xlim=(0, 2 * th), ylim=(0, 2 * th), xticks=(0, th, 2 * th), yticks=(0, th, 2 * th))
    return filled
