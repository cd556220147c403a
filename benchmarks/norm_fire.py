"""Norm and fire alone, forward and backward, against the time that its bytes take: `python -m benchmarks.norm_fire`.

In turns: the kernels, the same as separate operations, those compiled, and a copy of the currents, which tells how many
bytes a second the machine moves. The least that must be moved: the currents for their mean and variance, currents and
spikes to fire; currents and gradient twice backwards (the sums come first), and the currents' gradient.
"""

import json
import sys
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.machine import describe
from onespike.allocator import keep_freed_memory
from onespike.clock import interleaved
from onespike.durable import save_text
from onespike.functional import Surrogate, norm_fire, spike

SHAPE, ROUNDS = (128, 64, 32, 32), 15
#: Tensors of the currents' size that are read or written at least: see above.
PASSES = {"forward": 3, "backward": 5}
SURROGATE = Surrogate("triangle", 2.0)


def both_ways(function, currents: Tensor, gradient: Tensor) -> None:  # type: ignore[no-untyped-def]
    """Run forward and backward."""
    function(currents).backward(gradient)
    currents.grad = None


def main() -> None:
    """Time, print, and write JSON to the file that is named, if one is."""
    keep_freed_memory()
    torch.manual_seed(0)
    values, gradient = (torch.randn(SHAPE).bfloat16().contiguous(memory_format=torch.channels_last) for _ in range(2))
    currents, shift = values.clone(memory_format=torch.preserve_format).requires_grad_(), torch.full((SHAPE[1],), -0.2)
    norm = torch.nn.BatchNorm2d(SHAPE[1], affine=False)
    shift.requires_grad_()

    def separate(currents: Tensor) -> Tensor:
        return spike(norm(currents) + shift[:, None, None].bfloat16(), 0.5, SURROGATE)

    copied = torch.empty_like(values)
    ways = {
        "kernels": lambda x: norm_fire(x, shift, norm, 0.5, SURROGATE),
        "separate operations": separate,
        "separate operations, compiled": torch.compile(separate),
    }
    cases = {name: partial(both_ways, way, currents, gradient) for name, way in ways.items()}
    seconds = interleaved({"copy": lambda: copied.copy_(values), **cases}, ROUNDS)
    copy = median(seconds["copy"])
    least = copy / 2 * sum(PASSES.values())
    found = {name: {"ms": 1e3 * median(times), "of_bytes": median(times) / least} for name, times in seconds.items()}
    record = {**describe(), "threads": torch.get_num_threads(), "shape": SHAPE, "least_ms": 1e3 * least, "cases": found}
    for name, figures in found.items():
        print(f"{name:32}{figures['ms']:8.2f} ms{figures['of_bytes']:8.2f} x the time of its bytes")
    if sys.argv[1:]:
        save_text(json.dumps(record, indent=2), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
