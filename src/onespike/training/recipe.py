"""Recipes: YAML in, checked and typed values out.

Defaults come from the dataclasses; a registered model, a recipe file and the command line change them, in that order.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from onespike.data.config import DataConfig
from onespike.errors import OnespikeError, unknown
from onespike.models import MODELS, OnespikeConfig, config_from_dict, family
from onespike.models.registry import registered
from onespike.training.config import Recipe, TrainConfig

FOLDER = Path(__file__).parents[1] / "recipes"
SECTIONS = ("data", "model", "train")
#: Values that say where and how comfortably a run is trained, or name others, and do not change what comes out.
NO_MATTER = (
    "data.root",
    "data.cache",
    "data.workers",
    "model.preset",
    "train.device",
    "train.monitor_every",
    "train.save_minutes",
)


def recipe_names() -> list[str]:
    """Names of the recipes in the package, such as "cifar10/conv12"."""
    return sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Find a recipe.

    Args:
        name: A name in `recipe_names()`, or the path of a YAML file.

    Returns:
        The file.

    Raises:
        OnespikeError: There is none.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        if not Path(name).is_file():
            raise OnespikeError(f"there is no recipe file {name}")
        return Path(name)
    if name not in recipe_names():
        raise unknown("recipe", name, recipe_names())
    return FOLDER / f"{name}.yaml"


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Load a recipe from Python.

    Args:
        name: A recipe's name, or the path of a YAML file.
        overrides: Values to change, such as `{"train.epochs": 5}`.

    Returns:
        The recipe.

    Raises:
        OnespikeError: A key does not exist, or a value has the wrong type or is out of its range.
    """
    arguments = [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in (overrides or {}).items()
    ]
    parser = ArgumentParser(prog="load_recipe", exit_on_error=False)
    return to_recipe(parse(parser, arguments, recipe_path(name)))


def parse(
    parser: ArgumentParser,
    arguments: Sequence[str],
    file: Path | None = None,
    sections: Iterable[str] = SECTIONS,
    start: Path | None = None,
) -> Namespace:
    """Parse a command line whose options include the sections of a recipe.

    Args:
        parser: A parser with the command's own options; the sections' options are added to it.
        arguments: The command line.
        file: The YAML file that the values start from, if any.
        sections: Which sections the command takes. The file may have them all.
        start: A recipe whose model is taken, and changed, where neither the file nor the command line names one, and
            whose data are taken where the file has none.

    Returns:
        All values, checked for their types.

    Raises:
        OnespikeError: A key does not exist (the nearest one is named), or a value has the wrong type.
    """
    sections = list(sections)
    values = _read(file) if file else {}
    name = option_value(arguments, "--model.name") or values.get("model", {}).get("name")
    if start and name is None:
        before, changes = _read(start), values.get("model", {})
        if "preset" in changes:
            before["model"], _ = _named_model(before["model"], {"name": None, "preset": changes["preset"]})
        values["model"] = {**before["model"], **changes}
        values.setdefault("data", before["data"])
        name = values["model"]["name"]
    for section in sections:
        parser.add_class_arguments(_kind(section, name), section)
    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    # A section as a whole (--model FILE) would get past the names that its defaults depend on.
    known = [option for option in known if option.removeprefix("--") not in sections]
    for argument in arguments:
        option = argument.split("=")[0]
        if option.startswith("--") and option not in known:
            raise unknown("option", option, known)
    listed = values.get("model", {}).get("name", name)
    if _kind("model", listed) is not _kind("model", name):
        values["model"] = {}  # the file's is of another family, which has other values
    if "model" in sections and not issubclass(_kind("model", name), OnespikeConfig):
        parser.set_defaults({"model.name": name})
        values["model"] = {**values.get("model", {}), "name": name}
    elif "model" in sections:
        named = {key: option_value(arguments, f"--model.{key}") for key in ("name", "preset")}
        values["model"], defaults = _named_model(values.get("model", {}), named)
        parser.set_defaults(_flat({"model": defaults}))
    text = yaml.safe_dump({section: values[section] for section in sections if section in values})
    try:
        return parser.parse_args(list(arguments), namespace=parser.parse_string(text))
    except ArgumentError as error:
        raise OnespikeError(_plainly(" ".join(str(error).split()).replace("Parser key ", ""))) from None


#: Words for Python's types.
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "NoneType": "null", "str": "text"}


def _plainly(message: str) -> str:
    """Say in few words what the parser says of a value of the wrong type; other messages stay as they are."""
    wrong = re.fullmatch(
        r'"(?P<key>[^"]+)": (?P<kinds>.*(?:Expected a|Subtypes:) .*?)G(?:ot|iven) value.*: (?P<value>.*)', message
    )
    if not wrong:
        return message
    kinds = re.findall(r"<class '(\w+)'>|Literal\[(.*?)\]|(tuple|list)\[", wrong["kinds"])
    words = [
        _WORDS.get(name, "a list such as [1, 2]") if not names else names.replace("'", "") for name, names, _ in kinds
    ]
    return f"{wrong['key']}: expected {' or '.join(dict.fromkeys(words))}, got {wrong['value']}"


