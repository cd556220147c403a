"""Recipes: what a run is made of. YAML in, checked and typed values out.

Values come from a family's defaults, then the registered model and its preset, then the recipe's file, then the command
line. What a run stores is resolved: every value, so that nothing has to be looked up or guessed again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from onespike._version import __version__
from onespike.classpath import ClassPath
from onespike.configs import (
    check,
    convert,
    expect_keys,
    expect_plain,
    flat,
    is_name,
    make,
    merge,
    names_of,
    plain,
    read_yaml,
    write_yaml,
)
from onespike.conversion import ConversionConfig
from onespike.data.config import DataConfig
from onespike.data.sources import of_events
from onespike.durable import path_of
from onespike.errors import OnespikeError, shown, unknown
from onespike.models.registry import family, model_config
from onespike.training.config import TrainConfig

FOLDER = Path(__file__).parents[1] / "recipes"
#: The parts of a recipe. The last two are optional.
SECTIONS = ("data", "model", "train", "loss", "conversion")
#: What they are made into, except for the model, which is of a family's own class, or a `ClassPath`, too.
_KINDS = {"data": DataConfig, "train": TrainConfig, "loss": ClassPath, "conversion": ConversionConfig}
#: The key by which a recipe says that every value is in it, and which version wrote it: a run's `config.yaml`.
RESOLVED = "resolved_by"
#: Values that do not change the result, beyond rounding: they say where and how a run is trained, shown and saved, or
#: name others.
NO_MATTER = {"data.root", "data.cache", "data.workers", "model.preset"}
NO_MATTER |= {"train.device", "train.monitor_every", "train.save_minutes", "train.track"}


@dataclass(frozen=True)
class Recipe:
    """A whole training run: what `config.yaml` in a run folder holds.

    Attributes:
        data: The data set and its augmentation.
        model: The architecture: the config of a registered family, or its name; or a user's class.
        train: The training.
        loss: A user's loss, in place of `train.loss`; "tet" still makes the library's networks answer each step.
        conversion: How the model was converted into a spiking one; None if it was not.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: Any = field(default_factory=lambda: model_config("conv12"))
    train: TrainConfig = field(default_factory=TrainConfig)
    loss: ClassPath | None = None
    conversion: ConversionConfig | None = None

    def __post_init__(self) -> None:
        check(self)
        if isinstance(self.model, str):
            object.__setattr__(self, "model", model_config(self.model))
        if not isinstance(self.model, ClassPath) and not hasattr(self.model, "build"):
            found = f"model: expected a name, a model_config or a ClassPath, got a {type(self.model).__name__}"
            raise OnespikeError(f"{found}; a network goes to onespike.train(…, model=network)")
        if self.data.augmix_splits and self.train.mixup:
            reason = "the Jensen-Shannon loss takes hard labels; set --train.mixup 0"
            raise OnespikeError(f"data.augmix_splits and train.mixup: {reason}")
        if of_events(self.data) and hasattr(self.model, "time_steps"):
            object.__setattr__(self, "model", replace(self.model, time_steps=self.data.frames))


