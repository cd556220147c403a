"""Engines side by side on one network: accuracy, spikes, latency."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from onespike.clock import interleaved, watch_machine
from onespike.data.augment import seeded
from onespike.data.loader import derive_seed
from onespike.errors import OnespikeError
from onespike.terminal import tracked

#: Sizes of the batches that are timed.
BATCHES = (1, 8, 64)
#: An engine that gives PyTorch's class on fewer images than another, by more than this many percent, is not the best.
LOST = 1.0


@dataclass(frozen=True)
class Candidate:
    """An engine.

    Attributes:
        run: Maps normalised images (B, C, H, W) to logits (B, K).
        spikes_differ: Share of outputs of neurons, spike or none, that differ from PyTorch's, 0..1; None for PyTorch
            itself, and if unknown. Our own engine's neurons are those in the units of its blocks; of an ONNX file they
            are all that spike.
    """

    run: Callable[[Tensor], Tensor]
    spikes_differ: float | None = None


@dataclass(frozen=True)
class Measured:
    """The measurements of one engine.

    Attributes:
        engine: Its name, and its arithmetic.
        top1: Accuracy on the test images, in percent.
        same_class: Share of them in the class that PyTorch puts them into in float32, in percent.
        spikes_differ: As in `Candidate`.
        milliseconds: Time of a batch, by its size: median over the rounds.
        ratio: The same, in units of PyTorch's time.
    """

    engine: str
    top1: float
    same_class: float
    spikes_differ: float | None
    milliseconds: dict[int, float]
    ratio: dict[int, float]


@dataclass(frozen=True)
class Comparison:
    """All engines on one network; PyTorch in float32 comes first.

    Attributes:
        model: The name of the network.
        images: Test images that were classified.
        rounds: Timings of each batch size.
        threads: Threads of the CPU.
        busy: Why the times cannot be trusted; None if they can.
        engines: The measurements of each.
    """

    model: str
    images: int
    rounds: int
    threads: int
    busy: str | None
    engines: tuple[Measured, ...]

    @property
    def best(self) -> str:
        """The fastest engine other than PyTorch, by the product of its ratios over all batch sizes.

        One that agrees with PyTorch on fewer images than another, by more than `LOST`, is wrong, however fast it is.
        """
        least = max(one.same_class for one in self.engines[1:]) - LOST
        agreeing = [one for one in self.engines[1:] if one.same_class >= least]
        return min(agreeing, key=lambda one: prod(one.ratio.values())).engine

    def to_json(self) -> dict[str, Any]:
        """All values."""
        return asdict(self)

    def markdown(self) -> str:
        """A table: the times in milliseconds, and how many times as fast as PyTorch that is."""
        sizes = list(self.engines[0].milliseconds)
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        lines = [f"{self.model}: {self.images:,} test images, {threads}, medians of {self.rounds} rounds"]
        lines += [f"NOT TO BE TRUSTED, the machine was busy: {self.busy}"] if self.busy else []
        times = (f"batch {size}, ms (speed-up)" for size in sizes)
        head = ["engine", "top-1 %", "same class %", "spikes that differ", *times]
        lines += ["", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for one in self.engines:
            spikes = "-" if one.spikes_differ is None else f"{one.spikes_differ:.4%}"
            cells = [f"{one.milliseconds[size]:.2f} ({1 / one.ratio[size]:.2f}x)" for size in sizes]
            row = [one.engine, f"{one.top1:.2f}", f"{one.same_class:.2f}", spikes, *cells]
            lines.append(f"| {' | '.join(row)} |")
        return "\n".join(lines) + "\n"


@torch.no_grad()
@seeded(0)  # the caller's random numbers go on as if nothing had been compared
def compare(
    model: str,
    candidates: Mapping[str, Candidate],
    batches: Sequence[tuple[Tensor, Tensor]],
    rounds: int,
    sizes: Iterable[int] = BATCHES,
) -> Comparison:
    """Compare engines on one network.

    Args:
        model: Name of the network.
        candidates: The engines by name; the others are compared with the first.
        batches: Normalised test images (B, C, H, W) and their classes (B,).
        rounds: Timings of each engine and batch, in turns.
        sizes: Sizes of the batches that are timed.

    Raises:
        OnespikeError: An engine answers with numbers that are not finite.
    """
    with watch_machine() as machine:
        seconds = {size: _timed(candidates, batches[0][0], size, rounds) for size in sizes}
    right, same = dict.fromkeys(candidates, 0), dict.fromkeys(candidates, 0)
    for number, (images, labels) in enumerate(tracked(batches, "accuracy")):
        expected = None
        for name, one in candidates.items():
            torch.manual_seed(derive_seed(0, number))  # a Bernoulli encoding draws the same for all
            logits = one.run(images)
            if not logits.isfinite().all():
                raise OnespikeError("the network answers with numbers that are not finite: its training failed")
            guesses = logits.argmax(1)
            expected = guesses if expected is None else expected
            right[name] += int((guesses == labels).sum())
            same[name] += int((guesses == expected).sum())
    total = sum(len(labels) for _, labels in batches)
    first, measured = next(iter(candidates)), []
    for name, one in candidates.items():
        times = {size: 1000 * median(taken[name]) for size, taken in seconds.items()}
        ratio = {size: times[size] / (1000 * median(taken[first])) for size, taken in seconds.items()}
        shares = 100 * right[name] / total, 100 * same[name] / total
        measured.append(Measured(name, *shares, one.spikes_differ, times, ratio))
    return Comparison(model, total, rounds, torch.get_num_threads(), machine.busy, tuple(measured))


def _timed(candidates: Mapping[str, Candidate], images: Tensor, size: int, rounds: int) -> Mapping[str, list[float]]:
    """Time all engines on one batch, in turns; images are repeated if there are too few."""
    batch = images.repeat(-(-size // len(images)), 1, 1, 1)[:size]
    plain, last = batch.contiguous(), batch.contiguous(memory_format=torch.channels_last)
    calls = {k: partial(one.run, last if isinstance(one.run, nn.Module) else plain) for k, one in candidates.items()}
    return interleaved(calls, rounds)
