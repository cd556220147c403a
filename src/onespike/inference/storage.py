"""The engine on the disk: a folder with `engine.safetensors` and `engine.json`; never a pickle, nothing compiled."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from onespike._version import __version__
from onespike.configs import plain
from onespike.durable import write_whole
from onespike.errors import OnespikeError
from onespike.inference.engine import Engine
from onespike.models import expect_blocks
from onespike.training.checkpoint import ModelCard

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
        description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS)
        card = ModelCard.from_json(description["model"])
        with torch.device("meta"):  # shapes alone: the values are in the file
            network = expect_blocks(card.build(), card.name)
        engine = Engine(network, description["precision"])
        engine.load_state_dict(tensors, assign=True)
    except FileNotFoundError:
        raise OnespikeError(f"{folder} holds no engine: make one with onespike optimise RUN --out {folder}") from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise OnespikeError(f"the engine in {folder} cannot be read: {' '.join(str(error).split())}") from error
    engine.card = card
    return engine
