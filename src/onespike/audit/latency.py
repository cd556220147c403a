"""Time, memory and joules, measured on this machine: warm up, then measure; the median and the spread."""

import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onespike.clock import timed, watch_machine
from onespike.errors import reason
from onespike.models.strict_layers import adding_up
from onespike.neurons.watch import batch_of, resetter

#: Fewest passes that are timed, and fewest seconds that all take together.
_RUNS, _SECONDS = 10, 2.0
#: Linux's counters of this process's memory.
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Latency:
    """Time and memory of one forward pass.

    Attributes:
        batch: Images in the batch.
        runs: Passes timed, after a warm-up.
        median: Median of the seconds for the batch.
        low: First quartile of the seconds.
        high: Third quartile of the seconds.
        memory: Peak in bytes: of the whole process on a CPU, allocated on CUDA; None where it is not told.
        dtype: Arithmetic.
        device: Where it ran.
        threads: Threads of the CPU.
        cpu: Processor seconds of this process in each second meanwhile.
        others: The same of all other processes.
        busy: Why the time cannot be trusted: what else the machine did; None if it can.
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
    cpu: float
    others: float
    busy: str | None

    @property
    def images_per_second(self) -> float:
        """Throughput at the median."""
        return self.batch / self.median

    def to_json(self) -> dict[str, Any]:
        """All values."""
        return asdict(self) | {"images_per_second": self.images_per_second}


class Joules(NamedTuple):
    """Energy of one image as a meter measured it, in joule; None where none could, and `meter` says why."""

    per_image: float | None = None
    meter: str = "not measured"


@torch.no_grad()
def measure_latency(model: nn.Module, images: Tensor) -> Latency:
    """Time forward passes of a model in evaluation mode on one batch, and say how busy the machine was."""
    if on_gpu := images.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):  # no Linux, or not allowed: the peak is then that of the whole process
            _RESET.write_text("5")
    with watch_machine(images.device) as machine, adding_up(model):
        seconds = timed(_afresh(model, images), _RUNS, _SECONDS)
    low, median, high = statistics.quantiles(seconds, n=4)
    passes = batch_of(images), len(seconds), median, low, high
    return Latency(
        *passes,
        memory=torch.cuda.max_memory_allocated() if on_gpu else peak_memory(),
        dtype=str(images.dtype).removeprefix("torch."),
        device=str(images.device),
        **{name: getattr(machine, name) for name in ("threads", "cpu", "others", "busy")},
    )


@torch.no_grad()
def measure_joules(model: nn.Module, images: Tensor) -> Joules:
    """Measure the energy of forward passes of a warm model; meters see all that the chip does, idling included."""
    try:
        from zeus.device.cpu import get_cpus
        from zeus.exception import ZeusBaseError
        from zeus.monitor import ZeusMonitor
    except ImportError:
        return Joules(None, "not measured: that needs the package zeus; install it with: pip install 'onespike[bench]'")
    on_gpu, calls, step = images.device.type == "cuda", count(), _afresh(model, images)
    no_meter = Joules(None, "not measured: this machine has no meter that can be read")
    try:
        if not on_gpu:
            get_cpus()
        monitor = ZeusMonitor(gpu_indices=[images.device.index or 0] if on_gpu else [])
        monitor.begin_window("audit")
        with adding_up(model):
            timed(lambda: (next(calls), step()), _RUNS, _SECONDS)
        measured = monitor.end_window("audit")
    except (ZeusBaseError, OSError, RuntimeError, ValueError) as error:  # the last if it sees no GPU
        return no_meter._replace(meter=f"{no_meter.meter} ({reason(error)})")
    chips = measured.gpu_energy if on_gpu else measured.cpu_energy
    if not chips:
        return no_meter
    passes = next(calls)
    meter = f"{'NVML' if on_gpu else 'RAPL'}, through zeus, over {passes} batches of {batch_of(images)}"
    return Joules(sum(chips.values()) / (passes * batch_of(images)), meter)


def _afresh(model: nn.Module, images: Tensor) -> Callable[[], object]:
    """Return a function that runs one forward pass, with the neurons' states reset before it."""
    reset = resetter(model)
    return lambda: (reset(), model(images))


def peak_memory() -> int | None:
    """The peak memory of this process since the last reset, in bytes; None where the system does not tell."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
