"""Pretrained networks: saved in a folder, and from there on the Hub, with a model card of what was measured."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from safetensors.torch import save
from torch import nn

from onespike.configs import convert, expect_keys, plain, read_json
from onespike.data.augment import seeded
from onespike.durable import json_text, path_of, read_whole
from onespike.errors import OnespikeError, reason, shown
from onespike.exporting.export import expect_left_out
from onespike.exporting.model_card import model_card
from onespike.exporting.network import expect_to_round
from onespike.folders import expect_replaceable, save_folder
from onespike.models.pretrained import CARD, WEIGHTS, in_integers
from onespike.neurons.watch import is_spiking
from onespike.tensors import expect_alike, expect_finite, expect_weights, to_save
from onespike.training.callbacks import to_round
from onespike.training.checkpoint import Checkpoint, ModelCard, uncompiled, weights_of
from onespike.training.pretrained import FILES, HUB, PACKAGE, REPOSITORY, expect_local, progress_of
from onespike.training.recipe import Recipe, dump
from onespike.training.run import Run, expect_results, load
from onespike.training.teacher import SOURCES

#: timm's description, for `timm.create_model("hf-hub:user/repo")`.
TIMM = "config.json"
#: Files of a saved network, which a later one replaces.
SAVED = (*FILES, TIMM)
#: What the card shows of a proof.
_PROOF = {"target": str, "same_class": float, "images": int, "spikes": int, "layers": int, "differing": int}
_PROOF |= {"holds": bool}


def save_pretrained(
    model: nn.Module | Run | str | Path,
    folder: str | Path,
    *,
    card: ModelCard | None = None,
    weights: Literal["fp32", "int8"] = "fp32",
    which: str = "best",
    results: Mapping[str, Any] | None = None,
) -> Path:
    """Write weights and all that is needed to use them into a folder: safetensors, JSON, YAML and a model card.

    `onespike.load` reads it; if it was a run, so do all commands that do not train.

    Args:
        model: A run, its folder, or a network, with its `card`.
        folder: A new folder, or that of an earlier call, which it replaces.
        card: For a network that is no run: how it is built, its classes, its images and their normalisation.
        weights: "fp32"; or "int8", those of convolutions and linear layers rounded to 8 bits: a quarter of the size.
        which: Which checkpoint of the run: "best" or "last".
        results: Measurements of exactly these weights, in place of the run's own summary, or beside it.

    Raises:
        OnespikeError: The folder holds something else; a network has no card, or another network's; an argument would
            be ignored; results are no numbers that whoever loads the network can read.
    """
    folder, run = path_of(folder), None
    expect_free(folder)
    expect_keys(results or {}, {}, "results")
    weights = convert(weights, Literal["fp32", "int8"], "weights")
    summary, recipe, proofs = dict[str, Any](), "", list[dict[str, Any]]()
    if isinstance(model, nn.Module):
        if not isinstance(card, ModelCard):
            raise OnespikeError("save_pretrained: expected a ModelCard beside a network: card=…")
        expect_left_out("with a network", which=which != "best")
        network = model
    else:
        expect_left_out("with a run", card=card is not None)
        run = Run.open(model)
        checkpoint = run.checkpoint(which)
        card, network = checkpoint.card, checkpoint.network()
        summary, recipe = _measured(run, checkpoint, weights), dump(_without_places(run.recipe))
        proofs = _proofs(run, checkpoint.digest, weights)
    expect_weights(network)
    state = to_save(weights_of(network))
    expect_finite(state, network)
    is_built = card.conversion is None and hasattr(card.model, "build")
    if run is None and is_built:
        with seeded(0):  # nobody else's draws should change for its weights
            built, another = card.build(), f"the network is another than its card says, {card.name}"
        expect_alike(state, built.state_dict(), another)
        if getattr(network, "config", built.config) != built.config:  # no tensor has a threshold, or the time steps
            raise OnespikeError(f"{another}: it has other options; expected the card of this very network")
    if weights == "int8":
        expect_to_round(network)
        layers = set(to_round(network).values())
        every = network.named_modules(remove_duplicate=False)
        paths = [uncompiled(path) for path, one in every if one in layers]
        state = in_integers(state, {f"{path}.weight" for path in paths})
    summary = {**summary, "best_epoch": summary.get("best_epoch", 0), "weights": weights, **(results or {})}
    _expect_sound(summary)
    texts = {"config.yaml": recipe} if recipe else {}
    texts |= {CARD: json_text(plain(card)), "summary.json": json_text(summary)}
    texts |= {TIMM: json_text(_timm(card))} if weights == "fp32" and is_built else {}
    texts["README.md"] = model_card(card, is_spiking(network), summary, proofs, recipe)
    expect_free(folder)  # somebody may have put a file there meanwhile
    save_folder(folder, {WEIGHTS: save(state), **{name: text.encode() for name, text in texts.items()}})
    return folder


def _measured(run: Run, checkpoint: Checkpoint, weights: str) -> dict[str, Any]:
    """What the run's summary says of a checkpoint; not its tests, if they were of another epoch or of other weights."""
    epoch = checkpoint.state["progress"]["epoch"]
    summary = {"best_epoch": epoch, **(run.summary or {}), "seed": run.recipe.train.seed}
    measured = summary.get("weights")  # of a pretrained network; a run was measured as it was trained
    as_trained = weights == "fp32" or run.recipe.train.int8_weights
    same_weights = as_trained if measured is None else weights in ("fp32", measured)
    if same_weights and epoch == summary["best_epoch"]:
        return summary
    tests = {key for key in summary if key.startswith("test_") or key in ("audit", "valid_top1")}
    return {key: one for key, one in summary.items() if key not in tests} | {"best_epoch": epoch}


