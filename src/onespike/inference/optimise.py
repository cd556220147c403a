"""From a run to an engine, and what the change costs and brings: accuracy, spikes, latency."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from onespike.clock import interleaved
from onespike.data.loader import EvalLoader, derive_seed
from onespike.errors import OnespikeError
from onespike.evaluation.evaluate import expect_same_images
from onespike.inference.engine import PRECISIONS, Engine
from onespike.inference.layers import Fire
from onespike.inference.storage import load_engine, save_engine
from onespike.models import Network, expect_blocks
from onespike.neurons import Neuron
from onespike.training.run import Run, channels_last

#: Images in a batch while accuracies are compared, and batches in which every spike is.
BATCH, WATCHED = 100, 2
LATENCIES = (1, 8, 64)


@dataclass(frozen=True)
class BlockSpikes:
    """Firing rates of a block's unit, network's and engine's, and the share of spikes that come or go, all 0..1."""

    firing_rate: float
    engine_firing_rate: float
    flipped: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds for a batch of so many images, median over the rounds, of the float32 network and of the engine."""

    batch: int
    eager: float
    engine: float

    @property
    def ratio(self) -> float:
        """How many times faster the engine is."""
        return self.eager / self.engine


@dataclass(frozen=True)
class Report:
    """An engine beside the network that it was made of; both in float32 where they are not integer."""

    model: str
    preset: str
    precision: str
    threads: int  # threads that computed
    images: int  # test images that were compared
    top1: float  # accuracy of the network, in percent; `engine_top1` of the engine
    engine_top1: float
    same_class: float  # share of the images that both put into the same class, in percent
    blocks: tuple[BlockSpikes, ...]
    latencies: tuple[Latency, ...]

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        return asdict(self)


def optimise(
    run: Run, out: Path, precision: str = "int8", which: str = "best", images: int = 0, rounds: int = 20
) -> Report:
    """Make an engine of a run's network, write it, and compare the two on the test images of the run's data.

    Args:
        run: A trained network.
        out: Folder for the engine.
        precision: A name in `PRECISIONS`.
        which: Which checkpoint, "best" or "last".
        images: Compare at most so many images; 0 takes all.
        rounds: Timings of each batch size.

    Raises:
        OnespikeError: The run or its data cannot be read, the engine cannot run the network, a value is out of range.
    """
    if precision not in PRECISIONS or images < 0 or not 1 <= rounds <= 10**4:
        expected = f"precision {' or '.join(PRECISIONS)}, images >= 0, rounds of 1 to 10,000"
        raise OnespikeError(f"optimise: expected {expected}, got {precision}, {images}, {rounds}")
    checkpoint, data = run.checkpoint(which), run.dataset()
    card = checkpoint.card
    network = expect_blocks(channels_last(checkpoint.network()), card.name)
    engine = Engine(network, precision)
    test = data.test.select(np.arange(min(images or len(data.test), len(data.test))))
    expect_same_images(data, card)
    if not len(test):
        raise OnespikeError(f"{data.name}: expected test images, got none")
    save_engine(engine, card, run.folder.name, out)
    engine = load_engine(out)  # what is judged is what was written
    batches = list(EvalLoader(test, card.mean, card.std, BATCH))
    blocks = compare_spikes(network, engine, [pictures for pictures, _ in batches[:WATCHED]])
    top1, engine_top1, same = _compare_answers(network, engine, batches)
    latencies = tuple(time_both(network, engine, batches[0][0], batch, rounds) for batch in LATENCIES)
    made_of = network.config.name, network.config.preset, precision, torch.get_num_threads(), len(test)
    return Report(*made_of, top1, engine_top1, same, tuple(blocks), latencies)


@torch.no_grad()
def _compare_answers(network: Network, engine: Engine, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Top-1 of both, and how often they agree, in percent."""
    console, counts = Console(stderr=True), torch.zeros(3, dtype=torch.float64)
    shown = track(batches, "accuracy", console=console, transient=True, disable=not console.is_terminal)
    for number, (images, labels) in enumerate(shown):
        guesses = []
        for model in (network, engine):
            torch.manual_seed(derive_seed(0, number))  # a Bernoulli encoding draws the same for both
            logits = model(images)
            if not logits.isfinite().all():
                raise OnespikeError("the network answers with numbers that are not finite: its training failed")
            guesses.append(logits.argmax(1))
        first, second = guesses
        counts += torch.tensor([(first == labels).sum(), (second == labels).sum(), (first == second).sum()])
    return (100 * counts / sum(len(labels) for _, labels in batches)).tolist()


@torch.no_grad()
def compare_spikes(network: Network, engine: Engine, batches: list[Tensor]) -> list[BlockSpikes]:
    """Compare every spike of the units of a network and of its engine on normalised images, block by block."""
    layers = [[m for m in block.unit.modules() if isinstance(m, Neuron)] for block in network.blocks()]
    engine_layers = [[m for m in block.unit.modules() if isinstance(m, Fire)] for block in engine.blocks()]
    totals = torch.zeros(len(layers), 4, dtype=torch.float64)
    for number, images in enumerate(batches):
        seen = []
        for model, watched in ((network, layers), (engine, engine_layers)):
            torch.manual_seed(derive_seed(0, number))
            with _recording([layer for block in watched for layer in block]) as spikes:
                model(images)
            seen.append(spikes)
        for block, (mine, theirs) in enumerate(zip(layers, engine_layers, strict=True)):
            for one, other in zip(mine, theirs, strict=True):
                first, second = seen[0][one].movedim(-3, -1).reshape(-1) > 0, seen[1][other].reshape(-1) > 0
                totals[block] += torch.tensor([first.sum(), second.sum(), (first != second).sum(), len(first)])
    return [BlockSpikes(*(row[:3] / row[3]).tolist()) for row in totals]


@contextmanager
def _recording(layers: list[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Keep what layers give in the forward pass inside this context."""
    seen: dict[nn.Module, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:
            handle = layer.register_forward_hook(lambda layer, _, output: seen.update({layer: output}))
            stack.callback(handle.remove)
        yield seen


def time_both(network: Network, engine: Engine, images: Tensor, batch: int, rounds: int) -> Latency:
    """Time a network and its engine on a batch, in turns; images are repeated if they are too few."""
    images = images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch].contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = interleaved({"eager": lambda: network(images), "engine": lambda: engine(images)}, rounds)
    return Latency(batch, 1000 * median(seconds["eager"]), 1000 * median(seconds["engine"]))
