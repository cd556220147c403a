"""Models by name: a family is a config dataclass, a builder of its networks, and the names of its models."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, is_dataclass
from os import sysconf
from typing import Any, NamedTuple, TypeVar, get_type_hints

from torch import Tensor, nn

from onespike.configs import check, convert, make, merge, plain
from onespike.errors import OnespikeError, shown, unknown, unregistered
from onespike.tensors import shapes_alone

#: Ranges of whole numbers in fields of these names, in any family; with larger ones a network would never be built.
_RANGES: dict[str, Any] = dict.fromkeys(
    ("depths", "depth", "stages", "stem_layers", "mlp_ratio", "levels", "time_steps"), (1, 1000)
)
_RANGES |= dict.fromkeys(("channels", "width"), (1, 1 << 16))

#: Default number of classes, channels and side of the images.
SIZES = {"num_classes": 10, "in_channels": 3, "image_size": 32}

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class ModelConfig:
    """Options of a network; each family extends them.

    Attributes:
        name: The registered model that these values started from.
        preset: The preset that changed them, if the family has presets: a label.
    """

    name: str = ""
    preset: str = ""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        ranges = {key: one for key, one in _RANGES.items() if hints.get(key) in (int, tuple[int, ...])}
        check(self, **ranges)
        depths = getattr(self, "depths", ()) if hints.get("depths") == tuple[int, ...] else ()
        if (blocks := sum(depths)) > (most := _RANGES["depths"][1]):
            raise OnespikeError(f"depths: expected at most {most:,} blocks in all, got {blocks:,}")
        ours = family(self.name).config
        if type(self) is not ours:
            raise OnespikeError(f"name: {self.name} is described by {ours.__name__}, not by {type(self).__name__}")
        preset_changes(self.name, self.preset)

    @property
    def draws(self) -> bool:
        """Whether the network draws random numbers at test time."""
        return False

    def build(self, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
        """Build it with fresh weights, (B, C, H, W) to logits (B, K); `OnespikeError` if it cannot have that size."""
        given = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        sizes, builder = {what: convert(size, int, what) for what, size in given.items()}, family(self.name).builder
        for what, size in sizes.items():
            most = 1 << 20 if what == "num_classes" else 8192
            if not 1 <= size <= most:
                raise OnespikeError(f"{what}: expected a whole number from 1 to {most:,}, got {size}")
        need = 0
        with suppress(Exception), shapes_alone():  # a builder that looks at values cannot do without them
            state = builder(self, *sizes.values()).state_dict().values()
            need = sum(one.nbytes for one in state if isinstance(one, Tensor))  # modules may keep anything there
        if need > (memory := sysconf("SC_PHYS_PAGES") * sysconf("SC_PAGE_SIZE")):
            large = f"its weights take {need / 2**30:,.0f} GiB, of memory there are {memory / 2**30:,.0f}"
            raise OnespikeError(f"model {self.name}: {large}: choose fewer channels or blocks, or smaller images")
        network: object = builder(self, *sizes.values())
        if not isinstance(network, nn.Module):
            found = type(network).__name__
            raise OnespikeError(f"model {self.name}: expected its builder to make a torch.nn.Module, got a {found}")
        return network


class Family(NamedTuple):
    """Models that share a config dataclass; `register_model` makes one of its arguments."""

    config: type[ModelConfig]
    builder: Callable[..., nn.Module]
    variants: dict[str, dict[str, Any]]
    presets: dict[str, dict[str, Any]]


#: The family of each registered model, by the model's name.
MODELS: dict[str, Family] = {}


def register_model(
    config: type[ModelConfig], variants: dict[str, dict[str, Any]], presets: dict[str, dict[str, Any]] | None = None
) -> Callable[[Builder], Builder]:
    """Register a family's builder: a class or function of (config, num_classes, in_channels, image_size).

    Args:
        config: The family's dataclass, frozen, which derives from `ModelConfig`.
        variants: Its models by name, with the fields in which each differs from the dataclass's defaults. A model that
            is already registered by such a name is replaced.
        presets: Its presets by name, with the fields that each changes in any of its models.
    """
    if not isinstance(config, type) or not issubclass(config, ModelConfig) or not is_dataclass(config):
        raise OnespikeError(f"register_model: expected a dataclass derived from ModelConfig, got {shown(repr(config))}")
    if odd := [name for name in variants if not isinstance(name, str) or not name.isprintable() or not name.strip()]:
        raise OnespikeError(f"register_model: expected printable names of models, got {shown(repr(odd[0]))}")

    def register(builder: Builder) -> Builder:
        MODELS.update(dict.fromkeys(variants, Family(config, builder, variants, presets or {})))
        return builder

    return register


def model_names() -> list[str]:
    """Names of all registered models, in the order in which they were registered."""
    return list(MODELS)


def family(name: str) -> Family:
    """Look up a model's family; raise `OnespikeError` if there is no such model."""
    if name not in tuple(MODELS):  # a YAML file may name a list, which no dictionary can look up
        raise unregistered("model", name, MODELS)
    return MODELS[name]


