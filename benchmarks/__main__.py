"""`python -m benchmarks`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from benchmarks.case import Case
from benchmarks.compare import Record, cases, compare
from benchmarks.data import compare_data
from benchmarks.machine import SIDES, Peak, describe, gemm_peaks
from benchmarks.peers import PEERS
from benchmarks.scaling import save_scaling, scaling
from onespike.allocator import keep_freed_memory
from onespike.cli.main import exit_with
from onespike.durable import save_text
from onespike.errors import OnespikeError, unknown
from onespike.models import PRESETS
from onespike.training.recipe import parse

Device = Literal["cpu", "cuda", "mps"]
AGAINST = ("sequential", "recompute", *PEERS)
#: What each task may be told, and what holds otherwise.
OPTIONS: dict[str, dict[str, Any]] = {
    "train": {"vs": "", "model": "conv12", "preset": "paper", "batch": 128, "precision": "bf16", "json": None},
    "infer": {"vs": "", "model": "conv12", "preset": "modern", "batch": 64, "precision": "bf16", "json": None},
    "unit": {"vs": "", "batch": 128, "json": None},
    "data": {"model": "conv12", "preset": "paper", "batch": 128, "precision": "bf16", "json": None},
    "scaling": {"model": "conv12", "preset": "paper", "batch": 128, "precision": "bf16", "out": "scaling"},
}


def run(arguments: Sequence[str]) -> int:
    """Time something.

    Args:
        arguments: The command line behind `python -m benchmarks`.

    Returns:
        The exit code.
    """
    values = _parse(arguments)
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
    if values.task == "unit":
        listed = cases("unit", "", "", values.batch, "fp32", _names(values.vs), values.device)
    elif values.task in ("train", "infer"):
        named = values.model, values.preset, values.batch, values.precision
        listed = cases(values.task, *named, _names(values.vs), values.device)
    else:
        step = Case(
            "train", "onespike", values.precision, values.batch, values.model, values.preset, device=values.device
        )
        step.check()
        if values.task == "scaling":
            return _scale(step, values.rounds, Path(values.out), console)
    peaks = gemm_peaks(values.gemm, device=values.device)
    if values.task == "data":
        records, peaks = compare_data(step, peaks, values.rounds)
    else:
        records, peaks = compare(listed, peaks, values.rounds)
    for peak in peaks.values():
        console.print(f"{peak.dtype} product: {peak.gflops:.0f} GFLOP/s ({peak.through}, side {peak.side})")
    _print(records, console)
    if values.json:
        _save(records, peaks, values.json)
    return 0


def _parse(arguments: Sequence[str]) -> Namespace:
    """Read the command line; what the task does not take is refused, not ignored."""
    parser = ArgumentParser(
        prog="python -m benchmarks",
        usage="python -m benchmarks TASK [options]",
        description="Speed and memory, side by side and in turns, and the share of the machine's own matrix product "
        "that is reached. TASK: train (a step of the optimiser), infer, unit (neurons alone, and the conv unit; "
        "forward and backward), data (the input path against the step), scaling (threads, batch, width, image size).",
        exit_on_error=False,
    )
    parser.add_argument("task", type=str | None, nargs="?", metavar="TASK", help=", ".join(OPTIONS))
    parser.add_argument("--vs", type=str | None, help=f"whom to compare with: {', '.join(AGAINST)}, by commas")
    parser.add_argument("--model", type=str | None, help="a registered model; by default conv12")
    parser.add_argument("--preset", type=str | None, help="its preset; by default modern for infer, else paper")
    parser.add_argument("--batch", type=int | None, help="images in a batch; by default 64 for infer, else 128")
    parser.add_argument(
        "--precision", type=Literal["fp32", "bf16"] | None, help="fp32 alone, or bf16 too (the default)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="timings of each")
    parser.add_argument("--threads", type=int | None, help="threads that compute; by default as many as PyTorch takes")
    parser.add_argument("--device", type=Device, default="cpu", help="where it is computed")
    parser.add_argument(
        "--gemm", type=list[int], default=list(SIDES), help="sides of the square products to try, such as [1024,2048]"
    )
    parser.add_argument("--json", type=str | None, help="a file for the records; - prints them")
    parser.add_argument("--out", type=str | None, help="folder for scaling's CSV and picture; by default scaling")
    values = parse(parser, arguments, sections=())
    if values.task not in OPTIONS:
        raise unknown("task", values.task or "", OPTIONS)
    taken = OPTIONS[values.task]
    for option in {key for options in OPTIONS.values() for key in options}:
        if values[option] is not None and option not in taken:
            raise OnespikeError(f"--{option}: bench {values.task} does not take it, only --{', --'.join(taken)}")
        if values[option] is None:
            values[option] = taken.get(option)
    if values.preset is not None and values.preset not in PRESETS:
        raise unknown("preset", values.preset, PRESETS)
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if values.device not in ("cpu", accelerator.type if accelerator else "cpu"):
        raise OnespikeError(f"--device: PyTorch finds no {values.device} here; use --device cpu")
    for name in _names(values.vs or ""):
        if name not in AGAINST:
            raise unknown("implementation", name, AGAINST)
    counts = {option: values[option] for option in ("batch", "rounds", "threads")} | {"gemm": min(values.gemm or [0])}
    for option, number in counts.items():
        if number is not None and number < 1:
            raise OnespikeError(f"--{option}: expected at least 1, got {number}")
    if values.json not in (None, "-") and not Path(values.json).absolute().parent.is_dir():
        raise OnespikeError(f"--json: there is no folder {Path(values.json).parent}")
    return values


def _names(listed: str) -> list[str]:
    return [name for name in listed.split(",") if name]


def _scale(base: Case, rounds: int, out: Path, console: Console) -> int:
    """Measure how speed and memory grow; write the CSV and the picture."""
    threads = torch.get_num_threads()
    points = scaling(base, threads, rounds, quiet=not console.is_terminal)
    title = f"{base.model}, {base.preset}, {base.dtype}, batch {base.batch}, {threads} threads"
    save_scaling(points, f"{title}, {describe()['processor']}", out)
    table = Table("task", "varied", box=None, pad_edge=False, header_style="dim")
    for column in ("value", "images/s", "MB/image"):
        table.add_column(column, justify="right")
    for one in points:
        numbers = (str(one.value), f"{one.images_per_second:.1f}", f"{one.memory_mb_per_image:.1f}")
        table.add_row(one.task, one.axis, *numbers)
    console.print(table)
    console.print(f"scaling.csv and scaling.png are in {out}", markup=False, soft_wrap=True)
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


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run and exit, as the package's own commands do."""
    keep_freed_memory()
    exit_with(run, sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    main()
