"""Pretrained networks: runs without what only training needs, in a folder, on the Hub, or in the package.

model.safetensors   the weights: float32, or 8 bits (int8) with a scale for each output channel, NAME.scale
model.json          how to build the network around them, class names, normalisation
config.yaml         the recipe
summary.json        the results
README.md           the model card

Such a folder is a run to every command that does not train: evaluate, audit, export, inspect, check-spikes.
"""

import re
from pathlib import Path
from typing import Any

from onespike.configs import expect_keys, read_json
from onespike.durable import path_of, read_whole
from onespike.errors import OnespikeError, reason
from onespike.models.pretrained import CARD, WEIGHTS, pretrained_folder, read_weights
from onespike.training.checkpoint import Checkpoint, ModelCard
from onespike.training.progress import counted

#: Prefixes of networks in the package, and on the Hub: "pretrained:digits-spiking-vgg-xs", "hub:user/repo".
PACKAGE, HUB = "pretrained:", "hub:"
#: A repository of the Hub, user/name.
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
#: What such a folder holds: data, never code.
FILES = (WEIGHTS, CARD, "config.yaml", "summary.json", "README.md")
#: What a summary says of its training and of that of the weights it started from; only `best_epoch` must be there.
_SPENT: dict[str, Any] = {"best_epoch": int, "epochs": int | None, "epochs_before": int | None}
_SPENT |= {"pflop": float | None, "pflop_before": float | None}


def located(place: str | Path) -> Path:
    """The folder of "pretrained:NAME", of "hub:user/repo", which is fetched first, or of a path.

    Raises:
        OnespikeError: There is no such network; the Hub cannot be reached, or has no such repository.
    """
    text = str(place)
    if text.startswith(PACKAGE):
        return pretrained_folder(text.removeprefix(PACKAGE))
    if text.startswith(HUB):
        return fetched(text.removeprefix(HUB))
    return path_of(place)


def anywhere(place: str | Path) -> Path:
    """The folder of a place, as by `located`; where there is none, "user/repo" is one of the Hub, too."""
    folder = located(place)
    return fetched(str(place)) if not folder.exists() and REPOSITORY.fullmatch(str(place)) else folder


def beside(place: str | Path) -> Path:
    """Where to put files made from a network: its folder, or here, by its name, if it is of the package or the Hub."""
    text = str(place)
    return Path(text.replace(":", "-")) if text.startswith((PACKAGE, HUB)) else path_of(place)


def expect_local(folder: Path) -> None:
    """Raise an `OnespikeError` for the name of a network of the package or the Hub: such a folder is never read."""
    if str(folder).startswith((PACKAGE, HUB)):
        state = f"{folder}: commands read this as a network of the package, or of the Hub"
        raise OnespikeError(f"{state}; expected the name of a folder: choose another")


def fetched(repository: str) -> Path:
    """Fetch a network from the Hub, and return its folder in the Hub's cache."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(FILES)))
    except Exception as error:  # the client's errors come from whichever HTTP library its version uses
        expected = "expected a folder, or a repository user/name of the Hub that can be reached"
        raise OnespikeError(f"{HUB + repository!r}: {expected}: {reason(error)[:200]}") from error


def is_pretrained(folder: Path) -> bool:
    """Whether a folder holds a pretrained network, and not a checkpoint."""
    return (folder / WEIGHTS).is_file() and (folder / CARD).is_file() and not (folder / "state.json").exists()


def read_pretrained(folder: Path) -> Checkpoint:
    """Read a pretrained network, its 8-bit weights as float32, as a checkpoint that cannot be trained further.

    Raises:
        OnespikeError: A file is missing or damaged.
    """
    try:
        card = ModelCard.from_json(read_json(read_whole(folder / CARD), CARD))
        weights = read_weights(folder / WEIGHTS)
        summary = read_json(read_whole(folder / "summary.json"), "summary.json")
        progress = progress_of(summary, "summary.json")
    except FileNotFoundError as error:
        raise OnespikeError(f"{folder}: no {Path(error.filename).name}: expected a pretrained network") from None
    except OSError as error:
        raise OnespikeError(f"the pretrained network {folder} cannot be read: {error.strerror}") from error
    return Checkpoint(card, weights, {}, {"progress": progress})


def progress_of(summary: Any, where: str) -> dict[str, Any]:
    """How far training had come, as a checkpoint says it; epochs after that of the weights count to those before it.

    An `OnespikeError`, which begins with `where`, if a number is missing, of another type or out of its range.
    """
    expect_keys(summary, {"best_epoch": int}, where)
    numbers: dict[str, Any] = {key: summary.get(key) for key in _SPENT}
    expect_keys(numbers, _SPENT, where)
    for key, number in numbers.items():
        if not 0 <= (number or 0) < 1e18:  # or no checkpoint could be read of a run that starts from it
            raise OnespikeError(f"{where}: {key}: expected 0 to 10^18, got {number}")
    best, epochs, before = (numbers[key] or 0 for key in ("best_epoch", "epochs", "epochs_before"))
    spent = (numbers[key] for key in ("pflop", "pflop_before"))
    flops, flops_before = (None if pflop is None else counted(round(1e15 * pflop)) for pflop in spent)
    before += max(0, epochs - best)
    return {"epoch": best, "epochs_before": before, "flops": flops, "flops_before": flops_before}