def preset_changes(name: str, preset: str) -> dict[str, Any]:
    """Look up the fields that a preset changes (none for ""); raise `OnespikeError` if there is no such preset."""
    presets = family(name).presets
    if not preset:
        return {}
    if not presets:
        raise OnespikeError(f"preset: {name} has none, got {preset!r}")
    if preset not in tuple(presets):
        raise unknown("preset", preset, presets)
    return presets[preset]


def model_config(name: str, preset: str | None = None, **overrides: Any) -> Any:
    """Make the config of a registered model: the family's defaults, the model's values, the preset's, the overrides.

    Args:
        name: A registered model.
        preset: One of its family's presets; None leaves the default one.
        **overrides: Fields of its config, such as `theta=0.3`. A nested config takes a dictionary of what changes,
            `neuron={"threshold": 0.4}`; the name alone, `neuron="plif"`; or the whole config.

    Raises:
        OnespikeError: The model, the preset or a field does not exist, or a value is out of its range.
    """
    ours = family(name)
    preset = ours.config.preset if preset is None else preset
    # Of a nested config, all of the family's values: what nobody names stays as it is.
    nested = {
        one.name: one.default if one.default_factory is MISSING else one.default_factory()
        for one in fields(ours.config)
    }
    values = {key: plain(one) for key, one in nested.items() if is_dataclass(one)} | {"name": name, "preset": preset}
    for changes in (ours.variants[name], preset_changes(name, preset), overrides):
        values = merge(values, changes)
    return make(ours.config, values, "model")


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    pretrained: str = "",
    **overrides: Any,
) -> Any:
    """Build a model by name, with fresh weights, in training mode; or with the package's weights, in evaluation mode.

    Args:
        name: A registered model, such as "conv12" (see `model_names`).
        num_classes: Number of classes; by default 10, or those that the weights are for.
        in_channels: Channels of the images; by default 3, likewise.
        image_size: Side of the images, in pixels; by default 32, likewise.
        pretrained: The data set whose weights are taken, such as "digits" (`onespike models` lists them); "" for none.
        **overrides: `preset`, or fields of the model's config, such as `theta=0.3` (see `model_config`).

    Raises:
        OnespikeError: The model or a field does not exist, or the image size does not suit the network.
    """
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    if pretrained:
        from onespike.models.pretrained import create_pretrained  # it imports this module

        if overrides:
            raise OnespikeError(f"{next(iter(overrides))}: weights that are trained have their own; leave it out")
        return create_pretrained(name, pretrained, **sizes)
    given = {what: size for what, size in sizes.items() if size is not None}
    return model_config(name, **overrides).build(**SIZES | given)


def expect_multiple(name: str, image_size: int, side: int) -> None:
    """Raise `OnespikeError` unless the image size is a multiple of `side`; the message calls the network `name`."""
    if image_size < side or image_size % side:
        needs = f"{name} needs a multiple of {side} pixels"
        raise OnespikeError(f"image_size: {needs}, got {image_size}; resize with --data.image_size")
