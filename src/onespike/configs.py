"""Configs: dataclasses made of plain values (YAML, JSON, the command line), and checked field by field."""

import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from onespike.errors import OnespikeError, unknown

#: What a value of each type is called in messages.
_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
_WORDS |= {tuple: "a list such as [1, 2]", list: "a list such as [1, 2]", dict: "keys and values"}
_NOT_YAML = (yaml.YAMLError, RecursionError, ValueError)


class Text(str):
    """A value as it was typed, which is read as YAML where the type of what it stands for does not say."""


def make(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """Make a dataclass of plain values by the names of its fields; the others keep their defaults.

    Text is read as YAML where the field holds something else. In messages names begin with `where`, such as "train". A
    field that does not exist, a value of the wrong type or out of its range is an `OnespikeError`.
    """
    hints = get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise unknown("option", f"{where}.{key}", names_of(kind, where))
    return kind(**{key: convert(value, hints[key], f"{where}.{key}") for key, value in values.items()})


def convert(value: Any, hint: Any, where: str, or_null: str = "") -> Any:
    """Turn text, or what YAML or Python made of it, into a value of a type; another type is an `OnespikeError`.

    The type is as annotated, of unions those with None alone; lists become tuples, mappings dataclasses, where these
    are asked for. Messages call the value `where`, and say that `or_null` was expected too.
    """
    kind: Any = get_origin(hint) or hint
    arguments = get_args(hint)
    if kind in (Union, types.UnionType):
        (inner,) = (one for one in arguments if one is not type(None))
        return None if value in (None, "null") else convert(value, inner, where, " or null")
    if kind is Any:
        return _parsed(value) if isinstance(value, Text) else value
    if kind in (str, Path) and isinstance(value, str):
        return kind(value)
    config: type | None = kind if isinstance(kind, type) and is_dataclass(kind) else None
    if config and isinstance(value, config):
        return value
    parsed = _parsed(value)
    if kind is Literal:
        for one in arguments:
            if (one == value and isinstance(one, str)) or (one == parsed and type(one) is type(parsed)):
                return one
        raise unknown(where, value, map(str, arguments))
    if config:
        named = {"name": parsed} if isinstance(parsed, str) and "name" in get_type_hints(config) else parsed
        if not isinstance(named, Mapping):
            raise OnespikeError(f"{where}: expected keys and values{or_null}, got {value!r}")
        return make(config, named, where)
    if kind in (tuple, list) and isinstance(value, Text) and isinstance(parsed, str):  # as in a shell: a,b
        parsed = parsed.split(",")
    number = isinstance(parsed, int | float) and not isinstance(parsed, bool)
    if kind is float and isinstance(parsed, str):  # YAML takes 1e-3 for text
        with suppress(ValueError):
            return float(parsed)
    elif (number and kind in (float, type(parsed))) or (kind is bool and isinstance(parsed, bool)):
        return parsed
    elif kind in (tuple, list) and isinstance(parsed, list | tuple):
        inner = [arguments[0]] * len(parsed) if kind is list or arguments[1:] == (...,) else list(arguments)
        if len(inner) == len(parsed):
            return kind(convert(one, each, where) for one, each in zip(parsed, inner, strict=True))
    elif kind is dict and isinstance(parsed, Mapping):
        return {convert(key, str, where): convert(one, arguments[1], f"{where}.{key}") for key, one in parsed.items()}
    raise OnespikeError(f"{where}: expected {_WORDS.get(kind, kind)}{or_null}, got {value}")


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay changes over values; mappings inside are merged, and a name alone starts a nested config anew."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, str):
            before = {"name": before}
        merged[key] = merge(before, value) if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    return merged


def plain(config: Any) -> Any:
    """A config as YAML and JSON have it: every value, lists for tuples, mappings for nested configs."""
    if is_dataclass(config):
        return {field.name: plain(getattr(config, field.name)) for field in fields(config)}
    if isinstance(config, dict):
        return {key: plain(one) for key, one in config.items()}
    return [plain(one) for one in config] if isinstance(config, tuple | list) else config


def flat(config: Any, prefix: str) -> dict[str, Any]:
    """A config's values by their whole names, such as "model.neuron.decay"."""
    found: dict[str, Any] = {}
    for key, value in vars(config).items():
        found |= flat(value, f"{prefix}.{key}") if is_dataclass(value) else {f"{prefix}.{key}": plain(value)}
    return found


def names_of(kind: type, prefix: str) -> list[str]:
    """All names that a config's values can be given by, those of nested configs included."""
    found = []
    for key, hint in get_type_hints(kind).items():
        found.append(f"{prefix}.{key}")
        if isinstance(hint, type) and is_dataclass(hint):
            found += names_of(hint, f"{prefix}.{key}")
    return found


def read_yaml(text: str, where: object) -> Any:
    """Read YAML; what is none is an `OnespikeError`."""
    try:
        return yaml.safe_load(text)
    except _NOT_YAML as error:
        raise OnespikeError(f"{where}: cannot be read as YAML: {' '.join(str(error).split())}") from None


def _parsed(value: Any) -> Any:
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except _NOT_YAML:
        return value