def recipe_names() -> list[str]:
    """Names of the recipes in the package, such as "cifar10/conv12"."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))


def load_recipe(name: str | Path, overrides: Mapping[str, Any] | None = None, start: Recipe | None = None) -> Recipe:
    """Load a recipe and change it.

    Args:
        name: A recipe's name, or the path of a YAML file.
        overrides: Values to change by their whole names, such as `{"train.epochs": 5}`; text is read as YAML.
        start: A recipe that supplies the model (and conversion), to be changed, if neither `name` nor `overrides` names
            a model, and the data if `name` has none.

    Raises:
        OnespikeError: There is no such recipe or key, or a value has the wrong type or is out of its range.
    """
    path = _recipe_path(str(name))
    expect_keys(overrides or {}, {}, "overrides")
    if not isinstance(start, Recipe | None):
        raise OnespikeError(f"start: expected a recipe, got {shown(repr(start))}")
    return _resolve(_read(path), _nested(overrides or {}), path, start)


def as_recipe(recipe: Recipe | str, start: Recipe | None = None) -> Recipe:
    """A recipe, or the one of a name, see `load_recipe`; anything else is an `OnespikeError`."""
    recipe = load_recipe(recipe, start=start) if isinstance(recipe, str) else recipe
    if isinstance(recipe, nn.Module):
        raise OnespikeError("recipe: expected a recipe, or the name of one, got a network: pass that as model=…")
    if not isinstance(recipe, Recipe):
        raise OnespikeError(f"recipe: expected a recipe, or the name of one, got {shown(repr(recipe))}")
    return recipe


def dump(recipe: Recipe) -> str:
    """Write a recipe as YAML, every value included; an `OnespikeError` for arguments that YAML does not hold."""
    sections = {name: plain(value) for name in SECTIONS if (value := getattr(recipe, name)) is not None}
    for name, values in sections.items():
        expect_plain(values.get("init_args"), f"{name}.init_args")
    return write_yaml({RESOLVED: f"onespike {__version__}", **sections})


def values_of(recipe: Recipe) -> dict[str, Any]:
    """All values by their whole names, such as "train.lr"."""
    found: dict[str, Any] = {}
    for section in SECTIONS:
        if (config := getattr(recipe, section)) is not None:
            found |= flat(config, section)
    return found


def differences(before: Recipe, now: Recipe) -> list[str]:
    """List the values that differ and change the result of a training, such as "train.lr was 0.1, now 0.2"."""
    was, will = values_of(before), values_of(now)
    keys = [key for key in dict.fromkeys([*was, *will]) if key not in NO_MATTER]
    return [f"{key} was {was.get(key)}, now {will.get(key)}" for key in keys if was.get(key) != will.get(key)]


def model_from(values: Any) -> Any:
    """Make a model's config from all its values, as a run stores them."""
    if not isinstance(values, Mapping):
        raise OnespikeError(f"model: expected keys and values, got {shown(values)}")
    if "class_path" in values:
        return make(ClassPath, values, "model")
    return make(family(values.get("name", "")).config, values, "model")


def option_names(model: str = "conv12") -> dict[str, Any]:
    """All names of a recipe's values, those of a registered model's family among them, and their types."""
    kinds = [*_KINDS.items(), ("model", family(model).config), ("model", ClassPath)]
    return {name: hint for section, kind in kinds for name, hint in names_of(kind, section).items()}


def _resolve(file: dict[str, Any], given: dict[str, Any], path: Path, start: Recipe | None) -> Recipe:
    resolved = file.pop(RESOLVED, None) is not None
    # A file that a run was dumped to names data twice, of which the class counts.
    for mark, section, values in (("--", "data", given), ("--", "model", given), ("", "model", file)):
        if {"name", "class_path"} <= {*values.get(section, {})}:
            raise OnespikeError(f"{mark}{section}.name and {mark}{section}.class_path: name one of them")
    if start is not None:
        file.setdefault("data", plain(start.data))
    for section in ("data", "loss"):  # another class takes other arguments
        before, now = file.get(section, {}), given.get(section, {})
        if "class_path" in now and now["class_path"] != before.get("class_path"):
            file[section] = {key: value for key, value in before.items() if key != "init_args"}
    was, chosen = file.get("data", {}), given.get("data", {})
    if "class_path" in chosen or ("name" not in chosen and resolved and was.get("class_path")):
        gone = ["root"]  # of the data set that a class replaces; an older run may name both
    else:
        gone = ["class_path", "init_args"] if "name" in chosen else []
    file["data"] = {key: value for key, value in was.items() if key not in gone}
    before, changes = file.get("model", {}), given.get("model", {})
    if start is not None and not {"name", "class_path"} & {*before, *changes}:
        # The model that is started from is resolved: a preset chooses anew, other values change it.
        before, changes, resolved = plain(start.model), merge(before, changes), True
        if start.conversion is not None:
            file["conversion"] = merge(plain(start.conversion), file.get("conversion", {}))
    sections = {section: merge(file.get(section, {}), given.get(section, {})) for section in _KINDS}
    for section in ("model", "data", "loss"):
        values = {**before, **changes} if section == "model" else sections[section]
        if values.get("init_args") and not values.get("class_path"):
            raise OnespikeError(f"{section}.init_args: arguments of what? add --{section}.class_path pkg.Class")
    if by_class := "class_path" in changes or ("class_path" in before and "name" not in changes):
        same = changes.get("class_path", before.get("class_path")) == before.get("class_path")
        model, known, before = make(ClassPath, merge(before if same else {}, changes), "model"), option_names(), {}
    else:
        name = convert(changes.get("name", before.get("name", "conv12")), str, "model.name")
        known = option_names(name)
        former = before.get("name", name)
        if "class_path" in before or (former is not None and family(former) is not family(name)):
            before = {}  # of a class, or of another family, which has other values
    _check(given, known, "option", "--")
    _check({**file, "model": before}, known, f"key in {path}")
    made = {section: make(_KINDS[section], values, section) for section, values in sections.items() if values}
    if not by_class:
        data = made.get("data", DataConfig())
        if of_events(data) and "model.time_steps" in known:  # at once: options may be refused for one or for several
            steps = convert(given.get("model", {}).get("time_steps", data.frames), int, "model.time_steps")
            if steps != data.frames:
                state = f"the time steps are the frames of {data.name}; expected {data.frames}, got {steps}"
                raise OnespikeError(f"model.time_steps: {state}; pass --data.frames {steps}")
            changes = {**changes, "time_steps": data.frames}
        model = _model(name, before, changes, resolved)
    return Recipe(model=model, **made)


