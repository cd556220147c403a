"""The machine's own limit: how fast it multiplies square matrices, and what it is."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from onespike.clock import interleaved
from onespike.durable import save_json
from onespike.environment import accelerator_type, environment, version_of
from onespike.errors import OnespikeError

Device = Literal["cpu", "cuda", "mps"]
#: Sides of the square products that are tried; the fastest counts.
SIDES = (1024, 2048, 4096)
ROUNDS = 5
#: Seconds for which a case alone is timed at least: what others use of the cores is counted in hundredths of a second.
LEAST = 0.5


@dataclass(frozen=True)
class Peak:
    """The fastest square product in one type.

    Attributes:
        dtype: "fp32", "bf16" or "int8".
        gflops: Billions of operations a second, two for each multiply-accumulate; median over the rounds.
        side: Side of the matrices.
        through: What computed it.
        device: Where: "cpu", "cuda" or "mps".
    """

    dtype: str
    gflops: float
    side: int
    through: str
    device: str = "cpu"

    def product(self) -> Callable[[], Tensor]:
        """The product, to be timed beside something else."""
        with torch.device(self.device):
            return PRODUCTS[self.dtype, self.through](self.side)

    def measured(self, seconds: Sequence[float]) -> "Peak":
        """The same product as it was timed elsewhere: `gflops` is the median of those times'."""
        return replace(self, gflops=2e-9 * self.side**3 / median(seconds))


def save_cases(cases: list[dict[str, Any]], images: int, json: str | None) -> None:
    """Say if the machine was busy with anything else, and write what was found to `json`, where there is one."""
    if busy := next((one["busy"] for one in cases if one["busy"]), None):
        print(f"NOT TO BE TRUSTED, the machine was busy: {busy}", file=sys.stderr)
    if json:
        save_json({**describe(), "threads": torch.get_num_threads(), "images": images, "cases": cases}, json)


def expect_counts(**counts: int | None) -> None:
    """Raise an `OnespikeError` for an option, such as `images=0`, that is below 1, or for more `threads` than cores."""
    for name, number in counts.items():
        if number is not None and number < 1:
            raise OnespikeError(f"--{name.replace('_', '-')}: expected at least 1, got {number}")
    threads, cores = counts.get("threads") or 1, os.cpu_count() or 1
    if threads > cores:
        raise OnespikeError(f"--threads: expected at most {cores}, the cores there are, got {threads}")


def expect_device(device: str) -> None:
    """Raise an `OnespikeError` unless PyTorch finds such a device here."""
    if device not in ("cpu", accelerator_type()):
        raise OnespikeError(f"--device: PyTorch finds no {device} here; use --device cpu")


def describe() -> dict[str, str | int | None]:
    """Say which machine, versions and number of threads this is; a library that is not there has the version None."""
    facts = environment()
    return {
        **{name: facts[name] for name in ("processor", "cores", "threads", "onespike", "commit", "python")},
        "accelerator": ", ".join(facts["accelerators"]) or None,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": facts["packages"]["torch"],
        **{package: version_of(package) for package in ("spikingjelly", "snntorch", "onnxruntime", "openvino")},
    }


def gemm_peaks(sides: Sequence[int] = SIDES, rounds: int = ROUNDS, device: str = "cpu") -> dict[str, Peak]:
    """Measure the fastest square product, by type: float32, bfloat16 and, on a CPU, 8-bit integers, on all threads."""
    peaks: dict[str, Peak] = {}
    for dtype, through in PRODUCTS:
        if dtype == "int8" and device != "cpu":
            continue  # nothing here computes with integers but the engine, which wants a CPU
        for side in sides:
            tried = Peak(dtype, 0.0, side, through, device)
            tried = tried.measured(interleaved({"": tried.product()}, rounds)[""])
            if dtype not in peaks or tried.gflops > peaks[dtype].gflops:
                peaks[dtype] = tried
    return peaks


def _floating(side: int, dtype: torch.dtype) -> Callable[[], Tensor]:
    a, b = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
    return lambda: a @ b


def _int_mm(side: int) -> Callable[[], Tensor]:
    a, b = (torch.randint(-100, 100, (side, side), dtype=torch.int8) for _ in range(2))
    return lambda: torch._int_mm(a, b)


def _quantised(side: int) -> Callable[[], Tensor]:
    x = torch.randint(0, 200, (side, side), dtype=torch.uint8)
    weight = torch.ops.onednn.qlinear_prepack(torch.randint(-100, 100, (side, side), dtype=torch.int8), [side, side])
    scale, zero = torch.ones(side), torch.zeros(side, dtype=torch.int32)
    linear = torch.ops.onednn.qlinear_pointwise
    return lambda: linear(x, 1.0, 0, weight, scale, zero, None, 1.0, 0, torch.float32, "none", [], "")


#: What computes a square product, by type and name: side to product.
PRODUCTS: dict[tuple[str, str], Callable[[int], Callable[[], Tensor]]] = {
    ("fp32", "torch.mm"): lambda side: _floating(side, torch.float32),
    ("bf16", "torch.mm"): lambda side: _floating(side, torch.bfloat16),
    ("int8", "torch._int_mm"): _int_mm,
}
if hasattr(torch.ops.onednn, "qlinear_pointwise"):
    PRODUCTS["int8", "oneDNN's quantised linear layer"] = _quantised
