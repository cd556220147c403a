"""Convolutions of small maps, one image after the other and side by side: `python -m benchmarks.small_maps`."""

import sys
from functools import partial
from statistics import median
from typing import Any

import torch
from torch.nn.functional import conv2d

from benchmarks.machine import expect_counts, save_cases
from onespike.cli.command import call
from onespike.cli.main import exit_with
from onespike.clock import interleaved, watch_machine
from onespike.durable import expect_writable
from onespike.functional.conv import side_by_side

CHANNELS, SIDES = (96, 192, 256, 384, 512), (1, 2, 3, 4, 5, 6)


def measure(images: int, channels: int, side: int, rounds: int) -> dict[str, Any]:
    """Time both ways in turns, in bf16, forward; gives milliseconds and how often as fast side by side is."""
    torch.manual_seed(0)
    x, weight = (
        torch.randn(*shape).bfloat16().contiguous(memory_format=torch.channels_last)
        for shape in ((images, channels, side, side), (channels, channels, 3, 3))
    )
    ways = {"conv2d": partial(conv2d, x, weight, padding=1), "side_by_side": partial(side_by_side, x, weight)}
    with watch_machine("cpu") as machine:
        taken = {way: median(times) for way, times in interleaved(ways, rounds).items()}
    milliseconds = {f"{way}_ms": 1e3 * seconds for way, seconds in taken.items()}
    ratio = taken["conv2d"] / taken["side_by_side"]
    return {"channels": channels, "side": side, **milliseconds, "times_as_fast": ratio, "busy": machine.busy}


def compare(images: int = 128, rounds: int = 15, json: str | None = None) -> int:
    """Time 3x3 convolutions of small maps of many channels, one image after the other and side by side.

    Args:
        images: Images in the batch.
        rounds: Timings of each.
        json: A file for what was found; - prints it.
    """
    expect_counts(images=images, rounds=rounds)
    expect_writable(json)
    cases = []
    for channels in CHANNELS:
        for side in SIDES:
            cases.append(found := measure(images, channels, side, rounds))
            print(
                f"{channels} channels, {side} x {side}: {found['conv2d_ms']:8.2f} ms, "
                f"side by side {found['side_by_side_ms']:8.2f} ms, {found['times_as_fast']:.2f}x",
                file=sys.stderr,
            )
    save_cases(cases, images, json)
    return 0


main = partial(call, compare, usage="python -m benchmarks.small_maps")


if __name__ == "__main__":
    exit_with(main)
