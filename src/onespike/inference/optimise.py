"""Make an engine from a run, and compare the two: accuracy, spikes, latency.

Our own engine runs those of the paper's networks that it supports, since it is the fastest there is in large batches.
ONNX Runtime or OpenVINO, whichever is faster and right, runs all others (docs/speed.md).
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from onespike.audit.result import read_spikes
from onespike.configs import convert
from onespike.counting import count_operations
from onespike.data.augment import seeded
from onespike.data.loader import EvalLoader, derive_seed
from onespike.durable import path_of
from onespike.errors import OnespikeError, warn
from onespike.evaluation.evaluate import expect_one_frame
from onespike.exporting.onnx import FILE, expect_packages
from onespike.inference.compare import Candidate, Comparison, compare
from onespike.inference.engine import PRECISIONS, Engine, takes
from onespike.inference.layers import Fire
from onespike.inference.runtimes import Runtime, runtimes
from onespike.inference.storage import expect_free, load_engine, save_engine, save_file
from onespike.models import Network
from onespike.models.strict_layers import adding_up
from onespike.neurons import Neuron
from onespike.neurons.copies import copied
from onespike.neurons.watch import resetter
from onespike.training.checkpoint import Checkpoint
from onespike.training.layout import laid_out
from onespike.training.losses import over_time
from onespike.training.run import Run

Precision = Literal["auto", "int8", "int16", "fp32"]
#: Weights of ONNX files.
WEIGHTS = ("int8", "fp32")
#: Images in a batch when accuracies are compared; batches in which every spike is compared.
BATCH, WATCHED = 100, 2
#: The engine that the others are compared with.
EAGER = "PyTorch fp32"


class Eager(nn.Module):
    """A network as other engines answer: it forgets what it kept of the batch before; logits are means over time."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.reset = network, resetter(network)

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images (B, C, H, W); logits (B, K)."""
        self.reset()
        return over_time(self.network(images))


@dataclass(frozen=True)
class BlockSpikes:
    """What the neurons of a block's unit fire, in the network and in the engine.

    Attributes:
        firing_rate: Firing rate of the network's unit, 0..1.
        engine_firing_rate: Of the engine's, likewise.
        flipped: Share of its spikes that come or go, 0..1.
        neurons: Outputs that were compared, over all images.
    """

    firing_rate: float
    engine_firing_rate: float
    flipped: float
    neurons: int


@dataclass(frozen=True)
class Report:
    """An engine compared with the network that it was made from.

    Attributes:
        engine: Which engine, as it is called in `compared`.
        compared: All engines that were tried, and PyTorch.
        blocks: Spikes of each block; empty unless it is our own engine.
    """

    engine: str
    compared: Comparison
    blocks: tuple[BlockSpikes, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        blocks = [vars(one) for one in self.blocks]
        return {"engine": self.engine, "blocks": blocks} | self.compared.to_json()


def optimise(
    run: Run | str | Path,
    out: str | Path,
    precision: Precision = "auto",
    which: str = "best",
    images: int = 0,
    rounds: int = 20,
    model: nn.Module | None = None,
    data: Any = None,
) -> Report:
    """Make an engine of a run's network, write it, and compare the two on test images.

    Args:
        run: A trained network's run, or its folder.
        out: A new folder for the engine, or that of an earlier one, which it replaces.
        precision: "int8" or "int16" of our own engine, "int8" or "fp32" of ONNX; "auto" takes int8 for our own and
            wherever all layers behind the stem read spikes, and fp32 elsewhere.
        which: Which checkpoint, "best" or "last".
        images: Most images to compare on; 0 takes all.
        rounds: Timings of each batch size.
        model: As for `Run.model`, if the network is of a user's class.
        data: The images, as for `Run.dataset`; those of the run if None.

    Raises:
        OnespikeError: The run or its data cannot be read, no engine can run the network, a package is missing, a value
            is out of range.
    """
    run = Run.open(run)
    images, rounds = convert(images, int, "images"), convert(rounds, int, "rounds")
    if images < 0 or not 1 <= rounds <= 10**4:
        raise OnespikeError(f"optimise: expected images >= 0, rounds of 1 to 10,000, got {images}, {rounds}")
    out = path_of(out)
    expect_free(out)
    checkpoint = run.checkpoint(which)
    network, batches = opened(run, checkpoint, images, model, data)
    is_ours, name = takes(network), checkpoint.card.name
    known = tuple(PRECISIONS) if is_ours else WEIGHTS
    if precision not in ("auto", *known):
        raise OnespikeError(f"precision: expected auto, {' or '.join(known)} for {name}, got {precision}")
    if is_ours:
        ours, bits = cast("Network", network), "int8" if precision == "auto" else precision
        card = replace(checkpoint.card, model=ours.config)  # that of an object from Python cannot be built again
        made, label = Engine(ours, bits), f"onespike {bits}"
        with TemporaryDirectory() as place:
            save_engine(made, card, run.folder.name, Path(place) / "engine")
            engine = cast("Engine", load_engine(Path(place) / "engine"))  # the engine is judged as it is written
        blocks = compare_spikes(ours, engine, [part for part, _ in batches[:WATCHED]])
        candidates = {EAGER: Candidate(ours), label: Candidate(engine, flipped(blocks))}
        report = Report(label, compare(card.name, candidates, batches, rounds), tuple(blocks))
        save_engine(made, card, run.folder.name, out)
        return report
    expect_packages()
    pictures = torch.cat([part for part, _ in batches[:WATCHED]])
    weights = _suited(network, pictures) if precision == "auto" else precision
    with TemporaryDirectory() as place:
        folder = Path(place)
        others = runtimes(copied(network), checkpoint.card, weights, pictures, folder)
        with adding_up(network):
            compared = compare(name, {EAGER: Candidate(Eager(network)), **others}, batches, rounds)
        chosen = others[compared.best].run
        assert isinstance(chosen, Runtime)
        save_file((folder / FILE).read_bytes(), chosen.name, weights, checkpoint.card, run.folder.name, out)
    return Report(compared.best, compared)


def _suited(network: nn.Module, pictures: Tensor) -> str:
    """The weights that suit a network as ONNX: int8 where, on these pictures, layers behind the stem read spikes."""
    try:
        readings = read_spikes(count_operations(network, [pictures]))
    except OnespikeError as error:
        warn(f"optimise: what layers read is not known, so weights stay in fp32: {error}")
        return "fp32"
    return "int8" if all(one.holds for one in readings) else "fp32"


def opened(
    run: Run, checkpoint: Checkpoint, images: int, model: nn.Module | None = None, data: Any = None
) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A run's network, and at most `images` of its test images (0: all), evenly spread, normalised, with their classes.

    `model` and `data` are those of `optimise`.

    Raises:
        OnespikeError: There are no test images, they are not the network's, or they are recordings of several frames.
    """
    dataset, card = run.dataset(data), checkpoint.card
    expect_one_frame(dataset, card, "optimise")
    if not len(dataset.test):
        raise OnespikeError(f"{dataset.name}: expected test images, got none")
    batches = list(EvalLoader(dataset.test.spread(images or len(dataset.test)), card.mean, card.std, BATCH))
    return laid_out(checkpoint.network(model), batches[0][0][:2]), batches


