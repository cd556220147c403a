"""Recipes: what a run is made of. YAML in, checked and typed values out.

Values come from a family's defaults, then the registered model and its preset, then the recipe's file, then the command
line. What a run stores is resolved: every value, so that nothing has to be looked up or guessed again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from onespike._version import __version__
from onespike.classpath import ClassPath
from onespike.configs import convert, flat, make, merge, names_of, plain, read_yaml
from onespike.conversion import ConversionConfig
from onespike.data.config import DataConfig
from onespike.errors import OnespikeError, unknown
from onespike.models.registry import family, model_config
from onespike.training.config import TrainConfig

FOLDER = Path(__file__).parents[1] / "recipes"
#: The parts of a recipe. The last two need not be there.
SECTIONS = ("data", "model", "train", "loss", "conversion")
#: The key by which a recipe says that every value is in it, and which version wrote it: a run's `config.yaml`.
RESOLVED = "resolved_by"
#: Values that say where and how comfortably a run is trained, or name others, and do not change what comes out.
NO_MATTER = (
    "data.root",
    "data.cache",
    "data.workers",
    "model.preset",
    "train.device",
    "train.monitor_every",
    "train.save_minutes",
    "train.track",
)


@dataclass(frozen=True)
class Recipe:
    """A whole training run: what `config.yaml` in a run folder holds.

    Attributes:
        data: The data set and its augmentation.
        model: The architecture: the config of a registered family, or somebody's class.
        train: The training.
        loss: Somebody's loss, in place of `train.loss`.
        conversion: How the model was converted into a spiking one; None if it was not.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: Any = field(default_factory=lambda: model_config("conv12"))
    train: TrainConfig = field(default_factory=TrainConfig)
    loss: ClassPath | None = None
    conversion: ConversionConfig | None = None

    def __post_init__(self) -> None:
        if self.data.augmix_splits and self.train.mixup:
            raise OnespikeError(
                "data.augmix_splits and train.mixup: the Jensen-Shannon loss takes hard labels; set --train.mixup 0"
            )