def _model(name: str, before: Mapping[str, Any], changes: Mapping[str, Any], resolved: bool) -> Any:
    """Make a registered model's config from a file's values and the changes to them."""
    anew = any(changes[key] != before.get(key) for key in ("name", "preset") if key in changes)
    if resolved and anew:  # what is listed belongs to the old name and preset
        before = {"preset": before.get("preset")}
    if name != before.get("name", name):  # what a name decides, such as a width, is no longer the file's to say
        decided = {key for variant in family(name).variants.values() for key in variant}
        before = {key: value for key, value in before.items() if key not in decided}
    values = merge(before, changes)
    if resolved and not anew:
        return make(family(name).config, values, "model")
    preset = values.pop("preset", None)
    return model_config(name, preset, **{key: value for key, value in values.items() if key != "name"})


def _check(values: Mapping[str, Any], known: Mapping[str, Any], label: str, mark: str = "", prefix: str = "") -> None:
    """Refuse a key that does not exist, and name the nearest that does."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if "." in str(key) and name in known:
            raise OnespikeError(f"{label} {mark}{name}: a key has no dot; nest it, as in neuron: {{decay: 0.4}}")
        inside = any(one.startswith(f"{name}.") for one in known)
        if inside and isinstance(value, Mapping):
            _check(value, known, label, mark, f"{name}.")
        elif name not in known:
            raise unknown(label, f"{mark}{name}", [f"{mark}{one}" for one in known])


def _nested(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """{"model.neuron.decay": 0.3} as {"model": {"neuron": {"decay": 0.3}}}."""
    nested: dict[str, Any] = {}
    for name, value in overrides.items():
        if is_name(value) and f"{name}.name" in option_names():  # --model.neuron plif
            name = f"{name}.name"
        section, *keys = str(name).split(".")
        if section not in SECTIONS or not keys:
            raise unknown("option", f"--{name}", [f"--{one}" for one in option_names()])
        for key in reversed(keys):
            value = {key: value}
        nested[section] = merge(nested.get(section, {}), value)
    return nested


def _recipe_path(name: str) -> Path:
    if Path(name).suffix in (".yaml", ".yml"):
        if not (path := path_of(name, "recipe")).is_file():
            raise OnespikeError(f"there is no recipe file {name}")
        return path
    if name not in recipe_names():
        raise OnespikeError(f"{unknown('recipe', name, recipe_names())}; a file of yours has to end in .yaml")
    return FOLDER / f"{name}.yaml"


def _read(file: Path) -> dict[str, Any]:
    values = read_yaml(file) or {}
    if not isinstance(values, dict):
        raise OnespikeError(f"{file}: expected the sections {', '.join(SECTIONS)}, got {shown(values)}")
    for section, content in values.items():
        if section not in (*SECTIONS, RESOLVED):
            raise unknown(f"section in {file}", section, SECTIONS)
        if section != RESOLVED and not isinstance(content, dict):
            raise OnespikeError(f"{file}: expected keys and values below {section!r}, got {shown(content)}")
    return values
