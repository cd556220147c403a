"""`onespike bench`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from onespike.bench.case import Case
from onespike.bench.compare import Record, cases, compare
from onespike.bench.data import compare_data
from onespike.bench.machine import SIDES, Peak, describe, gemm_peaks
from onespike.bench.peers import PEERS
from onespike.bench.scaling import save_scaling, scaling
from onespike.errors import OnespikeError, unknown
from onespike.evaluation.output import save_text
from onespike.model import PRESETS
from onespike.training.recipe import parse

Task = Literal["train", "infer", "data", "unit", "scaling"]
AGAINST = ("sequential", "recompute", *PEERS)


def run(arguments: Sequence[str]) -> int:
    """Time something.

    Args:
        arguments: The command line behind `onespike bench`.

    Returns:
        The exit code.
    """
    parser = ArgumentParser(
        prog="onespike bench",
        usage="onespike bench TASK [options]",
        description="Speed and memory, side by side and in turns, and the share of the machine's own matrix product "
        "that is reached. TASK: train (a step of the optimiser), infer, unit (neurons alone, and the conv unit; "
        "forward and backward), data (the input path against the step), scaling (threads, batch, width, image size).",
        exit_on_error=False,
    )
    parser.add_argument("task", type=str | None, nargs="?", metavar="TASK", help=", ".join(get_args(Task)))
    parser.add_argument("--vs", default="", help=f"whom to compare with: {', '.join(AGAINST)}, by commas")
    parser.add_argument("--model", default="conv12", help="a registered model")
    parser.add_argument("--preset", type=str | None, help="its preset; by default modern for infer, else paper")
    parser.add_argument("--batch", type=int | None, help="images in a batch; by default 64 for infer, else 128")
    parser.add_argument(
        "--precision", type=Literal["fp32", "bf16"], default="bf16", help="fp32 alone, or bf16 beside fp32"
    )
    parser.add_argument("--rounds", type=int, default=7, help="timings of each")
    parser.add_argument("--threads", type=int | None, help="threads that compute; by default as many as PyTorch takes")
    parser.add_argument("--gemm", type=list[int], default=list(SIDES), help="sides of the square products to try")
    parser.add_argument("--json", type=str | None, help="a file for the records; - prints them")
    parser.add_argument("--out", default="scaling", help="folder for scaling's CSV and picture")
    values = parse(parser, arguments, sections=())
    if values.task not in get_args(Task):
        raise unknown("task", values.task or "", get_args(Task))
    peers = [name for name in values.vs.split(",") if name]
    for name in peers:
        if name not in AGAINST:
            raise unknown("implementation", name, AGAINST)
    preset = values.preset or ("modern" if values.task == "infer" else "paper")
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    batch = values.batch if values.batch is not None else 64 if values.task == "infer" else 128
    counts = {"batch": batch, "rounds": values.rounds, "threads": values.threads or 1, "gemm": min(values.gemm or [0])}
    for option, number in counts.items():
        if number < 1:
            raise OnespikeError(f"--{option}: expected at least 1, got {number}")
    if values.threads:
        torch.set_num_threads(values.threads)
    # Where the standard output is for JSON, a person reads the standard error.
    console = Console(stderr=values.json == "-", highlight=False)
    if not console.is_terminal:
        console.width = 120  # a file or a pipe has no width of its own; tables are never cut there
    console.print(
        ", ".join(f"{key} {value}" for key, value in describe().items() if value is not None),
        markup=False,
        soft_wrap=True,
    )
    if values.task == "scaling":
        return _scale(values, preset, batch, console)
    peaks = gemm_peaks(values.gemm)
    if values.task == "data":
        step = Case("train", "onespike", values.precision, batch, values.model, preset)
        records, peaks = compare_data(step, peaks, values.rounds)
    else:
        listed = cases(values.task, values.model, preset, batch, values.precision, peers)
        records, peaks = compare(listed, peaks, values.rounds)
    for peak in peaks.values():
        console.print(f"{peak.dtype} product: {peak.gflops:.0f} GFLOP/s ({peak.through}, side {peak.side})")
    _print(records, console)
    if values.json:
        _save(records, peaks, values.json)
    return 0


def _scale(values: Namespace, preset: str, batch: int, console: Console) -> int:
    """Measure how speed and memory grow; write the CSV and the picture."""
    base = Case("train", "onespike", values.precision, batch, values.model, preset)
    points = scaling(base, torch.get_num_threads(), values.rounds, quiet=not console.is_terminal)
    processor = describe()["processor"]
    title = (
        f"{values.model}, {preset}, {values.precision}, batch {batch}, {torch.get_num_threads()} threads, {processor}"
    )
    save_scaling(points, title, Path(values.out))
    table = Table("task", "varied", box=None, pad_edge=False, header_style="dim")
    for column in ("value", "images/s", "MB/image"):
        table.add_column(column, justify="right")
    for one in points:
        numbers = (str(one.value), f"{one.images_per_second:.1f}", f"{one.memory_mb_per_image:.1f}")
        table.add_row(one.task, one.axis, *numbers)
    console.print(table)
    console.print(f"scaling.csv and scaling.png are in {values.out}", markup=False, soft_wrap=True)
    return 0


def _save(records: Sequence[Record], peaks: dict[str, Peak], target: str) -> None:
    """Write the records, each with the machine that it was measured on."""
    machine = describe() | {"gemm_gflops": {peak.dtype: round(peak.gflops, 1) for peak in peaks.values()}}
    text = json.dumps([record.to_json() | machine for record in records], indent=2, allow_nan=False)
    if target == "-":
        print(text)
    else:
        save_text(text + "\n", Path(target))


def _print(records: Sequence[Record], console: Console) -> None:
    """Print what came out, for a person; ratios are those of the library to each, task by task."""
    table = Table("task", "implementation", "dtype", box=None, pad_edge=False, header_style="dim")
    for column in ("images/s", "range", "onespike is", "of GEMM", "peak MB"):
        table.add_column(column, justify="right")
    for one in records:
        own = next(
            (r for r in records if r.implementation == "onespike" and (r.task, r.dtype) == (one.task, one.dtype)), None
        )
        table.add_row(
            one.task,
            one.implementation,
            one.dtype,
            f"{one.images_per_second:.1f}",
            f"{one.slowest:.1f}-{one.fastest:.1f}",
            "" if own is None or own is one else f"{own.images_per_second / one.images_per_second:.2f}x",
            "" if one.share_of_gemm is None else f"{one.share_of_gemm:.0%}",
            "" if one.peak_memory_mb is None else f"{one.peak_memory_mb:.0f}",
        )
    console.print(table)
