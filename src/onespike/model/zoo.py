"""Models by name."""

from dataclasses import fields
from typing import Any

from onespike.errors import unknown
from onespike.model.config import ModelConfig
from onespike.model.network import Network

#: Registered models: what each sets apart from `ModelConfig`'s defaults, which are the paper's.
MODELS: dict[str, dict[str, Any]] = {
    "conv12": {},
    "conv-tiny": {
        "depths": (2, 2, 2),
        "channels": (16, 32, 64),
        "encoding": "threshold",
        "norm": "batch",
        "dropout": 0.0,
    },
}


def model_config(name: str, **overrides: Any) -> ModelConfig:
    """Look up a registered model and change what is overridden.

    Args:
        name: A name in `MODELS`.
        **overrides: Fields of `ModelConfig`.

    Returns:
        The architecture.

    Raises:
        OnespikeError: The model or a field does not exist, or a value is out of its range.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    known = {field.name for field in fields(ModelConfig)} - {"name"}
    for key in overrides:
        if key not in known:
            raise unknown("model option", key, known)
    return ModelConfig(name=name, **{**MODELS[name], **overrides})


def create_model(
    name: str, *, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, **overrides: Any
) -> Network:
    """Build a model by name, with fresh weights.

    Args:
        name: A name in `MODELS`, such as "conv12".
        num_classes: Number of classes.
        in_channels: Channels of the images.
        image_size: Side of the images, in pixels.
        **overrides: Fields of `ModelConfig`, such as `theta=0.3`.

    Returns:
        The network, in training mode.

    Raises:
        OnespikeError: The model or a field does not exist, or the image size does not suit the stages.
    """
    return Network(model_config(name, **overrides), num_classes, in_channels, image_size)
