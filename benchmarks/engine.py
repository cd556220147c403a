"""One network, several engines: ours in integers, ONNX Runtime, OpenVINO, PyTorch; time, accuracy and spikes."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from onespike.inference import Candidate, Comparison, Engine, compare
from onespike.inference.engine import takes
from onespike.inference.optimise import EAGER, WATCHED, WEIGHTS, Eager, compare_spikes, flipped, opened
from onespike.inference.runtimes import runtimes
from onespike.models.strict_layers import adding_up
from onespike.training.run import Run


def compare_engines(run: Run, images: int, rounds: int) -> Comparison:
    """Compare engines on a run's network and some of its test images; each engine and batch is timed in turns.

    PyTorch in float32 comes first. An engine that cannot run the network is left out.
    """
    checkpoint = run.checkpoint("best")
    network, batches = opened(run, checkpoint, images)
    pictures = torch.cat([part for part, _ in batches[:WATCHED]])
    candidates = {EAGER: Candidate(Eager(network))}
    if takes(network):
        engine = Engine(network, "int8")  # type: ignore[arg-type]
        blocks = compare_spikes(network, engine, [pictures])  # type: ignore[arg-type]
        candidates["onespike int8"] = Candidate(engine, flipped(blocks))
    with TemporaryDirectory() as made:
        for weights in WEIGHTS:
            folder = Path(made) / weights
            folder.mkdir()
            candidates |= runtimes(checkpoint.network(), checkpoint.card, weights, pictures, folder)
        with adding_up(network):
            return compare(checkpoint.card.name, candidates, batches, rounds)