def expect_free(folder: Path) -> None:
    """Raise `OnespikeError` if a network cannot be saved, or would overwrite anything but an earlier one."""
    expect_local(folder)
    try:  # names alone say little: transformers and timm write three of them, too
        card = read_json(read_whole(folder / CARD), CARD)
        expect_keys(card, {"model": dict, "in_channels": int, "image_size": int, "data": str}, CARD)
        earlier: tuple[str, ...] = SAVED
    except (OnespikeError, OSError):
        earlier = ()
    expect_replaceable(folder, earlier, "saved network")


def _without_places(recipe: Recipe) -> Recipe:
    """A recipe without folders of this machine, which are nobody else's business; of a teacher's the name stays."""
    data, teacher = recipe.data, recipe.train.teacher
    place = data.root or ""  # of the Hub it may be owner/name:configuration
    is_public = data.name == "hub" and REPOSITORY.fullmatch(place.partition(":")[0]) and not Path(place).is_dir()
    data = replace(data, root=place if is_public else None, cache=None, workers=0, init_args=_public(data.init_args))
    anywhere = teacher.startswith((PACKAGE, HUB, *(f"{one}:" for one in SOURCES)))
    named = teacher if anywhere else Path(teacher).resolve().name if teacher else ""
    loss = recipe.loss and replace(recipe.loss, init_args=_public(recipe.loss.init_args))
    return replace(recipe, data=data, train=replace(recipe.train, teacher=named), loss=loss)


def _public(arguments: Any) -> Any:
    """Arguments of a user's class without texts that are places of this machine."""
    if isinstance(arguments, dict):
        return {key: _public(one) for key, one in arguments.items() if not (_is_place(key) or _is_place(one))}
    if isinstance(arguments, list | tuple):
        return [_public(one) for one in arguments if not _is_place(one)]
    return arguments


def _is_place(value: Any) -> bool:
    """Whether a value is a path here; a file's name alone is none, as it may be any word, nor is a key as in HDF5."""
    if not isinstance(value, str) or len((path := Path(value.removeprefix("file://"))).parts) < 2:
        return False
    with suppress(OSError, ValueError):  # of a text that is too long for a path, or has a zero byte
        return path.parts[0].startswith("~") or (Path(*path.parts[:2]) if path.is_absolute() else path).exists()
    return False