def flipped(blocks: list[BlockSpikes]) -> float:
    """The share of the outputs of neurons, spike or none, that differ: of those in the units of all blocks, 0..1."""
    return sum(one.flipped * one.neurons for one in blocks) / sum(one.neurons for one in blocks)


@torch.no_grad()
@seeded(0)  # the caller's random numbers go on as if nothing had been compared
def compare_spikes(network: Network, engine: Engine, batches: list[Tensor]) -> list[BlockSpikes]:
    """Compare every spike of the units of a network and of its engine on normalised images, block by block."""
    layers = [[m for m in block.unit.modules() if isinstance(m, Neuron)] for block in network.blocks()]
    engine_layers = [[m for m in block.unit.modules() if isinstance(m, Fire)] for block in engine.blocks()]
    totals = torch.zeros(len(layers), 4, dtype=torch.float64)
    for number, images in enumerate(batches):
        seen = []
        for model, watched in ((network, layers), (engine, engine_layers)):
            torch.manual_seed(derive_seed(0, number))
            seen.append(_outputs(model, [layer for block in watched for layer in block], images))
        blocks = [block for block, watched in enumerate(layers) for _ in watched]
        for block, one, other in zip(blocks, *seen, strict=True):
            first, second = one.movedim(-3, -1).reshape(-1) > 0, other.reshape(-1) > 0
            totals[block] += torch.tensor([first.sum(), second.sum(), (first != second).sum(), len(first)])
    return [BlockSpikes(mine / n, theirs / n, wrong / n, int(n)) for mine, theirs, wrong, n in totals.tolist()]


def _outputs(model: nn.Module, layers: list[nn.Module], images: Tensor) -> list[Tensor]:
    """What layers of a model answer, in their order, while it answers images."""
    seen: dict[nn.Module, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:
            hook = layer.register_forward_hook(lambda layer, _, output: seen.update({layer: output}))
            stack.callback(hook.remove)
        model(images)
    return [seen[layer] for layer in layers]
