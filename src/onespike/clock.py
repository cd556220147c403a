"""The one way to time: functions in turns, after a warm-up; and how busy the machine was meanwhile."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch

#: A function is called so often before the clock is read, unless that takes so many seconds.
CALLS, WARM_UP = 3, 1.0
#: Cores that others may use before a machine counts as busy; share of one core that a process gets on an idle one.
OTHERS, OWN = 0.3, 0.8
_STARTED = time.perf_counter()


@dataclass
class Machine:
    """How busy the machine was while something ran."""

    cpu: float = 0.0  # processor seconds of this process in each second
    load: float | None = None  # load average over the last minute, this process included; None where there is none
    others: float | None = None  # cores that others used, as far as the load average tells; None likewise
    threads: int = 1  # threads that this process computes with
    waits: bool = False  # whether an accelerator computes, so that this process may well wait

    @property
    def busy(self) -> str | None:
        """Why a time taken meanwhile is not to be trusted; None if it is."""
        if self.others is not None and self.others > OTHERS:
            return f"others used about {self.others:.1f} cores (load average {self.load:.1f})"
        # Below one core for one thread. More threads wait for each other on small batches, busy machine or not.
        if not self.waits and self.cpu < OWN:
            return f"this process got {self.cpu:.2f} of a core for {self.threads} threads"
        return None


@contextmanager
def watch_machine(device: torch.device | str = "cpu") -> Iterator[Machine]:
    """Watch the machine while something is timed on a device; what is yielded is filled in at the end."""
    machine = Machine(threads=torch.get_num_threads(), waits=torch.device(device).type != "cpu")
    began, spent = time.perf_counter(), time.process_time()
    yield machine
    machine.cpu = (time.process_time() - spent) / max(time.perf_counter() - began, 1e-9)
    with suppress(AttributeError, OSError):  # Windows has no load average
        machine.load = os.getloadavg()[0]
        # The average follows what runs with a delay of a minute: of this process it shows a part while that is young.
        age = time.perf_counter() - _STARTED
        own = max(machine.cpu, time.process_time() / age) * (1 - math.exp(-age / 60))
        machine.others = max(0.0, machine.load - own)


def interleaved(
    functions: Mapping[str, Callable[[], object]], rounds: int, seconds: float = 0.0, warm_up: float = WARM_UP
) -> dict[str, list[float]]:
    """Time functions in turns, A, B, A, B, …, so that whatever else the machine does meets all of them.

    Each is timed so many rounds, and so many seconds in all, at least. Before the clock starts it is called up to three
    times, as long as that takes less than the seconds of the warm-up. Gives the seconds of each call.
    """
    for function in functions.values():
        started = time.perf_counter()
        for _ in range(CALLS):
            function()
            _wait()
            if time.perf_counter() - started > warm_up:
                break
    taken: dict[str, list[float]] = {name: [] for name in functions}
    while any(len(times) < rounds or sum(times) < seconds for times in taken.values()):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            _wait()
            taken[name].append(time.perf_counter() - started)
    return taken


def timed(function: Callable[[], object], rounds: int = 10, seconds: float = 2.0) -> list[float]:
    """Time one function."""
    return interleaved({"": function}, rounds, seconds)[""]


def _wait() -> None:
    """Wait until an accelerator, where there is one, has done what it was asked to do."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