def _named_model(file: dict[str, Any], named: Mapping[str, str | None]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a file's model still holds, and the defaults, where the command line may name a model or a preset.

    A file that lists every value, as a run's does, lists what its own name and preset chose. Another name or preset
    chooses anew: what the file has from the old ones is dropped, and so is what the new ones set.
    """
    before = {key: file.get(key, getattr(OnespikeConfig, key)) for key in ("name", "preset")}
    after = {key: named[key] or value for key, value in before.items()}
    defaults = registered(**after)
    if after == before:
        return file, defaults
    chosen = _flat(asdict(OnespikeConfig()) | before) | _flat(registered(**before))
    ours, anew = family(after["name"]), set[str]()
    for key, known in (("name", ours.variants), ("preset", ours.presets)):
        anew |= _flat(known[after[key]]).keys() if after[key] != before[key] else set()
    own = {key: value for key, value in _flat(file).items() if key not in anew and value != _yaml(chosen.get(key))}
    return {**_nested(own), **after}, defaults


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_flat`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        *outer, last = key.split(".")
        place = found
        for name in outer:
            place = place.setdefault(name, {})
        place[last] = value
    return found


def option_value(arguments: Sequence[str], option: str) -> str | None:
    """Read one option ahead of the parser, whose defaults depend on it; as the parser does, the last one given.

    Args:
        arguments: The command line.
        option: Such as "--model.name".

    Returns:
        The value, None if the option is not there.
    """
    value = None
    for position, argument in enumerate(arguments):
        if argument.startswith(option + "="):
            value = argument.split("=", 1)[1]
        elif argument == option and position + 1 < len(arguments):
            value = arguments[position + 1]
    return value


def run_folder(parser: ArgumentParser, arguments: Sequence[str]) -> Path | None:
    """Find RUN ahead of the parser, whose defaults lie there: what is neither an option nor the value of one.

    Args:
        parser: A parser that has the options without values already.
        arguments: The command line.

    Returns:
        The folder, None if none is named.
    """
    flags = {option for action in parser._actions if action.nargs == 0 for option in action.option_strings}
    before = ""
    for argument in arguments:
        takes_it = before.startswith("--") and "=" not in before and before not in flags
        if not argument.startswith("-") and not takes_it:
            return Path(argument)
        before = argument
    return None


def to_recipe(values: Namespace) -> Recipe:
    """Make a recipe of parsed values; its dataclasses check the ranges."""
    data, model, train = (values[section].as_dict() for section in ("data", "model", "train"))
    return Recipe(DataConfig(**data), config_from_dict(model), TrainConfig(**train))


def dump(recipe: Recipe) -> str:
    """Write a recipe as YAML, every value included."""
    sections = {name: {k: _yaml(v) for k, v in asdict(getattr(recipe, name)).items()} for name in SECTIONS}
    return yaml.safe_dump(sections, sort_keys=False)


def differences(before: Recipe, now: Recipe) -> list[str]:
    """Say which values differ that change what comes out of a training, such as "train.lr was 0.1, now 0.2"."""
    flat = [_flat({section: asdict(getattr(recipe, section)) for section in SECTIONS}) for recipe in (before, now)]
    keys = [key for key in dict.fromkeys([*flat[0], *flat[1]]) if key not in NO_MATTER]
    was, will = ({key: one.get(key) for key in keys} for one in flat)
    return [f"{key} was {_yaml(was[key])}, now {_yaml(will[key])}" for key in keys if was[key] != will[key]]


def _kind(section: str, model: Any) -> type[Any]:
    """The dataclass of a section of a recipe, which for the model depends on its name."""
    if section == "model":
        return MODELS[model].config if model in tuple(MODELS) else OnespikeConfig
    return DataConfig if section == "data" else TrainConfig


def _yaml(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """Read a recipe file and check its keys."""
    try:
        values = yaml.safe_load(file.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise OnespikeError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise OnespikeError(f"{file}: expected the sections {', '.join(SECTIONS)}, got {type(values).__name__}")
    for section, content in values.items():
        if section not in SECTIONS:
            raise unknown(f"section in {file}", section, SECTIONS)
        if not isinstance(content, dict):
            raise OnespikeError(f"{file}: expected keys and values below {section!r}, got {content!r}")
        kinds = [_kind(section, content.get("name"))]
        if section == "model" and "name" not in content:  # it may be meant for either kind of model
            kinds += {one.config for one in MODELS.values()}
        for key in content:
            known = [f"{section}.{field.name}" for kind in kinds for field in fields(kind)]
            if f"{section}.{key}" not in known:
                raise unknown(f"key in {file}", f"{section}.{key}", known)
    return values
