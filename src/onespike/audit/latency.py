"""Latency and memory, measured on this machine: warm up, then time; the median and the spread."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

#: Passes before the clock is read, and those that are timed: at least, and until so many seconds are over.
_WARM_UP, _RUNS, _SECONDS = 3, 10, 2.0
#: Linux's counters of this process's memory.
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Latency:
    """Time and memory of one forward pass.

    Attributes:
        batch: Images in the batch.
        runs: Passes timed, after a warm-up.
        median: Seconds for the batch.
        low: First quartile of the seconds.
        high: Third quartile of the seconds.
        memory: Peak memory in bytes: resident of the whole process on a CPU, allocated on CUDA; None where it cannot be
            told.
        dtype: Arithmetic.
        device: Where it ran.
        threads: Threads of the CPU.
    """

    batch: int
    runs: int
    median: float
    low: float
    high: float
    memory: int | None
    dtype: str
    device: str
    threads: int

    @property
    def images_per_second(self) -> float:
        """Throughput at the median."""
        return self.batch / self.median

    def to_json(self) -> dict[str, Any]:
        """All values."""
        return asdict(self) | {"images_per_second": self.images_per_second}


@torch.no_grad()
def measure_latency(model: nn.Module, images: Tensor) -> Latency:
    """Time forward passes on one batch.

    Args:
        model: The model; put into evaluation mode, and back into the mode it was in.
        images: The batch, on the model's device.

    Returns:
        Time and memory.
    """
    was_training = model.training
    model.eval()
    reset_peak(images.device)
    for _ in range(_WARM_UP):
        model(images)
    seconds = timed(lambda: model(images), images.device)
    model.train(was_training)
    low, median, high = statistics.quantiles(seconds, n=4)
    return Latency(
        batch=len(images),
        runs=len(seconds),
        median=median,
        low=low,
        high=high,
        memory=peak_memory(images.device),
        dtype=str(images.dtype).removeprefix("torch."),
        device=str(images.device),
        threads=torch.get_num_threads(),
    )


def timed(run: Callable[[], object], device: torch.device, runs: int = _RUNS, total: float = _SECONDS) -> list[float]:
    """Time a function again and again.

    Args:
        run: What to time.
        device: Where it computes; waited for.
        runs: How often, at least.
        total: Seconds that all of them shall take, at least.

    Returns:
        The seconds of each.
    """
    seconds: list[float] = []
    while len(seconds) < runs or sum(seconds) < total:
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def reset_peak(device: torch.device) -> None:
    """Forget how much memory was in use before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        try:
            _RESET.write_text("5")
        except OSError:
            return  # no Linux, or not allowed: the peak is then that of the whole run


def peak_memory(device: torch.device) -> int | None:
    """The most memory in use since `reset_peak`, in bytes; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
