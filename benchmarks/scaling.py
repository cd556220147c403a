"""Throughput and memory against threads, batch, width and image size, one at a time from a common base."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.progress import track

from benchmarks.case import Case
from benchmarks.machine import describe
from benchmarks.memory import alone
from onespike.durable import csv_text, save_text
from onespike.evaluation.drawing import save_figure
from onespike.models import model_config
from onespike.models.strict import StrictConfig

#: What is varied, and over which values; width is in channels of the first stage.
AXES: dict[str, tuple[int, ...]] = {
    "threads": (1, 2),
    "batch": (1, 4, 16, 64, 128),
    "width": (24, 48, 96),
    "image_size": (32, 64, 96),
}


@dataclass(frozen=True)
class Point:
    """One measurement of a case, with its attributes; `threads` are those that computed.

    Attributes:
        axis: What is varied.
        value: Its value.
        images_per_second: Median over the rounds.
        memory_mb_per_image: Peak resident size over that of the imports, in MB, divided by the batch.
        busy: Why the times cannot be trusted, since something else ran meanwhile; None if they can.
    """

    task: str
    axis: str
    value: int
    model: str
    preset: str
    dtype: str
    batch: int
    threads: int
    images_per_second: float
    memory_mb_per_image: float
    device: str = "cpu"
    busy: str | None = None


def scaling(
    base: Case, threads: int, rounds: int, axes: dict[str, tuple[int, ...]] = AXES, quiet: bool = False
) -> list[Point]:
    """Measure, each point in a process of its own: a training step, and the classification by the same network.

    `threads` are those of the points that do not vary them. `quiet` shows no progress.
    """
    listed = [(task, axis, value) for axis, values in axes.items() for value in values for task in ("train", "infer")]
    points = []
    for task, axis, value in track(listed, "scaling", transient=True, disable=quiet):
        case = _varied(replace(base, task=task), axis, value)
        own_threads = value if axis == "threads" else threads
        measured = alone(case, own_threads, rounds)
        rate, memory = case.batch / measured.seconds, measured.peak_mb / case.batch
        how = case.model, case.preset, case.dtype, case.batch, own_threads
        points.append(Point(task, axis, value, *how, rate, memory, case.device, measured.busy))
    return points


def _varied(case: Case, axis: str, value: int) -> Case:
    if axis == "threads":  # the process, not the case, has them
        return case
    if axis != "width":
        return replace(case, **{axis: value})
    config = model_config(case.model, case.preset)
    if isinstance(config, StrictConfig):
        return replace(case, overrides={**case.overrides, "width": value})
    wider = tuple(channel * value // config.channels[0] for channel in config.channels)
    return replace(case, overrides={**case.overrides, "channels": wider})


def save_scaling(points: Sequence[Point], title: str, folder: Path) -> None:
    """Write `scaling.csv`, where each point is a row with the machine that it was measured on, and `scaling.png`."""
    machine = {key: value for key, value in describe().items() if key not in Point.__annotations__}
    columns = [*Point.__annotations__, *machine]
    rows = [[*vars(point).values(), *machine.values()] for point in points]
    save_text(csv_text(columns, rows), folder / "scaling.csv")
    save_figure(_draw(points, title), folder / "scaling.png", dpi=120)


def _draw(points: Sequence[Point], title: str) -> Figure:
    axes = list(dict.fromkeys(point.axis for point in points))
    figure = Figure(figsize=(3.2 * len(axes), 5.5), layout="constrained")
    figure.suptitle(title, parse_math=False)
    rows: list[tuple[str, Callable[[Point], float]]] = [
        ("images / s", lambda point: point.images_per_second),
        ("MB / image", lambda point: point.memory_mb_per_image),
    ]
    panels: Any = figure.subplots(len(rows), len(axes), squeeze=False)
    for row, (label, pick) in zip(panels, rows, strict=True):
        for panel, axis in zip(row, axes, strict=True):
            for task in ("train", "infer"):
                chosen = [point for point in points if (point.task, point.axis) == (task, axis)]
                values = [point.value for point in chosen]
                panel.plot(values, [pick(point) for point in chosen], "o-", label=task)
                panel.set_xscale("log", base=2)
                panel.set_xticks(values, [str(value) for value in values])
                panel.minorticks_off()
            panel.set_ylim(0)
            panel.set(xlabel=axis.replace("_", " "))
        row[0].set_ylabel(label)
    panels[0][0].legend()
    return figure
