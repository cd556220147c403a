"""`python -m benchmarks`."""

from collections.abc import Sequence
from dataclasses import asdict
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
from onespike.cli.tables import person, plain_table
from onespike.durable import expect_writable, save_json, save_text
from onespike.errors import OnespikeError, unknown
from onespike.models.registry import family
from onespike.training.run import Run
from reproduce.report import expect_apart, provenance

#: The largest side of a matrix product.
MOST = 1 << 15
AGAINST = ("sequential", "recompute", *PEERS)
#: What all may be told whose records stand beside the machine's products; what train and infer alike may be told.
_BESIDE: dict[str, Any] = {"device": "cpu", "gemm": SIDES, "json": None}
_STEP: dict[str, Any] = {"vs": "", "model": "conv12", "precision": "bf16", "time_steps": 1, **_BESIDE}
#: What each task may be told, and what holds otherwise.
OPTIONS: dict[str, dict[str, Any]] = {
    "train": {"preset": "paper", "batch": 128, **_STEP},
    "infer": {"preset": "modern", "batch": 64, **_STEP},
    "unit": {"vs": "", "batch": 128, **_BESIDE},
    "data": {"model": "conv12", "preset": "paper", "batch": 128, "precision": "bf16", **_BESIDE},
    "engine": {"run": None, "images": 1000, "out": "engine.md"},
    "scaling": {
        "model": "conv12",
        "preset": "paper",
        "batch": 128,
        "precision": "bf16",
        "device": "cpu",
        "out": "scaling",
    },
}


def run(arguments: Sequence[str]) -> int:
    """Time something.

    Args:
        arguments: The command line behind `python -m benchmarks`.

    Returns:
        The exit code.
    """
    return call(benchmark, arguments, "python -m benchmarks TASK")


def benchmark(
    task: str,
    run: str | None = None,
    /,
    *,
    vs: str | None = None,
    model: str | None = None,
    preset: str | None = None,
    batch: int | None = None,
    precision: Literal["fp32", "bf16"] | None = None,
    time_steps: int | None = None,
    rounds: int = 7,
    threads: int | None = None,
    device: Device | None = None,
    gemm: tuple[int, ...] | None = None,
    images: int | None = None,
    json: str | None = None,
    out: str | None = None,
) -> int:
    """Speed and memory, side by side and in turns, and the share of the machine's own matrix product that is reached.

    Args:
        task: train (a step of the optimiser), infer, unit (neurons alone, and the conv unit; forward and backward),
            data (the input path against the step), scaling (threads, batch, width, image size), engine (trained
            networks by our integer engine, ONNX Runtime and OpenVINO, at batch 1, 8 and 64).
        run: Run folders, by commas, for engine alone.
        vs: Whom to compare with: sequential, recompute, spikingjelly, snntorch, …, by commas.
        model: A registered model; by default conv12.
        preset: Its preset; by default modern for infer, else paper.
        batch: Images in a batch; by default 64 for infer, else 128.
        precision: fp32 alone, or bf16 too (the default).
        time_steps: Time steps for which train and infer show each image; by default 1.
        rounds: Timings of each.
        threads: Threads that compute; by default as many as PyTorch takes.
        device: Where it is computed; by default cpu.
        gemm: Sides of the square products to try; by default [1024,2048,4096].
        json: A file for the records; - prints them.
        images: Test images for engine's accuracies; by default 1000.
        out: Folder for scaling's CSV and picture, by default scaling; file for engine's tables, by default
            engine.md, with engine-RUN.json beside it.
    """
    given = {
        "vs": vs,
        "model": model,
        "preset": preset,
        "batch": batch,
        "precision": precision,
        "time_steps": time_steps,
        "device": device,
        "gemm": gemm,
        "json": json,
        "out": out,
        "run": run,
        "images": images,
    }
    values = _checked(task, given, rounds, threads)
    if threads:
        torch.set_num_threads(threads)
    console = person(json)
    console.print(", ".join(f"{key} {value}" for key, value in describe().items() if value is not None))
    if task == "engine":
        return _engines(values, rounds, console)
    if task == "unit":
        listed = cases("unit", "", "", values["batch"], "fp32", _names(values["vs"]), values["device"])
    elif task in ("train", "infer"):
        named = values["model"], values["preset"], values["batch"], values["precision"]
        listed = cases(task, *named, _names(values["vs"]), values["device"], values["time_steps"])
    else:
        named = values["precision"], values["batch"], values["model"], values["preset"]
        step = Case("train", "onespike", *named, device=values["device"])
        step.check()
        if task == "scaling":
            return _scale(step, rounds, Path(values["out"]), console)
    peaks = gemm_peaks(values["gemm"], device=values["device"])
    if task == "data":
        records, peaks = compare_data(step, peaks, rounds)
    else:
        records, peaks = compare(listed, peaks, rounds)
    for peak in peaks.values():
        console.print(f"{peak.dtype} product: {peak.gflops:.0f} GFLOP/s ({peak.through}, side {peak.side})")
    _print(records, console)
    if json:
        machine = describe() | {"gemm_gflops": {peak.dtype: round(peak.gflops, 1) for peak in peaks.values()}}
        save_json([asdict(record) | machine for record in records], json)
    return 0


def _checked(task: str, given: dict[str, Any], rounds: int, threads: int | None) -> dict[str, Any]:
    """The task's options, with its own defaults; what it does not take is refused, not ignored."""
    if task not in OPTIONS:
        raise unknown("task", task, OPTIONS)
    taken = OPTIONS[task]
    for option, value in given.items():
        if value is not None and option not in taken:
            if option == "run":
                raise OnespikeError(f"unexpected {value!r}: {task} times no run, engine does: benchmarks engine RUN")
            options = ", ".join(_option(one) for one in taken if one != "run")
            raise OnespikeError(f"{_option(option)}: {task} does not take it, only {options}")
    values = {option: taken.get(option) if value is None else value for option, value in given.items()}
    if task == "engine":
        if not (runs := _names(values["run"] or "")):
            raise OnespikeError("expected a run folder: python -m benchmarks engine RUN")
        expect_apart(map(Path, runs))
        expect_writable(out := Path(values["out"]), *(_beside(out, run) for run in runs))
    elif task == "scaling":
        expect_writable(folder=Path(values["out"]))
    else:
        expect_writable(values["json"])
    model = values.get("model")
    if given["preset"] is None and model and values["preset"] not in family(model).presets:
        values["preset"] = ""
    if values.get("preset") is not None:
        expect_blocks(values["model"], values["preset"])
    expect_device(values["device"] or "cpu")
    for name in _names(values.get("vs") or ""):
        if name not in AGAINST:
            raise unknown("implementation", name, AGAINST)
    counts = {name: values.get(name) for name in ("batch", "images", "time_steps")}
    gemm = SIDES if values["gemm"] is None else values["gemm"]
    expect_counts(**counts, rounds=rounds, threads=threads, gemm=min(gemm or [0]))
    if max(gemm) > MOST:
        raise OnespikeError(f"--gemm: expected sides of at most {MOST:,}, got {max(gemm)}")
    return values


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _names(listed: str) -> list[str]:
    return [name for name in listed.split(",") if name]


def _engines(values: dict[str, Any], rounds: int, console: Console) -> int:
    """Compare engines on trained networks; write the table of each, and its numbers beside it."""
    out, parts, facts = Path(values["out"]), ["# Engines side by side"], describe()
    opened = {run: Run.open(run) for run in _names(values["run"])}
    for run, one in opened.items():
        found = compare_engines(one, values["images"], rounds)
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
