"""Register models with timm: `timm.create_model("onespike_spiking_resnet_m", num_classes=10, img_size=32)`."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from onespike.models.registry import create_model, model_config, model_names

#: timm's options that its training script always passes.
DROPS = "drop_rate", "drop_path_rate", "drop_block_rate"


def timm_name(name: str) -> str:
    """A model's name in timm, where names have no hyphens."""
    return "onespike_" + name.replace("-", "_")


def register_timm() -> list[str]:
    """Register every model with timm and return the names; calling it again changes nothing.

    A network of timm.create_model takes `num_classes`, `in_chans`, `img_size`, and fields of the model's config. With
    `pretrained=True` its weights are those of `pretrained_cfg`, as for "hf-hub:user/repo" and "local-dir:FOLDER".
    """
    import timm

    names = {timm_name(name): name for name in model_names()}
    for entry, name in names.items():
        if not timm.is_model(entry):
            timm.models.register_model(_entry(entry, name))
    return list(names)


def _entry(entry: str, name: str) -> Callable[..., nn.Module]:
    def make(pretrained: bool = False, **given: Any) -> nn.Module:
        from timm.models import build_model_with_cfg

        return build_model_with_cfg(_build, entry, pretrained, kwargs_filter=(), model=name, **given)

    make.__name__ = make.__qualname__ = entry
    make.__doc__ = f"Build {name}."
    return make


def _build(
    model: str,
    num_classes: int = 1000,
    in_chans: int = 3,
    img_size: int = 32,
    config: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> nn.Module:
    fields = vars(model_config(model))
    # timm adds some of its own, which mean nothing here: a pooling, and rates of dropout that are 0.
    others = {k: v for k, v in overrides.items() if k in fields or not (k == "global_pool" or (k in DROPS and not v))}
    values = {**(config or {}), **others}
    network = create_model(model, num_classes=num_classes, in_channels=in_chans, image_size=img_size, **values)
    network.num_classes = num_classes
    return network
