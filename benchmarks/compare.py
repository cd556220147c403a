"""Side by side, in turns: the library, the plain implementation, other libraries; beside them the machine's limit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.case import Case
from benchmarks.machine import Peak
from benchmarks.memory import alone
from onespike.clock import interleaved, watch_machine
from onespike.inference import PRECISIONS
from onespike.inference.engine import takes


@dataclass(frozen=True)
class Record:
    """What was measured of a case, whose attributes come first; `threads` are those that computed.

    Attributes:
        images_per_second: Median over the rounds.
        slowest: In the slowest round.
        fastest: In the fastest round.
        operations: Floating-point operations of one image: two for each multiply-accumulate of the weight layers, three
            times as many forward and backward; None where there is no weight layer.
        gflops: `operations` a second, in billions; None likewise.
        share_of_gemm: `gflops` as a share of the machine's fastest matrix product in that arithmetic, 0..1; None
            likewise. The int16 engine's is of the int8 product: it multiplies twice, which is counted once.
        peak_memory_mb: Peak resident size over that of the imports, in MB; None if it was not measured.
        rounds: How often it was timed.
        busy: Why the times cannot be trusted, since something else ran meanwhile; None if they can.
    """

    task: str
    model: str
    preset: str
    implementation: str
    dtype: str
    batch: int
    time_steps: int
    threads: int
    device: str
    images_per_second: float
    slowest: float
    fastest: float
    operations: int | None
    gflops: float | None
    share_of_gemm: float | None
    peak_memory_mb: float | None
    rounds: int
    busy: str | None


def cases(
    task: str,
    model: str,
    preset: str,
    batch: int,
    precision: str,
    peers: Sequence[str],
    device: str = "cpu",
    time_steps: int = 1,
) -> list[Case]:
    """List what is compared for a task "train", "infer" or "unit": the library first, then its peers.

    Each is there in float32, then, for the precision "bf16", in bfloat16. What nobody has implemented, or of which a
    library is missing, is an `OnespikeError`.
    """
    names, overrides = ["onespike", *peers], {"time_steps": time_steps} if time_steps > 1 else {}
    if task == "unit":
        types, parts = ["fp32"], ["neuron", "conv-unit"]
    else:
        types, parts = ["fp32"] if precision == "fp32" else ["fp32", "bf16"], [task]
    listed = [
        Case(part, name, dtype, batch, model, preset, overrides=overrides, device=device)
        for part in parts
        for name in names
        for dtype in types
    ]
    for case in listed:
        case.check()
    if task == "infer" and device == "cpu" and takes(listed[0].network()):
        listed += [Case(task, "engine", dtype, batch, model, preset, overrides=overrides) for dtype in PRECISIONS]
    return listed


def compare(listed: Sequence[Case], peaks: Mapping[str, Peak], rounds: int) -> tuple[list[Record], dict[str, Peak]]:
    """Time cases in turns, and measure the memory of each in a process of its own; a record for each.

    Beside the records: the machine's matrix products as they were timed in the same rounds.
    """
    peak_mb = [alone(case, torch.get_num_threads()).peak_mb for case in listed]
    return records([(case, case.build()) for case in listed], peaks, rounds, peak_mb)


def records(
    timed: Sequence[tuple[Case, Callable[[], object]]],
    peaks: Mapping[str, Peak],
    rounds: int,
    peak_mb: Sequence[float | None],
) -> tuple[list[Record], dict[str, Peak]]:
    """Time functions in turns, the machine's products among them; see `compare`."""
    functions = {str(number): function for number, (_, function) in enumerate(timed)}
    products = {dtype: peak.product() for dtype, peak in peaks.items()}
    with watch_machine(timed[0][0].device) as machine:
        seconds = interleaved(functions | products, rounds)
    peaks = {dtype: peak.measured(seconds[dtype]) for dtype, peak in peaks.items()}
    made = [
        record(case, seconds[str(number)], peaks, megabytes, machine.busy)
        for number, ((case, _), megabytes) in enumerate(zip(timed, peak_mb, strict=True))
    ]
    return made, peaks


def record(
    case: Case, seconds: list[float], peaks: Mapping[str, Peak], peak_mb: float | None, busy: str | None = None
) -> Record:
    """Make a record of the seconds that each call of a case took."""
    rate = case.batch / median(seconds)
    operations, gflops, share = case.operations(), None, None
    if operations is not None:
        gflops = 1e-9 * operations * rate
        share = gflops / peaks["int8" if case.dtype.startswith("int") else case.dtype].gflops
    model, steps = case.model if case.task in ("train", "infer") else "", case.overrides.get("time_steps", 1)
    what = case.task, model, case.preset, case.implementation, case.dtype, case.batch, steps
    speeds = rate, case.batch / max(seconds), case.batch / min(seconds)
    computed = operations, gflops, share
    return Record(*what, torch.get_num_threads(), case.device, *speeds, *computed, peak_mb, len(seconds), busy)
