"""Timing functions side by side."""

import time
from collections.abc import Callable, Mapping

import torch

#: Seconds that a timing warms up for, at most; one call is made in any case.
WARM_UP = 1.0


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time functions in turns, A, B, A, B, …, so that whatever else the machine does meets all of them.

    Args:
        functions: What to time, by name. Each is called before the clock starts, up to three times.
        rounds: How often to time each.

    Returns:
        Seconds of each call, by name.
    """
    for function in functions.values():
        started = time.perf_counter()
        for _ in range(3):
            function()
            _wait()
            if time.perf_counter() - started > WARM_UP:
                break
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            _wait()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def _wait() -> None:
    """Wait until an accelerator, where there is one, has done what it was asked to do."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
