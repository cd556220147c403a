"""The one way to time functions: in turns, after a warm-up; and how busy the machine was meanwhile."""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

#: Calls of a function before the clock is read, unless they take this many seconds.
CALLS, WARM_UP = 3, 1.0
#: Cores that others may use before the machine counts as busy; share of a core that a process gets on an idle one.
OTHERS, OWN = 0.3, 0.8
#: psutil's names for the time that a core is at work; "user" includes that of its guests.
AT_WORK = ("user", "nice", "system", "irq", "softirq", "steal")


@dataclass
class Machine:
    """How busy the machine was while something ran."""

    cpu: float = 0.0  # processor seconds of this process in each second, all its threads together
    others: float = 0.0  # of all other processes, but those that a launcher such as torchrun started beside it
    threads: int = 1  # threads that this process computes with
    waits: bool = False  # whether an accelerator computes, so that this process may have to wait

    @property
    def busy(self) -> str | None:
        """Why a time taken meanwhile cannot be trusted; None if it can."""
        if self.others > OTHERS:
            return f"others used {self.others:.1f} cores"
        # Below one core for one thread. More threads wait for each other on small batches, busy machine or not.
        if not self.waits and self.cpu < OWN:
            return f"this process got {self.cpu:.2f} of a core for {self.threads} threads"
        return None


@contextmanager
def watch_machine(device: torch.device | str = "cpu") -> Iterator[Machine]:
    """Watch the machine while something is timed on a device; the yielded object is filled in at the end."""
    beside = os.environ.get("LOCAL_WORLD_SIZE", "")  # all processes of a training do the same work
    processes = int(beside) if re.fullmatch("[1-9][0-9]{0,5}", beside) else 1
    machine = Machine(threads=torch.get_num_threads(), waits=torch.device(device).type != "cpu")
    began, spent, by_all = time.perf_counter(), time.process_time(), _processors_seconds()
    yield machine
    seconds = max(time.perf_counter() - began, 1e-9)
    machine.cpu = (time.process_time() - spent) / seconds
    machine.others = max(0.0, (_processors_seconds() - by_all) / seconds - processes * machine.cpu)


def _processors_seconds() -> float:
    """Seconds that all cores have been at work since the machine was started, for any process."""
    times = psutil.cpu_times()
    return sum(getattr(times, kind, 0.0) for kind in AT_WORK)


def interleaved(
    functions: Mapping[str, Callable[[], object]], rounds: int, seconds: float = 0.0
) -> dict[str, list[float]]:
    """Time functions in turns, A, B, A, B, …, so that anything else on the machine affects all of them.

    Each is timed at least `rounds` times, and at least `seconds` in all. Before the clock starts, it is called up to
    three times, as long as that takes less than the seconds of the warm-up. Returns the seconds of each call.
    """
    for function in functions.values():
        spent = 0.0
        for _ in range(CALLS):
            if (spent := spent + _seconds(function)) > WARM_UP:
                break
    taken: dict[str, list[float]] = {name: [] for name in functions}
    while any(len(times) < rounds or sum(times) < seconds for times in taken.values()):
        for name, function in functions.items():
            taken[name].append(_seconds(function))
    return taken


def timed(function: Callable[[], object], rounds: int = 10, seconds: float = 2.0) -> list[float]:
    """Time one function."""
    return interleaved({"": function}, rounds, seconds)[""]


def _seconds(function: Callable[[], object]) -> float:
    """Seconds that a function takes, until the accelerator, if there is one, has done its work."""
    started = time.perf_counter()
    function()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - started
