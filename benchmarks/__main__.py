"""`python -m benchmarks`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from rich.console import Console

from benchmarks.case import Case, expect_blocks
from benchmarks.compare import Record, cases, compare
from benchmarks.data import compare_data
from benchmarks.engine import compare_engines
from benchmarks.machine import SIDES, Device, describe, expect_counts, expect_device, gemm_peaks
from benchmarks.peers import PEERS
from benchmarks.scaling import save_scaling, scaling
from onespike.cli.command import call
from onespike.cli.main import exit_with
from onespike.durable import expect_writable, save_json, save_text
from onespike.errors import OnespikeError, unknown
from onespike.models.registry import family
from onespike.terminal import person, plain_table
from onespike.training.run import Run
from reproduce.report import expect_apart, provenance

#: The largest side of a matrix product.
MOST = 1 << 15
AGAINST = ("sequential", "recompute", *PEERS)


@dataclass(frozen=True)
class Options:
    """What tasks may be told.

    Attributes:
        vs: Whom to compare with: sequential, recompute, spikingjelly, snntorch, …, by commas.
        model: A registered model.
        preset: Its preset; modern for infer, unless you say otherwise.
        batch: Images in a batch; 64 for infer, unless you say otherwise.
        precision: fp32 alone, or bf16 too.
        time_steps: Time steps for which train and infer show each image.
        device: Where it is computed.
        gemm: Sides of the square products to try, such as [1024,2048].
        images: Test images for engine's accuracies.
        json: A file for the records; - prints them.
        out: Folder for scaling's CSV and picture; for engine a file for the tables, engine.md unless you say otherwise,
            with engine-RUN.json beside it.
    """

    vs: str = ""
    model: str = "conv12"
    preset: str = "paper"
    batch: int = 128
    precision: Literal["fp32", "bf16"] = "bf16"
    time_steps: int = 1
    device: Device = "cpu"
    gemm: tuple[int, ...] = SIDES
    images: int = 1000
    json: str | None = None
    out: str = "scaling"


#: What the tasks on a training step take, and those whose records stand beside the machine's products.
_STEP, _BESIDE = ("model", "preset", "batch", "precision", "device"), ("gemm", "json")
#: What each task takes.
OPTIONS = {
    "train": ("vs", *_STEP, "time_steps", *_BESIDE),
    "infer": ("vs", *_STEP, "time_steps", *_BESIDE),
    "unit": ("vs", "batch", "device", *_BESIDE),
    "data": (*_STEP, *_BESIDE),
    "engine": ("images", "out"),
    "scaling": (*_STEP, "out"),
}
#: Defaults of their own.
DEFAULTS: dict[str, dict[str, Any]] = {"infer": {"preset": "modern", "batch": 64}, "engine": {"out": "engine.md"}}


def run(arguments: Sequence[str]) -> int:
    """Time what the command line behind `python -m benchmarks` names; returns the exit code."""
    return call(benchmark, arguments, "python -m benchmarks TASK")


def benchmark(
    task: str, run: str | None = None, /, *, options: Options, rounds: int = 7, threads: int | None = None
) -> int:
    """Speed and memory, side by side and in turns, and the share of the machine's own matrix product that is reached.

    Args:
        task: train (a step of the optimiser), infer, unit (neurons alone, and the conv unit; forward and backward),
            data (the input path against the step), scaling (threads, batch, width, image size), engine (trained
            networks by our integer engine, ONNX Runtime and OpenVINO, at batch 1, 8 and 64).
        run: Run folders, by commas, for engine alone.
        options: What the task takes; by name, those that were given.
        rounds: Timings of each.
        threads: Threads that compute; by default as many as PyTorch takes.
    """
    asked = _checked(task, run, dict(options), rounds, threads)
    if threads:
        torch.set_num_threads(threads)
    console = person(asked.json)
    console.print(", ".join(f"{key} {value}" for key, value in describe().items() if value is not None))
    if task == "engine":
        return _engines(_names(run), asked, rounds, console)
    if task == "unit":
        listed = cases("unit", "", "", asked.batch, "fp32", _names(asked.vs), asked.device)
    elif task in ("train", "infer"):
        named = asked.model, asked.preset, asked.batch, asked.precision
        listed = cases(task, *named, _names(asked.vs), asked.device, asked.time_steps)
    else:
        named = asked.precision, asked.batch, asked.model, asked.preset
        step = Case("train", "onespike", *named, device=asked.device)
        step.check()
        if task == "scaling":
            return _scale(step, rounds, Path(asked.out), console)
    peaks = gemm_peaks(asked.gemm, device=asked.device)
    records, peaks = compare_data(step, peaks, rounds) if task == "data" else compare(listed, peaks, rounds)
    for peak in peaks.values():
        console.print(f"{peak.dtype} product: {peak.gflops:.0f} GFLOP/s ({peak.through}, side {peak.side})")
    _print(records, console)
    if asked.json:
        machine = describe() | {"gemm_gflops": {peak.dtype: round(peak.gflops, 1) for peak in peaks.values()}}
        save_json([asdict(record) | machine for record in records], asked.json)
    return 0


def _checked(task: str, run: str | None, given: dict[str, Any], rounds: int, threads: int | None) -> Options:
    """All options, with the task's own defaults; what it does not take is refused, not ignored."""
    if task not in OPTIONS:
        raise unknown("task", task, OPTIONS)
    if run is not None and task != "engine":
        raise OnespikeError(f"unexpected {run!r}: {task} times no run, engine does: benchmarks engine RUN")
    if strange := [_option(one) for one in given if one not in OPTIONS[task]]:
        raise OnespikeError(f"{strange[0]}: {task} does not take it, only {', '.join(map(_option, OPTIONS[task]))}")
    asked = Options(**DEFAULTS.get(task, {}) | given)
    if task == "engine":
        if not (runs := _names(run)):
            raise OnespikeError("expected a run folder: python -m benchmarks engine RUN")
        expect_apart(map(Path, runs))
        expect_writable(out := Path(asked.out), *(_beside(out, run) for run in runs))
    elif task == "scaling":
        expect_writable(folder=Path(asked.out))
    else:
        expect_writable(asked.json)
    if "model" in OPTIONS[task]:
        if "preset" not in given and asked.preset not in family(asked.model).presets:
            asked = replace(asked, preset="")
        expect_blocks(asked.model, asked.preset)
    expect_device(asked.device)
    for name in _names(asked.vs):
        if name not in AGAINST:
            raise unknown("implementation", name, AGAINST)
    counts = {"batch": asked.batch, "images": asked.images, "time_steps": asked.time_steps}
    expect_counts(**counts, rounds=rounds, threads=threads, gemm=min(asked.gemm or [0]))
    if max(asked.gemm) > MOST:
        raise OnespikeError(f"--gemm: expected sides of at most {MOST:,}, got {max(asked.gemm)}")
    return asked


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _names(listed: str | None) -> list[str]:
    return [name for name in (listed or "").split(",") if name]


