"""Configs: dataclasses made of plain values (YAML, JSON, the command line), and checked field by field."""

import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from onespike.errors import OnespikeError, unknown

#: What a value of each type is called in messages.
_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
    str: "text",
    Path: "a path",
}


class Text(str):
    """A value as it was typed, which is read as YAML where the type of what it stands for does not say."""


def make(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """Make a dataclass of plain values. Text is read as YAML where the field holds something else.

    Args:
        kind: The dataclass.
        values: Values by the names of its fields; the others keep their defaults.
        where: What the fields' names begin with in messages, such as "train".

    Returns:
        The instance.

    Raises:
        OnespikeError: A field does not exist, a value has the wrong type or is out of its range.
    """
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            raise unknown("option", f"{where}.{key}", names_of(kind, where))
    return kind(**{key: convert(value, hints[key], f"{where}.{key}") for key, value in values.items()})


def convert(value: Any, hint: Any, where: str) -> Any:
    """Turn a plain value into one of a type.

    Args:
        value: Text, or what YAML or Python made of it.
        hint: The type, as it is annotated.
        where: What the value is called in messages.

    Returns:
        The value: lists become tuples, mappings dataclasses, where these are asked for.

    Raises:
        OnespikeError: It is of another type.
    """
    if _is_union(hint):
        return _first_that_fits(value, get_args(hint), where)
    if hint is Any:
        return _parsed(value) if isinstance(value, Text) else value
    if hint is str and isinstance(value, str):
        return str(value)
    if isinstance(hint, type) and isinstance(value, hint) and hint not in (int, float):
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (str, Path):
        raise _wrong(value, hint, where)
    if isinstance(hint, type) and is_dataclass(hint):
        return make(hint, named(_parsed(value), hint, where), where)
    value = _parsed(value) if get_origin(hint) is not Literal or value not in get_args(hint) else value
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:  # what was typed is text of another class; True is not 1
        alike = [one for one in arguments if value == one and (isinstance(value, str) or type(value) is type(one))]
        if alike:
            return alike[0]
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and (number := _number(value)) is not None:
        return number
    if kind in (tuple, list) and isinstance(value, list | tuple):
        inner = [arguments[0]] * len(value) if kind is list or arguments[1:] == (...,) else list(arguments)
        if len(inner) == len(value):
            return kind(convert(one, each, where) for one, each in zip(value, inner, strict=True))
    if kind is dict and isinstance(value, Mapping):
        key, content = arguments or (str, Any)
        return {convert(k, key, where): convert(one, content, f"{where}.{k}") for k, one in value.items()}
    raise _wrong(value, hint, where)


def named(value: Any, kind: type, where: str) -> Mapping[str, Any]:
    """The values of a nested config, of which a name alone may be given: `neuron: plif` is `neuron: {name: plif}`."""
    if isinstance(value, str) and "name" in get_type_hints(kind):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise OnespikeError(f"{where}: expected keys and values, got {value!r}")
    return value


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay changes over values; mappings inside are merged, and a name alone starts a nested config anew."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, str):
            before = {"name": before}
        merged[key] = merge(before, value) if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    return merged


def plain(config: Any) -> dict[str, Any]:
    """A config as YAML and JSON have it: every value, lists for tuples, mappings for nested configs."""
    return {field.name: _plain(getattr(config, field.name)) for field in fields(config)}


def flat(config: Any, prefix: str) -> dict[str, Any]:
    """A config's values by their whole names, such as "model.neuron.decay"."""
    found: dict[str, Any] = {}
    for key, value in plain(config).items():
        name = f"{prefix}.{key}"
        if isinstance(value, dict) and is_dataclass(getattr(config, key)):
            found |= flat(getattr(config, key), name)
        else:
            found[name] = value
    return found


def names_of(kind: type, prefix: str) -> list[str]:
    """All names that a config's values can be given by, those of nested configs included."""
    found = []
    for key, hint in get_type_hints(kind).items():
        found.append(f"{prefix}.{key}")
        for one in get_args(hint) if _is_union(hint) else (hint,):
            if isinstance(one, type) and is_dataclass(one):
                found += names_of(one, f"{prefix}.{key}")
    return found


def defaults(kind: type) -> dict[str, Any]:
    """The default of every field."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(kind)
    }


def read_yaml(text: str, where: object) -> Any:
    """Read YAML.

    Raises:
        OnespikeError: It is none.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise OnespikeError(f"{where}: cannot be read as YAML: {' '.join(str(error).split())}") from None


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, RecursionError, ValueError):
        return value


def _number(value: Any) -> float | int | None:
    if isinstance(value, str):  # YAML takes 1e-3 for text
        try:
            return float(value)
        except ValueError:
            return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _first_that_fits(value: Any, kinds: Iterable[Any], where: str) -> Any:
    kinds = list(kinds)
    if type(None) in kinds and (value is None or (isinstance(value, str) and value in ("null", "None"))):
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    for kind in others:
        try:
            return convert(value, kind, where)
        except OnespikeError:
            if len(others) == 1 and isinstance(kind, type) and is_dataclass(kind):
                raise
    raise _wrong(value, Union[tuple(kinds)], where)  # noqa: UP007 - made of what came


def _wrong(value: Any, hint: Any, where: str) -> OnespikeError:
    if get_origin(hint) is Literal:
        return unknown(where, value, map(str, get_args(hint)))
    return OnespikeError(f"{where}: expected {_words(hint)}, got {value}")


def _words(hint: Any) -> str:
    if _is_union(hint):
        return " or ".join(dict.fromkeys(map(_words, get_args(hint))))
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    if get_origin(hint) in (tuple, list):
        return "a list such as [1, 2]"
    if get_origin(hint) is dict:
        return "keys and values"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return plain(value)
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value
