"""Models by name."""

from dataclasses import fields
from typing import Any

from onespike.errors import unknown
from onespike.models.config import ModelConfig
from onespike.models.network import Network
from onespike.units.registry import UNITS

#: Blocks in each stage, by depth. 12 is the paper's; how the others are split is ours.
DEPTHS = {12: (2, 2, 6, 2), 20: (4, 3, 10, 3), 24: (4, 3, 14, 3), 36: (8, 8, 16, 4)}

#: Registered models: what each sets apart from `ModelConfig`'s defaults, which are the paper's.
MODELS: dict[str, dict[str, Any]] = {
    f"{unit}{depth}": {"unit": unit, "depths": depths} for unit in UNITS for depth, depths in DEPTHS.items()
}
MODELS["conv-tiny"] = {
    "depths": (2, 2, 2),
    "channels": (16, 32, 64),
    "encoding": "threshold",
    "norm": "batch",
    "dropout": 0.0,
}

#: Presets: what each changes about any model. They come after the model's own values; single options come last.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released-cifar10": {"encoding": "bernoulli-detached", "fusion": "nested", "region_threshold": None},
    "released-cifar100": {"encoding": "bernoulli-detached", "fusion": "mean", "region_threshold": 0.2},
    "modern": {"encoding": "threshold", "dropout": 0.0},
    "strict": {
        "encoding": "threshold",
        "norm": "batch",
        "dropout": 0.0,
        "region_threshold": 0.1,
        "mlp_activation": "spiking",
        "readout": "spiking",
    },
    "ann": {"activation": "relu", "encoding": "threshold", "fusion": "none", "region_threshold": None},
    "binary": {"fusion": "none"},
}


def model_config(name: str, preset: str = "paper", **overrides: Any) -> ModelConfig:
    """Look up a registered model, apply a preset and change what is overridden.

    Args:
        name: A name in `MODELS`.
        preset: A name in `PRESETS`.
        **overrides: Fields of `ModelConfig`.

    Returns:
        The architecture.

    Raises:
        OnespikeError: The model, the preset or a field does not exist, or a value is out of its range.
    """
    known = {field.name for field in fields(ModelConfig)} - {"name", "preset"}
    for key in overrides:
        if key not in known:
            raise unknown("model option", key, known)
    return ModelConfig(**{**registered(name, preset), **overrides})


def registered(name: str, preset: str = "paper") -> dict[str, Any]:
    """What a model and a preset set apart from `ModelConfig`'s defaults, their own names included.

    Args:
        name: A name in `MODELS`.
        preset: A name in `PRESETS`.

    Returns:
        Fields of `ModelConfig`.

    Raises:
        OnespikeError: The model or the preset does not exist.
    """
    if name not in tuple(MODELS):  # a YAML file may name a list, which no dictionary can look up
        raise unknown("model", name, MODELS)
    if preset not in tuple(PRESETS):
        raise unknown("preset", preset, PRESETS)
    return {"name": name, "preset": preset, **MODELS[name], **PRESETS[preset]}


def create_model(
    name: str, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, **overrides: Any
) -> Network:
    """Build a model by name, with fresh weights.

    Args:
        name: A name in `MODELS`, such as "conv12".
        num_classes: Number of classes.
        in_channels: Channels of the images.
        image_size: Side of the images, in pixels.
        **overrides: `preset`, or fields of `ModelConfig`, such as `theta=0.3`.

    Returns:
        The network, in training mode.

    Raises:
        OnespikeError: The model or a field does not exist, or the image size does not suit the stages.
    """
    return Network(model_config(name, **overrides), num_classes, in_channels, image_size)
