"""One network, several engines: ours in integers, ONNX Runtime, OpenVINO, PyTorch; time, accuracy and spikes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onespike.clock import interleaved, watch_machine
from onespike.errors import OnespikeError
from onespike.exporting.contract import Contract
from onespike.exporting.export import FORMATS
from onespike.exporting.network import Exported, Traced, rounded
from onespike.exporting.onnx import FILE, openvino_model, session
from onespike.exporting.parity import Target
from onespike.inference import Engine
from onespike.inference.engine import check_supported
from onespike.inference.optimise import compare_spikes
from onespike.models import Network
from onespike.neurons.watch import Fired, reset_state, watch_neurons
from onespike.training.run import Run, channels_last

BATCHES = (1, 8, 64)
#: Images in a batch while accuracies and spikes are compared.
COMPARED = 50
#: An engine: normalised images (B, C, H, W) to logits (B, K).
Engines = dict[str, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Measured:
    """What was measured of one engine.

    Attributes:
        engine: Which, and in which arithmetic.
        top1: Accuracy on the test images, in percent.
        same_class: Share of them in the class that PyTorch puts them into in float32, in percent.
        spikes_differ: Share of its spikes, and places without, that differ from PyTorch's, 0..1; None if not seen.
        milliseconds: For a batch, by its size: median over the rounds.
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
    """All engines on one network."""

    model: str
    images: int
    rounds: int
    threads: int
    busy: str | None  # why the times are not to be trusted, if they are not
    engines: tuple[Measured, ...]

    def to_json(self) -> dict[str, Any]:
        """All values."""
        return asdict(self)

    def markdown(self) -> str:
        """A table, the times in milliseconds and beside them in units of PyTorch's."""
        sizes = list(self.engines[0].milliseconds)
        lines = [f"{self.model}: {self.images:,} test images, {self.threads} threads, medians of {self.rounds} rounds"]
        lines += [f"NOT TO BE TRUSTED, the machine was busy: {self.busy}"] if self.busy else []
        head = ["engine", "top-1 %", "same class %", "spikes that differ", *(f"batch {size}, ms" for size in sizes)]
        lines += ["", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for one in self.engines:
            spikes = "" if one.spikes_differ is None else f"{one.spikes_differ:.4%}"
            times = [f"{one.milliseconds[size]:.2f} ({one.ratio[size]:.2f}x)" for size in sizes]
            row = [one.engine, f"{one.top1:.2f}", f"{one.same_class:.2f}", spikes, *times]
            lines.append(f"| {' | '.join(row)} |")
        return "\n".join(lines) + "\n"


@torch.no_grad()
def compare_engines(run: Run, images: int, rounds: int, batches: Sequence[int] = BATCHES) -> Comparison:
    """Compare engines on a run's network and its test images.

    Args:
        run: The run.
        images: At most so many test images.
        rounds: Timings of each engine and batch, in turns.
        batches: Sizes of the batches that are timed.

    Returns:
        What was measured; PyTorch in float32 comes first. An engine that cannot run the network is left out.

    Raises:
        OnespikeError: There are no test images, or a package is missing.
    """
    checkpoint, data = run.checkpoint("best"), run.dataset()
    if not len(data.test):
        raise OnespikeError(f"{data.name}: expected test images, got none")
    card, network = checkpoint.card, channels_last(checkpoint.network())
    chosen = np.unique(np.linspace(0, len(data.test) - 1, min(images, len(data.test))).astype(np.int64))
    raw, labels = data.test.gather(chosen)
    contract = Contract.of(card, "fp32", pixels=False)
    pictures = contract.normalise(raw)
    eager = network.eval()
    engines: Engines = {"PyTorch fp32": eager}
    differ: dict[str, float | None] = {"PyTorch fp32": 0.0}
    ours = _ours(eager)
    if ours is not None:
        engines["onespike int8"] = ours
        blocks = compare_spikes(eager, ours, [pictures[:COMPARED]])  # type: ignore[arg-type]
        differ["onespike int8"] = sum(one.flipped for one in blocks) / len(blocks)
    with TemporaryDirectory() as made:
        for weights in ("fp32", "int8"):
            folder = Path(made) / weights
            folder.mkdir()
            copy = checkpoint.network()
            copy = rounded(copy, torch.float32) if weights == "int8" else copy
            exported = Exported(copy.eval(), replace(contract, weights=weights))
            targets = FORMATS["onnx"](Traced(exported), folder)
            for label, target in targets.items():
                name = f"{'OpenVINO' if 'OpenVINO' in label else 'ONNX Runtime'} {weights}"
                load = openvino_model if "OpenVINO" in label else session
                engines[name] = _loaded(load(folder / FILE))
                differ[name] = _spikes(eager, target, raw[: 2 * COMPARED], contract)
        with watch_machine() as machine:
            seconds = {size: _timed(engines, pictures, size, rounds) for size in batches}
    answers = {name: torch.cat([engine(part) for part in pictures.split(COMPARED)]) for name, engine in engines.items()}
    expected = answers["PyTorch fp32"].argmax(1)
    measured = []
    for name, logits in answers.items():
        times = {size: 1000 * median(taken[name]) for size, taken in seconds.items()}
        ratio = {size: times[size] / (1000 * median(taken["PyTorch fp32"])) for size, taken in seconds.items()}
        guesses = logits.argmax(1)
        shares = (100 * (guesses == one).double().mean().item() for one in (labels, expected))
        measured.append(Measured(name, *shares, differ[name], times, ratio))
    return Comparison(card.name, len(raw), rounds, torch.get_num_threads(), machine.busy, tuple(measured))


def _ours(network: nn.Module) -> Engine | None:
    """Our integer engine, where it takes the network."""
    if not isinstance(network, Network):
        return None
    try:
        check_supported(network.config)
    except OnespikeError:
        return None
    return Engine(network, "int8")


def _loaded(run: Callable[[list[str], Any], list[Any]]) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.from_numpy(run(["logits"], images.contiguous().numpy())[0])


def _timed(engines: Engines, images: Tensor, size: int, rounds: int) -> Mapping[str, list[float]]:
    """Time all engines on one batch, in turns."""
    batch = images.repeat(-(-size // len(images)), 1, 1, 1)[:size]
    plain, last = batch.contiguous(), batch.contiguous(memory_format=torch.channels_last)

    def call(engine: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        of = last if isinstance(engine, nn.Module) else plain
        return lambda: engine(of)

    return interleaved({name: call(engine) for name, engine in engines.items()}, rounds)


def _spikes(network: nn.Module, target: Target, raw: Tensor, contract: Contract) -> float | None:
    """The share of spikes, and places without, that differ."""
    wrong = total = 0
    for part in raw.split(COMPARED):
        calls: list[Fired] = []
        reset_state(network)
        with watch_neurons(network, calls.append, foreign_potentials=False):
            network(contract.normalise(part))
        for call, found in zip(calls, target(part)[1], strict=True):
            if getattr(call.neuron, "spiking", True):
                wrong += int((call.spikes.sign() != found.view(call.spikes.shape).sign()).sum())
                total += call.spikes.numel()
    return wrong / total if total else None
