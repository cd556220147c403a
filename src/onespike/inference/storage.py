"""The engine on the disk: a folder with `engine.safetensors` and `engine.json`; never a pickle, nothing compiled."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from onespike._version import __version__
from onespike.configs import expect_keys, plain, read_json
from onespike.durable import read_whole, write_whole
from onespike.errors import OnespikeError
from onespike.inference.engine import Engine
from onespike.models import expect_blocks
from onespike.training.checkpoint import ModelCard, expect_alike

WEIGHTS, DESCRIPTION = "engine.safetensors", "engine.json"


def save_engine(engine: Engine, card: ModelCard, run: str, folder: Path) -> None:
    """Write an engine into a folder: the model that it was made of, the run that the weights come from, and these.

    Raises:
        OnespikeError: It cannot be written.
    """
    made_by = {"onespike": __version__, "run": run, "engine": "PyTorch, oneDNN's integer kernels"}
    description = made_by | {"precision": engine.precision, "model": plain(card)}
    tensors = {name: tensor.contiguous() for name, tensor in engine.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / DESCRIPTION).unlink(missing_ok=True)  # what is half written is no engine
        write_whole(folder / WEIGHTS, save(tensors))
        write_whole(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")
    except OSError as error:
        raise OnespikeError(f"cannot write {folder}: {error.strerror or error}") from error


def load_engine(folder: str | Path) -> Engine:
    """Load what `onespike optimise` wrote: call it on normalised images (B, C, H, W) for logits (B, K).

    Its attribute `card` has the class names and the normalisation.

    Raises:
        OnespikeError: The folder holds no engine, or a damaged one.
    """
    folder = Path(folder)
    try:
        description = read_json(read_whole(folder / DESCRIPTION), DESCRIPTION)
        expect_keys(description, {"model": dict, "precision": str}, DESCRIPTION)
        tensors = load(read_whole(folder / WEIGHTS, 1 << 36))
        card = ModelCard.from_json(description["model"])
        with torch.device("meta"):  # shapes alone: the values are in the file
            network = expect_blocks(card.build(), card.name)
        engine = Engine(network, description["precision"])
        expect_alike(tensors, engine.state_dict(), "the tensors are not those of this engine")
        engine.load_state_dict(tensors, assign=True)
    except FileNotFoundError:
        raise OnespikeError(f"{folder} holds no engine: make one with onespike optimise RUN --out {folder}") from None
    except (OnespikeError, OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise OnespikeError(f"the engine in {folder} cannot be read: {' '.join(str(error).split())}") from error
    engine.card = card
    return engine
