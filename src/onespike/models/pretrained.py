"""Trained networks in the package: their folders, and their 8-bit tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onespike.configs import make, read_json
from onespike.durable import read_whole
from onespike.errors import OnespikeError, unknown
from onespike.functional import to_integers
from onespike.models.registry import family
from onespike.tensors import read_tensors

WEIGHTS, CARD = "model.safetensors", "model.json"
FOLDER = Path(__file__).parents[1] / "pretrained"
#: Suffix for the name of an 8-bit tensor's scales.
SCALE = ".scale"
_MOST = 1 << 36


def pretrained_names() -> list[str]:
    """Names of the trained networks in the package, such as "digits-spiking-vgg-xs"."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CARD}"))


def pretrained_folder(name: str) -> Path:
    """The folder of a trained network in the package; an `OnespikeError` if there is none."""
    if name not in pretrained_names():
        raise unknown("pretrained network", name, pretrained_names())
    return FOLDER / name


def pretrained_summary(name: str) -> dict[str, Any]:
    """The result of training a network of the package, as in `summary.json`."""
    path = pretrained_folder(name) / "summary.json"
    return dict(read_json(read_whole(path), path))


def create_pretrained(name: str, data: str, **sizes: int | None) -> nn.Module:
    """Build a network with the package's weights for a data set, in evaluation mode; other sizes are refused."""
    folder = pretrained_folder(f"{data}-{name}")
    card = read_json(read_whole(folder / CARD), CARD)
    own = {"num_classes": len(card["classes"]), **{key: card[key] for key in ("in_channels", "image_size")}}
    for key, size in sizes.items():
        if size not in (None, own[key]):
            raise OnespikeError(f"{key}: the weights {folder.name} are for {own[key]}, got {size}")
    network: nn.Module = make(family(name).config, card["model"], "model").build(**own)
    network.load_state_dict(read_weights(folder / WEIGHTS))
    return network.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read saved weights; those of 8 bits become float32. A damaged file is an `OnespikeError`.

    An int8 tensor without scales stays as it is: a network may have whole numbers of its own.
    """
    tensors = read_tensors(read_whole(path, _MOST), path)
    found: dict[str, Tensor] = {}
    for name, one in tensors.items():
        is_int8, scale = one.dtype == torch.int8, tensors.get(name + SCALE)
        if is_int8 and scale is not None:
            if not one.ndim or scale.shape != one.shape[:1] or not scale.is_floating_point():
                raise OnespikeError(f"{name}, {tuple(one.shape)}: expected {name}{SCALE}, a float for each channel")
            # In float64, so that rounding to 8 bits once more gives the same whole numbers.
            found[name] = (one.double() * scale.double().view(-1, *[1] * (one.ndim - 1))).float()
        elif is_int8 or tensors.get(name.removesuffix(SCALE), one).dtype != torch.int8:
            found[name] = one
    return found


def in_integers(weights: Mapping[str, Tensor], layers: set[str]) -> dict[str, Tensor]:
    """Round the weights named in `layers` to 8 bits, each with its scales, as `train.int8_weights` does."""
    found: dict[str, Any] = {}
    for name, weight in weights.items():
        found[name] = weight
        if name in layers:
            integers, scale = to_integers(weight.double())
            found |= {name: integers.to(torch.int8), name + SCALE: scale.flatten().float()}
    return found
