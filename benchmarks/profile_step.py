"""`python -m benchmarks.profile_step MODEL:BATCH …`: where the time of a training step goes, by kind of operation."""

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.case import Case, expect_blocks
from benchmarks.machine import LEAST, describe, expect_counts
from onespike.cli.command import call
from onespike.cli.main import exit_with
from onespike.clock import timed, watch_machine
from onespike.durable import csv_text, expect_writable, save_text
from onespike.errors import OnespikeError
from onespike.functional.kernels import Kernels
from onespike.models import family

#: Kinds of operations, by what their names hold; the first that fits counts.
OWN = "norm, fire and convolution in C"
KINDS = {
    OWN: (OWN,),
    "convolution": ("convolution",),
    "recurrent cells (oneDNN)": ("rnn_layer",),
    "matrix products": ("aten::mm", "addmm", "bmm"),
    "random draws": ("uniform", "bernoulli", "random_"),
    "sine, cosine": ("aten::sin", "aten::cos"),
    "comparisons": ("aten::gt", "aten::lt", "hardtanh_backward", "aten::abs"),
    "GELU, sigmoid, tanh": ("gelu", "sigmoid", "tanh"),
    "multiplications, additions": ("aten::mul", "aten::add", "aten::sub", "aten::lerp", "aten::addcmul", "aten::div"),
    "optimiser, clipping": ("_foreach", "_fused", "Optimizer", "vector_norm"),
    "copies, casts, layouts": ("copy", "aten::cat", "clone", "fill", "zero", "contiguous", "to_copy"),
}
REST = "the rest"
STEPS = 3
#: What is timed without a network.
ALONE = "neuron", "conv-unit"
RATES = MILLISECONDS, IMAGES = "milliseconds", "images a second"


def profile_step(models: list[str], threads: int = 1, out: Path | None = None) -> int:
    """Where the time of a training step goes, by kind of operation, as a Markdown table.

    Percent of a step, self time (torch.profiler), and milliseconds and images a second without the profiler. Models are
    timed in fp32 and bf16; conv-unit and neuron, forward and backward alone, in fp32.

    Args:
        models: MODEL:BATCH, such as conv12:128, lstm12:16, conv-unit:64.
        threads: Threads that compute.
        out: A CSV file for the table, with the machine.
    """
    expect_counts(threads=threads)
    named = [name.partition(":") for name in models]
    for model, colon, batch in named:
        if not (batch.isdecimal() and int(batch)):
            raise OnespikeError(f"expected MODEL:BATCH, such as conv12:128, got {model}{colon}{batch}")
        if model not in ALONE:
            expect_blocks(model, "")
    expect_writable(out)
    torch.set_num_threads(threads)
    show_kernels()
    columns, busy = {}, dict[str, str | None]()
    for model, _, batch in named:
        alone = model in ALONE
        for dtype in ("fp32",) if alone else ("fp32", "bf16"):
            preset = "" if alone or "paper" not in family(model).presets else "paper"
            task = (model, "onespike", dtype, int(batch)) if alone else ("train", "onespike", dtype, int(batch), model)
            case = Case(*task, preset=preset)
            name = f"{model}, {batch}, {dtype}"
            columns[name], busy[name] = shares(case)
    shown = (*RATES, *KINDS, REST)
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for row in shown:
        values = [column[row] for column in columns.values()]
        print(f"| {row} | " + " | ".join(f"{value:.0f}" if value >= 0.5 else "" for value in values) + " |")
    for name, reason in busy.items():
        if reason:
            print(f"NOT TO BE TRUSTED, {name}: the machine was busy: {reason}", file=sys.stderr)
    if out:
        machine = describe()
        rows = [
            [name, *(round(column[row], 2) for row in shown), busy[name], *machine.values()]
            for name, column in columns.items()
        ]
        save_text(csv_text(["step", *shown, "busy", *machine], rows), out)
    return 0


def show_kernels() -> None:
    """Let the profiler see the kernels in C, which are called past PyTorch."""
    plain = Kernels.ask

    def ask(self: Kernels, name: str, *arguments: torch.Tensor | int | float) -> int:
        with record_function(OWN):
            return plain(self, name, *arguments)

    Kernels.ask = ask  # type: ignore[method-assign]


def shares(case: Case) -> tuple[Counter[str], str | None]:
    """The time of a step, and the percentage of each kind of operation; why the time cannot be trusted, if so."""
    step = case.build()
    with watch_machine() as machine:
        seconds = timed(step, STEPS, LEAST)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(STEPS):
            step()
    times: Counter[str] = Counter()
    for event in profiler.key_averages():
        kind = next((kind for kind, parts in KINDS.items() if any(part in event.key for part in parts)), REST)
        times[kind] += event.self_cpu_time_total
    whole = times.total()
    found = Counter({kind: 100 * spent / whole for kind, spent in times.items()})
    found[MILLISECONDS], found[IMAGES] = 1000 * median(seconds), case.batch / median(seconds)
    return found, machine.busy


main = partial(call, profile_step, usage="python -m benchmarks.profile_step MODEL:BATCH …")


if __name__ == "__main__":
    exit_with(main)