def _engines(runs: Sequence[str], asked: Options, rounds: int, console: Console) -> int:
    """Compare engines on trained networks; write the table of each, and its numbers beside it."""
    out, parts, facts = Path(asked.out), ["# Engines side by side"], describe()
    opened = {run: Run.open(run) for run in runs}
    for run, one in opened.items():
        found = compare_engines(one, asked.images, rounds)
        for line in found.markdown().split("\n"):
            console.print(line)
        parts.append(f"## {Path(run).name}\n\n{found.markdown().rstrip()}")
        save_json(found.to_json() | {"machine": facts}, str(_beside(out, run)))
    versions = ", ".join(f"{name} {facts[name]}" for name in ("onnxruntime", "openvino") if facts[name])
    save_text("\n\n".join([*parts, f"{provenance()}\n- {versions}"]) + "\n", out)
    return 0


def _beside(out: Path, run: str) -> Path:
    """The file of a run's numbers, beside the tables."""
    return out.parent / f"{out.stem}-{Path(run).name}.json"


def _scale(base: Case, rounds: int, out: Path, console: Console) -> int:
    """Measure how speed and memory grow; write the CSV and the picture."""
    threads = torch.get_num_threads()
    points = scaling(base, threads, rounds, quiet=not console.is_terminal)
    title = f"{base.model}, {base.preset}, {base.dtype}, batch {base.batch}, {threads} threads"
    save_scaling(points, f"{title}, {describe()['processor']}", out)
    table = plain_table("task", "varied", ">value", ">images/s", ">MB/image", wrap=True)
    for one in points:
        numbers = (str(one.value), f"{one.images_per_second:.1f}", f"{one.memory_mb_per_image:.1f}")
        table.add_row(one.task, one.axis, *numbers)
    console.print(table, soft_wrap=False)
    _warn([one.busy for one in points], console)
    console.print(f"scaling.csv and scaling.png are in {out}")
    return 0


def _print(records: Sequence[Record], console: Console) -> None:
    """Print what came out, for a person; ratios are those of the library to each, task by task."""
    columns = "task", "implementation", "dtype", ">images/s", ">range", ">onespike is", ">of GEMM", ">peak MB"
    table = plain_table(*columns, wrap=True)
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
    console.print(table, soft_wrap=False)
    _warn([one.busy for one in records], console)


def _warn(busy: Sequence[str | None], console: Console) -> None:
    """Say why times cannot be trusted, if something else ran meanwhile."""
    for reason in dict.fromkeys(filter(None, busy)):
        console.print(f"NOT TO BE TRUSTED, the machine was busy: {reason}")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run and exit, as the package's own commands do."""
    exit_with(run, arguments)


if __name__ == "__main__":
    main()
