"""The engine on disk: a folder with `engine.json`, and `engine.safetensors` or `model.onnx`; never a pickle."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save

from onespike._version import __version__
from onespike.configs import expect_keys, plain, read_json
from onespike.durable import is_as_written, path_of, read_whole, sealed
from onespike.errors import OnespikeError, reason, requires, unknown
from onespike.exporting.onnx import FILE
from onespike.folders import expect_replaceable, read_folder, save_folder
from onespike.inference.engine import Engine
from onespike.inference.runtimes import RUNTIMES, Runtime
from onespike.models import expect_blocks
from onespike.tensors import expect_alike, not_finite, read_tensors, shapes_alone
from onespike.training.checkpoint import ModelCard

WEIGHTS, DESCRIPTION, REPORT = "engine.safetensors", "engine.json", "report.json"
#: The name of our own engine in the description; and the file of each engine, by name.
OURS = "onespike"
FILES = {OURS: WEIGHTS, **dict.fromkeys(RUNTIMES, FILE)}


def save_engine(engine: Engine, card: ModelCard, run: str, folder: Path) -> None:
    """Write our engine into a folder: its model, the run that its weights come from, and the weights.

    Raises:
        OnespikeError: It cannot be written.
    """
    tensors = {name: tensor.contiguous() for name, tensor in engine.state_dict().items()}
    save_file(save(tensors), OURS, engine.precision, card, run, folder)


def save_file(content: bytes, engine: str, precision: str, card: ModelCard, run: str, folder: Path) -> None:
    """Write the tensors of our engine, or an ONNX file for one of `RUNTIMES`, likewise."""
    made_by = {"onespike": __version__, "run": run, "engine": engine}
    description = sealed(made_by | {"precision": precision, "model": plain(card)}, content)
    expect_free(folder)
    save_folder(folder, {FILES[engine]: content, DESCRIPTION: json.dumps(description, indent=2).encode()})


def expect_free(folder: Path) -> None:
    """Raise `OnespikeError` if an engine cannot be written, or would overwrite anything but an earlier one."""
    try:
        description = read_json(read_whole(folder / DESCRIPTION), DESCRIPTION)
        expect_keys(description, {"engine": str, "sha256": str}, DESCRIPTION)
        earlier = {DESCRIPTION, REPORT, *FILES.values()}
    except (OnespikeError, OSError):
        earlier = set()
    expect_replaceable(folder, earlier, "engine")


def load_engine(folder: str | Path) -> Engine | Runtime:
    """Load what `onespike optimise` wrote: call it on normalised images (B, C, H, W) for logits (B, K).

    Its attribute `card` has the class names and the normalisation.

    Raises:
        OnespikeError: The folder holds no engine, or a damaged one; a package is missing.
    """
    folder = path_of(folder)
    try:
        text, description, content = read_folder(folder, _read)
        name = description["engine"]
        if description != sealed(description, content) or not is_as_written(text, description):
            raise OnespikeError(f"{FILES[name]} and {DESCRIPTION} are not what was written")
        card = ModelCard.from_json(description["model"])
        engine = _ours(content, card, description["precision"]) if name == OURS else _runtime(content, name)
    except FileNotFoundError:
        raise OnespikeError(f"{folder} holds no engine: make one with onespike optimise RUN --out {folder}") from None
    except (OnespikeError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise OnespikeError(f"the engine in {folder} cannot be read: {reason(error)}") from error
    engine.card = card
    return engine


def _read(folder: Path) -> tuple[bytes, dict[str, Any], bytes]:
    """The description of an engine, as text and as values, and the file that it describes."""
    text = read_whole(folder / DESCRIPTION)
    description = read_json(text, DESCRIPTION)
    expect_keys(description, {"model": dict, "precision": str, "engine": str, "sha256": str}, DESCRIPTION)
    name = description["engine"]
    if name not in FILES:
        raise unknown("engine", name, FILES)
    return text, description, read_whole(folder / FILES[name], 1 << 36)


def _ours(content: bytes, card: ModelCard, precision: str) -> Engine:
    tensors = read_tensors(content, WEIGHTS)
    with shapes_alone():  # the values are in the file
        network = expect_blocks(card.build(), card.name)
    engine = Engine(network, precision)
    own = engine.state_dict()
    expect_alike(tensors, own, "the tensors are not those of this engine")
    if name := not_finite(tensors, engine):
        raise OnespikeError(f"{name} is not of finite numbers")
    engine.load_state_dict({name: one.to(own[name].dtype) for name, one in tensors.items()}, assign=True)
    return engine


def _runtime(content: bytes, name: str) -> Runtime:
    try:
        with requires("openvino" if name == "OpenVINO" else "export"):
            return Runtime(content, name)
    except OnespikeError:
        raise
    except Exception as error:  # each runtime has errors of its own
        raise OnespikeError(f"{name} does not take {FILE}: {reason(error)[:200]}") from error
