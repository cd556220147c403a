"""Norm and fire alone, forward and backward, against the time that its bytes take: `python -m benchmarks.norm_fire`.

In turns: the kernels, the same as separate operations, those compiled, and a copy of the currents, which tells how many
bytes a second the machine moves. The least that must be moved: the currents for their mean and variance, currents and
spikes to fire; currents and gradient twice backwards (the sums come first), and the currents' gradient.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import Device, describe, expect_device
from onespike.cli.command import call
from onespike.cli.main import exit_with
from onespike.clock import interleaved, watch_machine
from onespike.durable import expect_writable, save_json
from onespike.errors import OnespikeError
from onespike.functional import Surrogate, has_kernels, norm_fire, spike

#: Channels and sides of a map. Images, by device: a GPU keeps small tensors in its cache, whose speed is another.
MAP, IMAGES = (64, 32, 32), {"cpu": 128, "cuda": 1024}
#: Calls that are timed together, by device: a GPU is asked for the next while it computes, as in training.
CALLS = {"cpu": 1, "cuda": 20}
#: Tensors of the currents' size that are read or written at least: see above.
PASSES = {"forward": 3, "backward": 5}
SURROGATE = Surrogate("triangle", 2.0)


def both_ways(function: Callable[[Tensor], Tensor], currents: Tensor, gradient: Tensor) -> None:
    """Run forward and backward."""
    function(currents).backward(gradient)
    currents.grad = None


def repeated(function: Callable[[], object], calls: int) -> None:
    """Call a function several times."""
    for _ in range(calls):
        function()


def measure(device: str, images: int, rounds: int) -> dict[str, Any]:
    """Time every way in turns; gives milliseconds, and how often the time of its bytes each takes."""
    torch.manual_seed(0)
    shape, calls = (images, *MAP), CALLS[device]
    values, gradient = (
        torch.randn(shape, device=device).bfloat16().contiguous(memory_format=torch.channels_last) for _ in range(2)
    )
    os.environ["ONESPIKE_KERNELS"] = "1"  # on a GPU they are taken by nobody who does not ask
    if not has_kernels(values):
        raise OnespikeError(f"--device {device}: there are no kernels, which need a C compiler on a CPU, else Triton")
    currents = values.clone(memory_format=torch.preserve_format).requires_grad_()
    shift = torch.full(MAP[:1], -0.2, device=device, requires_grad=True)
    norm = torch.nn.BatchNorm2d(MAP[0], affine=False, device=device)

    def separate(currents: Tensor) -> Tensor:
        return spike(norm(currents) + shift[:, None, None].bfloat16(), 0.5, SURROGATE)

    copied = torch.empty_like(values)
    ways = {
        "kernels": lambda x: norm_fire(x, shift, norm, 0.5, SURROGATE),
        "separate operations": separate,
        "separate operations, compiled": torch.compile(separate),
    }
    cases: dict[str, Callable[[], object]] = {"copy": lambda: copied.copy_(values)}
    cases |= {name: partial(both_ways, way, currents, gradient) for name, way in ways.items()}
    with watch_machine(device) as machine:
        taken = interleaved({name: partial(repeated, case, calls) for name, case in cases.items()}, rounds)
    seconds = {name: median(times) / calls for name, times in taken.items()}
    least = seconds["copy"] / 2 * sum(PASSES.values())
    return {
        "threads": torch.get_num_threads(),
        "busy": machine.busy,
        "shape": shape,
        "copy_gb_per_second": 2e-9 * values.nbytes / seconds["copy"],
        "least_ms": 1e3 * least,
        "cases": {name: {"ms": 1e3 * one, "of_bytes": one / least} for name, one in seconds.items()},
    }


def compare(device: Device = "cpu", images: int | None = None, rounds: int = 15, json: str | None = None) -> int:
    """Time norm and fire, forward and backward: our kernels, PyTorch's operations, and those compiled.

    Args:
        device: Where it is computed: cpu, or cuda.
        images: Images in the batch; by default 128 on a CPU, 1024 on a GPU.
        rounds: Timings of each.
        json: A file for what was found; - prints it.
    """
    expect_device(device)
    if device not in IMAGES:
        raise OnespikeError(f"--device: expected one of {', '.join(IMAGES)}, which there are kernels for, got {device}")
    images = IMAGES[device] if images is None else images
    if min(images, rounds) < 1:
        raise OnespikeError(f"--images, --rounds: expected at least 1, got {images} and {rounds}")
    expect_writable(json)
    found = {**describe(), "device": device, **measure(device, images, rounds)}
    print(f"{found['accelerator'] if device == 'cuda' else found['processor']}", file=sys.stderr)
    for name, figures in found["cases"].items():
        print(f"{name:32}{figures['ms']:8.2f} ms{figures['of_bytes']:8.2f} x the time of its bytes", file=sys.stderr)
    if found["busy"]:
        print(f"NOT TO BE TRUSTED, the machine was busy: {found['busy']}", file=sys.stderr)
    if json:
        save_json(found, json)
    return 0


main = partial(call, compare, usage="python -m benchmarks.norm_fire")


if __name__ == "__main__":
    exit_with(main)