def _expect_sound(summary: Mapping[str, Any]) -> None:
    """Raise an `OnespikeError` unless what the card shows is there, in its range, and valid JSON."""
    try:
        json.dumps(summary, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise OnespikeError(f"results: {error}; expected names and plain, finite values") from error
    expect_results(summary, {}, "results")  # percentages, too
    progress_of(summary, "results")  # as whoever loads the network reads it
    numbers = [(name, summary[name]) for name in ("test_top1", "test_images") if name in summary]
    if "audit" in summary:
        audit = summary["audit"]
        expect_keys(audit, {"macs": dict, "joules": dict}, "results: audit")
        numbers += [(name, audit.get(name)) for name in ("images", "weights", "synaptic_operations")]
        if audit.get("firing_rate") is not None:  # without neurons that are known: none
            numbers.append(("firing_rate", audit["firing_rate"]))
        numbers += [("dense", audit["macs"].get("dense")), *audit["joules"].items()]
    for name, number in numbers:
        least = int(name.endswith("images"))
        if type(number) not in (int, float) or number < least:
            raise OnespikeError(f"results: {name}: expected a number of at least {least}, got {shown(number)}")


def from_pretrained(place: str | Path) -> nn.Module:
    """Load a network that `save_pretrained` or `push_to_hub` wrote: from a folder, or from the Hub, "user/repo".

    It is on the CPU, in evaluation mode.

    Raises:
        OnespikeError: There is no such network, the Hub cannot be reached, or a file is missing or damaged.
    """
    return load(place)


def push_to_hub(model: nn.Module | Run | str | Path, repository: str, *, private: bool = False, **how: Any) -> str:
    """Upload a network to the Hub, as `save_pretrained` writes it, with the token that `hf auth login` keeps.

    Args:
        model: As for `save_pretrained`, or a folder that it wrote of a run.
        repository: "user/name"; it is made if it does not exist.
        private: Whether a new repository is private.
        **how: Further arguments of `save_pretrained`.

    Returns:
        The address.

    Raises:
        OnespikeError: The Hub refuses, or cannot be reached.
    """
    expect_repository(repository)
    import huggingface_hub

    with TemporaryDirectory() as made:
        folder = save_pretrained(model, Path(made) / "model", **how)
        hub = huggingface_hub.HfApi()
        try:
            hub.create_repo(repository, private=private, exist_ok=True)
            # What an earlier network left there, such as timm's description, is not of this one.
            return str(hub.upload_folder(repo_id=repository, folder_path=folder, delete_patterns=list(SAVED)))
        except Exception as error:  # the client's errors come from whichever HTTP library its version uses
            state = f"{repository}: the Hub refuses, or cannot be reached: {reason(error)[:200]}"
            raise OnespikeError(f"{state}; hf auth login keeps a token") from error


def expect_repository(name: str) -> None:
    """Raise `OnespikeError` unless a name is that of a repository of the Hub."""
    if not REPOSITORY.fullmatch(str(name)):
        raise OnespikeError(f"{shown(name)}: expected a repository of the Hub, user/name")


def _timm(card: ModelCard) -> dict[str, Any]:
    from onespike.models.timm import timm_name

    known = {"architecture": timm_name(card.name), "num_classes": len(card.classes)}
    shape = [card.in_channels, card.image_size, card.image_size]
    described = {**known, "input_size": shape, "mean": card.mean, "std": card.std}
    described |= {"fixed_input_size": True, "crop_pct": 1.0, "label_names": card.classes}
    values = {key: one for key, one in plain(card.model).items() if key != "name"}
    arguments = {"in_chans": card.in_channels, "img_size": card.image_size, "config": values}
    return {**known, "model_args": arguments, "pretrained_cfg": described}


def _proofs(run: Run, network: str, weights: str) -> list[dict[str, Any]]:
    """The proofs of exports into folders of the run, if they are of this network, by its digest, and of these weights.

    Files of earlier versions do not say whether theirs were rounded: they count for both.
    """
    found = list[dict[str, Any]]()
    for path in sorted(run.folder.glob("*/parity.json")):
        with suppress(OnespikeError, OSError, KeyError, TypeError):
            content = read_json(read_whole(path), path)
            for one in content["targets"]:
                expect_keys(one, _PROOF, str(path))
            same = [one for one in content["targets"] if (one.get("weights") or weights) == weights]
            found += same if content["network"] == network else []
    return found