def recipe_names() -> list[str]:
    """Names of the recipes in the package, such as "cifar10/conv12"."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))


def load_recipe(name: str | Path, overrides: Mapping[str, Any] | None = None, start: Recipe | None = None) -> Recipe:
    """Load a recipe and change it.

    Args:
        name: A recipe's name, or the path of a YAML file.
        overrides: Values to change by their whole names, such as `{"train.epochs": 5}`; text is read as YAML.
        start: A recipe whose model (and conversion) is taken, and changed, where neither `name` nor `overrides` names
            one, and whose data are taken where `name` has none.

    Returns:
        The recipe.

    Raises:
        OnespikeError: There is no such recipe, a key does not exist, or a value has the wrong type or is out of its
            range.
    """
    path = _recipe_path(str(name))
    return _resolve(_read(path), _nested(overrides or {}), path, start)


def dump(recipe: Recipe) -> str:
    """Write a recipe as YAML, every value included."""
    sections = {name: plain(value) for name in SECTIONS if (value := getattr(recipe, name)) is not None}
    return yaml.safe_dump({RESOLVED: f"onespike {__version__}", **sections}, sort_keys=False)


def values_of(recipe: Recipe) -> dict[str, Any]:
    """All values by their whole names, such as "train.lr"."""
    found: dict[str, Any] = {}
    for section in SECTIONS:
        if (config := getattr(recipe, section)) is not None:
            found |= flat(config, section)
    return found


def differences(before: Recipe, now: Recipe) -> list[str]:
    """Say which values differ that change what comes out of a training, such as "train.lr was 0.1, now 0.2"."""
    was, will = values_of(before), values_of(now)
    keys = [key for key in dict.fromkeys([*was, *will]) if key not in NO_MATTER]
    return [f"{key} was {was.get(key)}, now {will.get(key)}" for key in keys if was.get(key) != will.get(key)]


def model_from(values: Mapping[str, Any]) -> Any:
    """Make a model's config of all its values, as a run stores them.

    Raises:
        OnespikeError: They are not those of a model.
    """
    if "class_path" in values:
        return make(ClassPath, values, "model")
    return make(family(str(values.get("name"))).config, values, "model")


def option_names(model: str | None = None) -> list[str]:
    """All names of a recipe's values, with those of a model's family (by default the paper's)."""
    kinds: dict[str, type] = {"data": DataConfig, "model": family(model or "conv12").config, "train": TrainConfig}
    kinds |= {"loss": ClassPath, "conversion": ConversionConfig}
    names = [name for section, kind in kinds.items() for name in names_of(kind, section)]
    return [*names, "model.class_path", "model.init_args"]


def _resolve(file: dict[str, Any], given: dict[str, Any], path: Path, start: Recipe | None) -> Recipe:
    resolved = RESOLVED in file
    file = {section: values for section, values in file.items() if section != RESOLVED}
    conversion = merge(file.get("conversion", {}), given.get("conversion", {}))
    before = file.get("model", {})
    names_one = any(key in values for values in (before, given.get("model", {})) for key in ("name", "class_path"))
    if start is not None:
        file.setdefault("data", plain(start.data))
        if not names_one:
            # The model that is started from is resolved: a preset chooses anew, other values change it.
            given = {**given, "model": merge(before, given.get("model", {}))}
            before, resolved = plain(start.model), True
            if start.conversion is not None:
                conversion = merge(plain(start.conversion), conversion)
    if "name" in given.get("data", {}) and "class_path" not in given["data"]:  # in place of somebody's data set
        file["data"] = {key: one for key, one in file.get("data", {}).items() if key not in ("class_path", "init_args")}
    model = _model(before, given.get("model", {}), resolved, path)
    sections = {
        section: make(kind, merge(file.get(section, {}), given.get(section, {})), section)
        for section, kind in (("data", DataConfig), ("train", TrainConfig))
    }
    loss = merge(file.get("loss", {}), given.get("loss", {}))
    return Recipe(
        model=model,
        **sections,
        loss=make(ClassPath, loss, "loss") if loss else None,
        conversion=make(ConversionConfig, conversion, "conversion") if conversion else None,
    )


def _model(file: Mapping[str, Any], given: Mapping[str, Any], resolved: bool, path: Path) -> Any:
    """The model of a file's values and what is changed of them."""
    if "class_path" in given or ("class_path" in file and "name" not in given):
        same = given.get("class_path", file.get("class_path")) == file.get("class_path")
        return make(ClassPath, merge(file if same else {}, given), "model")
    name = convert(given.get("name", file.get("name", "conv12")), str, "model.name")
    chosen = family(name)
    anew = any(given[key] != file.get(key) for key in ("name", "preset") if key in given)
    if file.get("name") is not None and family(file["name"]) is not chosen:
        file = {}  # of another family, which has other values
    elif resolved and anew:  # what is listed belongs to the old name and preset
        file = {"name": file["name"], "preset": file.get("preset")}
    known = names_of(chosen.config, "model")
    for label, mark, values in ((f"key in {path}", "", file), ("option", "--", given)):
        for key in _keys(values, "model"):
            above = [one for one in known if key.startswith(f"{one}.")]  # options of a neuron have names of its own
            if key not in known and (not above or any(one.startswith(f"{above[-1]}.") for one in known)):
                raise unknown(label, f"{mark}{key}", [f"{mark}{one}" for one in known])
    values = merge(file, given)
    if resolved and not anew:
        return make(chosen.config, values, "model")
    rest = {key: value for key, value in values.items() if key not in ("name", "preset")}
    return model_config(name, values.get("preset"), **rest)


def _keys(values: Mapping[str, Any], prefix: str) -> list[str]:
    found = []
    for key, value in values.items():
        found += _keys(value, f"{prefix}.{key}") if isinstance(value, Mapping) else [f"{prefix}.{key}"]
    return found


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """{"model.neuron.decay": 0.3} as {"model": {"neuron": {"decay": 0.3}}}; a name that does not exist is refused."""
    nested: dict[str, Any] = {}
    for name, value in overrides.items():
        section, *keys = name.split(".")
        if section not in SECTIONS or not keys:
            raise unknown("option", f"--{name}", [f"--{one}" for one in option_names()])
        kind = {"data": DataConfig, "train": TrainConfig, "conversion": ConversionConfig}.get(section)
        if kind is not None and name not in names_of(kind, section) and keys[0] not in ("init_args",):
            raise unknown("option", f"--{name}", [f"--{one}" for one in option_names()])
        for key in reversed(keys):
            value = {key: value}
        nested[section] = merge(nested.get(section, {}), value)
    return nested


def _recipe_path(name: str) -> Path:
    if Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise OnespikeError(f"there is no recipe file {name}")
        return Path(name)
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    return FOLDER / f"{name}.yaml"


def _read(file: Path) -> dict[str, Any]:
    """Read a recipe file and check its sections."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OnespikeError(f"{file}: cannot be read as YAML: {error}") from None
    values = read_yaml(text, file) or {}
    if not isinstance(values, dict):
        raise OnespikeError(f"{file}: expected the sections {', '.join(SECTIONS)}, got {type(values).__name__}")
    kinds = {"data": DataConfig, "train": TrainConfig}
    for section, content in values.items():
        if section == RESOLVED:
            continue
        if section not in SECTIONS:
            raise unknown(f"section in {file}", section, SECTIONS)
        if not isinstance(content, dict):
            raise OnespikeError(f"{file}: expected keys and values below {section!r}, got {content!r}")
        known = names_of(kinds[section], section) if section in kinds else []
        for key in content:
            if known and f"{section}.{key}" not in known:
                raise unknown(f"key in {file}", f"{section}.{key}", known)
    return values
