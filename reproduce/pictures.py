"""The pictures of the documentation: the method, drawn by its own code, and results, from the committed tables."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from sklearn.datasets import load_digits
from torch import Tensor, nn

from onespike.counting import count_operations
from onespike.errors import damage_named
from onespike.evaluation.drawing import save_figure
from onespike.functional import charge_and_fire, fuse, partition, recompose
from onespike.neurons.integrate_fire import IntegrateFire
from onespike.neurons.watch import Fired, watch_neurons
from onespike.search.drawing import plain_figure
from onespike.training.run import Run
from reproduce.report import read_rows

WINDOWS = ("top left", "top right", "bottom left", "bottom right")
BLUE, RED, GREY, ORANGE = "#4878a8", "#c8384e", "#8a8a8a", "#e0912f"
THRESHOLD, DECAY = 0.5, 0.4
#: Where the name of a point may stand: how far from it, and which side of the name is there.
PLACES = (
    ((7, 0), "left", "center"),
    ((-7, 0), "right", "center"),
    ((0, -7), "center", "top"),
    ((0, 7), "center", "bottom"),
    ((-7, -3), "right", "top"),
    ((-7, 3), "right", "bottom"),
    ((7, -7), "left", "top"),
    ((7, 7), "left", "bottom"),
)

Points = list[tuple[str, float, float]]


def pictures(out: Path = Path("docs/pictures"), results: Path = Path("results")) -> None:
    """Draw the pictures of the documentation: windows, potentials, fusion, and results from the committed tables.

    Args:
        out: Folder for the pictures.
        results: Folder with the tables.
    """
    for name, draw in METHOD.items():
        save_figure(draw(), out / f"{name}.png", dpi=100)
    for name, draw_results in RESULTS.items():
        save_figure(draw_results(results), out / f"{name}.png", dpi=100)


def windows() -> Figure:
    """A digit, cut into average and dilated windows, and what is put together again."""
    image = torch.tensor(load_digits().images[0], dtype=torch.float32)[None, None] / 16
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    grid = figure.subplots(2, 6, width_ratios=(1.6, 1, 1, 1, 1, 1.6))
    for row, kind in zip(grid, ("average", "dilated"), strict=True):
        cut = partition(image, kind)
        size, side = image.shape[-1], cut.shape[-1]
        _map(row[0], image, f"{kind}: a map of {size}x{size}")
        corners = [(0, 0), (size - side, 0), (0, size - side), (size - side, size - side)]
        for number, (axis, window, corner) in enumerate(zip(row[1:5], cut, corners, strict=True)):
            edge: dict[str, Any] = {"fill": False, "linewidth": 2.5, "edgecolor": f"C{number}", "clip_on": False}
            row[0].add_patch(Rectangle((corner[0] - 0.5, corner[1] - 0.5), side, side, alpha=0.8, **edge))
            _map(axis, window, f"{number + 1}: {WINDOWS[number]}")
            axis.add_patch(Rectangle((-0.5, -0.5), side, side, **edge))
        again = recompose(cut, size, kind)
        if not torch.equal(again, image):
            raise AssertionError(f"{kind}: recompose does not undo partition")
        _map(row[5], again, "put together again" + (", overlaps averaged" if kind == "dilated" else ""))
    return figure


def _map(axis: Axes, image: Tensor, title: str) -> None:
    axis.imshow(image.squeeze().numpy(), cmap="gray_r", vmin=0, vmax=1)
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[])


def potentials() -> Figure:
    """The same currents in the four windows, with nothing passed on, and with potentials passed on: V = decay P + I."""
    currents = torch.tensor([0.42, 0.36, 0.54, 0.1]).view(4, 1, 1, 1, 1)
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    pair = figure.subplots(1, 2, sharey=True)
    for axis, decay, title in zip(pair, (0.0, DECAY), ("nothing passed on", "potentials passed on"), strict=True):
        v, spikes = charge_and_fire(currents, decay, THRESHOLD)
        own, passed = currents.flatten().tolist(), (v - currents).flatten().tolist()
        heights, fired = v.flatten().tolist(), spikes.flatten().tolist()
        axis.bar(range(4), own, 0.6, color=BLUE, label="I: the current of this window")
        if decay:
            label = f"passed on: {decay:g} (decay) times V of the window before"
            axis.bar(range(4), passed, 0.6, own, color=ORANGE, label=label)
        axis.axhline(THRESHOLD, color=RED, linestyle="--", linewidth=1.3, label="threshold")
        for window, (height, spike) in enumerate(zip(heights, fired, strict=True)):
            word, colour = ("spike", RED) if spike else ("silent", GREY)
            axis.text(window, height + 0.015, word, ha="center", fontsize=10, color=colour)
        axis.set_xticks(range(4), [f"window {number + 1}" for number in range(4)])
        axis.set_title(f"{title}: spikes in {int(sum(fired))} of 4 windows", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    pair[0].set(ylabel="potential V of a neuron", ylim=(0, 1))
    pair[1].legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def spikes() -> Figure:
    """What the package's network of the digits fires for one test image, neuron by neuron, and its answer."""
    run, fired = Run.open("pretrained:digits-spiking-vgg-xs"), list[Fired]()
    checkpoint, test = run.checkpoint("best"), run.dataset().test
    pixels = torch.tensor(test[3][0]).movedim(-1, 0)[None]
    with torch.no_grad(), watch_neurons(network := checkpoint.network(), fired.append):
        chances = network(checkpoint.card.normalised(pixels)).softmax(1)[0]
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    axes = figure.subplots(1, 2 + len(fired), width_ratios=(1, *[1.35] * len(fired), 0.9))
    _map(axes[0], 1 - pixels / 255, "the image")
    for number, (axis, call) in enumerate(zip(axes[1:-1], fired, strict=True), 1):
        maps = call.spikes.flatten(0, -4)[0]  # (C, H, W)
        columns = math.ceil(len(maps) ** 0.5)
        framed = nn.functional.pad(maps, (0, 1, 0, 1, 0, -len(maps) % columns), value=0.35)  # a line between two maps
        tiled = framed.unflatten(0, (-1, columns)).movedim(1, 2).flatten(2).flatten(0, 1)
        axis.imshow(tiled.numpy(), cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(f"layer {number}: {maps.mean():.0%} fire", fontsize=9)
        axis.set_xlabel("{} maps of {}x{}".format(*maps.shape), fontsize=8)
        axis.set(xticks=[], yticks=[])
    axes[-1].barh(range(len(chances)), chances.tolist(), color=BLUE)
    axes[-1].set(xlim=(0, 1), xticks=[], yticks=range(len(chances)), ylim=(9.6, -0.6))
    axes[-1].set_title("the answer", fontsize=9)
    axes[-1].spines[["top", "right", "bottom"]].set_visible(False)
    return figure


def fusion() -> Figure:
    """What three fusions make of two potentials, and where a neuron exceeds its threshold by them alone."""
    values = torch.linspace(0, 2 * THRESHOLD, 201)
    y, x = torch.meshgrid(values, values, indexing="ij")
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    titles = {"sum": "sum: X + Y", "sincos": "2 sin(θπ/2 X) cos(θπ/2 Y), θ = 0.5", "mean": "mean: (X + Y) / 2"}
    for axis, (kind, title) in zip(axes, titles.items(), strict=True):
        fused = fuse(x, y, kind).numpy()
        extent = (0, 2 * THRESHOLD, 0, 2 * THRESHOLD)
        shown = axis.imshow(fused, origin="lower", extent=extent, cmap="viridis", vmin=0, vmax=2)
        axis.contour(values.numpy(), values.numpy(), fused, levels=[THRESHOLD], colors="white", linewidths=2)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("X, of the layer or block before")
    axes[0].set_ylabel("Y, of the window before")
    figure.colorbar(shown, ax=axes, label="fused potential (white line: the threshold)")
    return figure


def counting() -> Figure:
    """The counts of one 3x3 convolution of a digit: of its pixels, of spikes, and of the sums of several spikes."""
    pixels = torch.tensor(load_digits().images[0], dtype=torch.float32)[None, None] / 16
    spikes = (pixels > THRESHOLD).float()
    graded = nn.functional.avg_pool2d(spikes, 2, stride=1, padding=(1, 1))[..., :8, :8]
    shown = {"real: pixels less their mean": pixels - pixels.mean(), "binary: spikes": spikes}
    shown["graded: means of four spikes"] = graded
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    maps, bars = figure.subplots(2, 3, height_ratios=(1.25, 1), sharey="row")
    for column, (title, image) in enumerate(shown.items()):
        (product,) = count_operations(nn.Conv2d(1, 1, 3, padding=1), [image]).products
        if product.arrives != title.partition(":")[0]:
            raise AssertionError(f"{title}: counted as {product.arrives}")
        maps[column].imshow(image.squeeze().numpy(), cmap="gray_r")
        maps[column].set_title(title, fontsize=10)
        maps[column].set(xticks=[], yticks=[])
        counts = {"macs": product.macs, "reached": product.reached, "nonzero": product.nonzero}
        counts["operations"] = product.operations
        drawn = bars[column].bar(list(counts), list(counts.values()), color=[GREY] * 3 + [BLUE if column else RED])
        bars[column].bar_label(drawn, fmt="{:.0f}", fontsize=9)
        bars[column].set_xlabel("operations are accumulates" if column else "operations are multiply-accumulates")
        bars[column].spines[["top", "right"]].set_visible(False)
        bars[column].margins(y=0.15)
    return figure


def staircase() -> Figure:
    """What integrate-and-fire neurons make of a constant current, beside the ReLU that they replace."""
    current = torch.linspace(-0.25, 1.25, 601)[:, None]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    cases = {"one neuron, T = 1": (1, 1), "one neuron, T = 4": (4, 1), "four neurons, T = 1": (1, 4)}
    for axis, (title, (steps, population)) in zip(axes, cases.items(), strict=True):
        neuron = IntegrateFire(None, 1, steps, "rectangle", population)
        with torch.no_grad():
            mean = neuron(current.repeat(steps, 1)).unflatten(0, (steps, -1)).mean(0)
        x = current.flatten().numpy()
        axis.plot(x, current.relu().flatten().numpy(), color=GREY, linestyle="--", label="ReLU")
        axis.plot(x, mean.flatten().numpy(), color=BLUE, linewidth=2, label="spikes, their mean")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("current, in thresholds")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("what the next layer reads")
    axes[0].legend(fontsize=9, frameon=False, loc="upper left")
    return figure


def read_points(path: Path) -> Points:
    """What was trained on CIFAR-10 and has a result: its name, PFLOP of training, percent of the test images."""
    across, up = "PFLOP", "test top-1 %"
    points, owner = Points(), ""
    with damage_named(str(path), "it is no such table", f"a table with the columns {across} and {up}"):
        for row in read_rows(path):
            if row["group"].startswith("cifar10,") and row[across] and row[up]:
                name = row["setting"]
                owner = owner if name.startswith("its ") else name.partition(",")[0]  # of the twins below it
                points.append((re.sub("^its ", f"{owner}'s ", name), float(row[across]), float(row[up])))
    return points


def accuracy_flops(results: Path) -> Figure:
    """Accuracy against what the training cost, of all that was trained to be compared."""
    figure, axis = plain_figure(11, 11)
    points = read_points(results / "accuracy.csv")
    for name, x, y in points:
        colour = ORANGE if name.startswith("SpikingJelly") else GREY if "twin" in name else BLUE
        axis.scatter(x, y, s=28, color=colour)
    axis.set_xscale("log")
    axis.set_xticks([0.3, 0.5, 1, 2, 5])
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter("")
    axis.set(xlabel="training, PFLOP (dense)", ylabel="CIFAR-10, test top-1 %")
    axis.margins(0.7, 0.1)
    figure.draw_without_rendering()  # before that nobody knows what is where
    _name(axis, points)
    return figure


def step_shares(results: Path) -> Figure:
    """Where the time of a training step goes, by kind of operation."""
    path = results / "profile-step.csv"
    with damage_named(str(path), "it is no such table", "a table of benchmarks/profile_step.py"):
        steps = {row["step"]: row for row in read_rows(path) if row["step"].endswith("bf16")}
        names = list(next(iter(steps.values())))
        kinds = names[names.index("images a second") + 1 : names.index("the rest") + 1]
        shares = {kind: [float(row[kind]) for row in steps.values()] for kind in kinds}
    figure, axis = plain_figure(9, 1.6 + 0.5 * len(steps))
    left, tab20 = [0.0] * len(steps), colormaps["tab20"]
    for number, (kind, widths) in enumerate(shares.items()):
        pale = number > 9 or kind == "the rest"
        colour = "#d0d0d0" if kind == "the rest" else tab20(2 * number % 20 + number // 10)
        axis.barh(range(len(steps)), widths, 0.65, left, color=colour, label=kind)
        for place, (start, width) in enumerate(zip(left, widths, strict=True)):
            if width >= 5:
                style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
                axis.text(start + width / 2, place, f"{width:.0f}", color="black" if pale else "white", **style)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axis.set_yticks(range(len(steps)), [name.replace(", bf16", "") for name in steps])
    axis.invert_yaxis()
    axis.set(xlabel="percent of a training step, bf16, one thread", xlim=(0, 100))
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    return figure


def _name(axis: Axes, points: Points) -> None:
    """Write each name inside the picture, at the first of `PLACES` where it meets fewest points and other names."""
    taken = [Bbox.from_extents(*axis.transData.transform((x, y))[[0, 1, 0, 1]]).padded(3) for _, x, y in points]
    for name, x, y in points:
        style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8}
        texts = [axis.annotate(name, (x, y), away, ha=ha, va=va, **style) for away, ha, va in PLACES]
        boxes = [text.get_window_extent().padded(1) for text in texts]
        within = [axis.bbox.x0 <= box.x0 < box.x1 <= axis.bbox.x1 for box in boxes]
        best = min(range(len(boxes)), key=lambda place: (not within[place], boxes[place].count_overlaps(taken)))
        taken.append(boxes[best])
        for text in (*texts[:best], *texts[best + 1 :]):
            text.remove()


#: Pictures by the name of their file: of the method, and of results.
METHOD: dict[str, Callable[[], Figure]] = {
    one.__name__: one for one in (spikes, windows, potentials, fusion, counting, staircase)
}
RESULTS: dict[str, Callable[[Path], Figure]] = {
    one.__name__.replace("_", "-"): one for one in (accuracy_flops, step_shares)
}
