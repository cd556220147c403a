"""Peak memory of a case, in a process of its own."""

import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import NamedTuple

import torch

from benchmarks.case import Case
from benchmarks.machine import LEAST
from onespike.allocator import keep_freed_memory
from onespike.audit.latency import peak_memory
from onespike.clock import timed, watch_machine

#: Calls in which the peak is reached: optimisers make their state in the first.
CALLS = 2
#: Processes whose median memory counts.
PROCESSES = 3


class Alone(NamedTuple):
    """What a case does in a process of its own.

    Attributes:
        peak_mb: Peak resident size over that of the imports, in MB (10^6 bytes); of a case that CUDA computes, the most
            memory that PyTorch held there.
        seconds: Median time of a call; 0 if it was not timed.
        busy: Why that time cannot be trusted, since something else ran meanwhile; None if it can.
    """

    peak_mb: float
    seconds: float
    busy: str | None = None


def alone(case: Case, threads: int, rounds: int = 0) -> Alone:
    """Run a case in a fresh process, and time it for some rounds.

    Without rounds the memory alone is looked at: the median of `PROCESSES` processes, since it differs by some percent.
    """
    found = []
    for _ in range(1 if rounds else PROCESSES):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found.append(pool.submit(_run, case, threads, rounds).result())
    return Alone(median(one.peak_mb for one in found), found[0].seconds, found[0].busy)


def _run(case: Case, threads: int, rounds: int) -> Alone:
    keep_freed_memory()  # as every command does
    torch.set_num_threads(threads)
    before = peak_bytes()
    call = case.build()
    for _ in range(CALLS):
        call()
    peak = torch.cuda.max_memory_allocated() if case.device == "cuda" else peak_bytes() - before
    if not rounds:
        return Alone(peak / 1e6, 0.0)
    with watch_machine(case.device) as machine:
        seconds = timed(call, rounds, LEAST)
    return Alone(peak / 1e6, median(seconds), machine.busy)


def peak_bytes() -> int:
    """Peak resident size of this process so far."""
    if told := peak_memory():  # getrusage would count what the parent held when this process was forked off it
        return told
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
