"""Configs: dataclasses made from plain values (YAML, JSON, the command line) and checked field by field."""

import json
import math
import re
import types
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import yaml
from typing_extensions import override

from onespike.durable import path_of, read_whole
from onespike.errors import OnespikeError, reason, shown, unknown

#: Names of types in messages.
_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
_WORDS |= {tuple: "a list such as [1, 2]", list: "a list such as [1, 2]", dict: "keys and values"}
_NOT_YAML = (yaml.YAMLError, RecursionError, ValueError, LookupError)
#: Largest file of YAML, in bytes; the integers that 64 bits hold.
_MOST_YAML, _WHOLE = 1 << 20, range(-(2**63), 2**63)
#: Most levels of lists and mappings in a file: functions that walk through them call themselves for each level.
_DEEPEST = 200


class Text(str):
    """A value as it was typed; it is read as YAML where the field's type does not tell what it is."""


def make(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """Make a dataclass from plain values by the names of its fields; the others keep their defaults.

    Text is read as YAML where the field holds something else. In messages, names begin with `where`, such as "train".
    An unknown field, or a value of the wrong type or out of its range, is an `OnespikeError`.
    """
    hints = _hints(kind)
    if not isinstance(values, Mapping):
        raise OnespikeError(f"{where}: expected keys and values, got {shown(values)}")
    for key in values:
        if key not in hints:
            raise unknown("option", f"{where}.{shown(key)}", names_of(kind, where))
    needed = [one.name for one in fields(kind) if one.default is MISSING and one.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise OnespikeError(f"{where}: {missing[0]} is missing")
    return kind(**{key: convert(value, hints[key], f"{where}.{key}") for key, value in values.items()})


def _hints(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, without its other annotations, such as a ClassVar."""
    hints = get_type_hints(kind)
    return {one.name: hints[one.name] for one in fields(kind)}


def check(config: Any, where: str = "", **ranges: tuple[float, float]) -> None:
    """Check a dataclass that anybody may have made: give its fields their types, as `make` does, and check ranges.

    Lists, and the numbers in them, are checked one by one. Both ends of a range are allowed; None always is.
    """
    before = f"{where}." if where else ""
    for key, hint in _hints(type(config)).items():
        value = convert(getattr(config, key), hint, f"{before}{key}")
        object.__setattr__(config, key, value)
        least, most = ranges.get(key, (-math.inf, math.inf))
        for number in value if isinstance(value, tuple) else (value,):
            if key in ranges and number is not None and not least <= number <= most:
                expected = f"at least {least:g}" if number < least else f"at most {most:,}"
                raise OnespikeError(f"{before}{key}: expected {expected}, got {shown(number)}")


def convert(value: Any, hint: Any, where: str, or_null: str = "") -> Any:
    """Convert text, or what YAML or Python made of it, to a type; a value of another type is an `OnespikeError`.

    The type is as annotated; of unions, only those with None are known. Lists become tuples, and mappings dataclasses,
    where these are asked for. Messages call the value `where`, and say that `or_null` was expected too.
    """
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        inner, *others = (one for one in arguments if one is not type(None))
        if others:
            raise OnespikeError(f"{where}: its type is {hint}; expected one type, or one type or None")
        is_none = isinstance(value, str | None) and value in (None, "null")
        return None if is_none else convert(value, inner, where, " or null")
    if kind is Any:
        return _untyped(value)
    if kind in (str, Path) and isinstance(value, str | Path) and "\0" not in str(value):
        return str(value) if kind is str else path_of(value)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, kind):
        return value
    parsed = value.item() if isinstance(value, np.generic) else _parsed(value)
    if kind is Literal:
        for one in arguments:
            if (one == value and isinstance(one, str)) or (one == parsed and type(one) is type(parsed)):
                return one
        raise unknown(where, shown(value), map(str, arguments))
    if kind is bool and isinstance(parsed, bool):
        return parsed
    if isinstance(value, Text) and isinstance(parsed, str) and kind in (tuple, list):  # as in a shell: a,b
        parsed = parsed.split(",")
    found = _number(parsed, kind, value, where) if kind in (int, float) else _nested(parsed, kind, arguments, where)
    if found is None:
        expected = "keys and values" if is_dataclass(kind) else _WORDS.get(kind, kind)
        raise OnespikeError(f"{where}: expected {expected}{or_null}, got {shown(value)}")
    return found


def _number(parsed: Any, kind: type, value: Any, where: str) -> Any:
    """A finite number of this type, of at most 64 bits, that was given as `value`; None for what is no number."""
    number: Any = parsed
    if kind is float and isinstance(parsed, str) and parsed.isascii() and "_" not in parsed:
        with suppress(ValueError):  # 010 or inf, say, which `read_yaml` takes for a text
            number = float(parsed)
    if isinstance(number, bool) or not isinstance(number, int | float) or (kind is int and type(number) is not int):
        return None
    if isinstance(number, int) and number not in _WHOLE:
        raise OnespikeError(f"{where}: expected {_WORDS[kind]} of less than 2^63, got {shown(value)}")
    if not math.isfinite(number):
        raise OnespikeError(f"{where}: expected a finite number, got {shown(value)}")
    return number


def _nested(parsed: Any, kind: Any, arguments: tuple[Any, ...], where: str) -> Any:
    """A list, mapping or dataclass, with its values converted; None for a value that is no such thing."""
    if isinstance(kind, type) and is_dataclass(kind):
        named = {"name": parsed} if isinstance(parsed, str) and "name" in _hints(kind) else parsed
        return make(kind, named, where) if isinstance(named, Mapping) else None
    if kind in (tuple, list) and isinstance(parsed, list | tuple):
        inner = [arguments[0]] * len(parsed) if kind is list or arguments[1:] == (...,) else list(arguments)
        if len(inner) == len(parsed):
            return kind(convert(one, each, where) for one, each in zip(parsed, inner, strict=True))
    if kind is dict and isinstance(parsed, Mapping):
        if not arguments:
            return dict(parsed)
        return {convert(key, str, where): convert(one, arguments[1], f"{where}.{key}") for key, one in parsed.items()}
    return None


def _untyped(value: Any) -> Any:
    """A value of any type, with the texts of options in it as YAML reads them, and nothing that YAML cannot write."""
    if isinstance(value, Mapping):
        return {key: _untyped(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_untyped(one) for one in value)
    if isinstance(value, Text):
        parsed = _parsed(value)
        return str(parsed) if isinstance(parsed, str) else parsed
    return value.item() if isinstance(value, np.generic) else str(value) if isinstance(value, Path) else value


def expect_keys(content: Any, kinds: Mapping[str, Any], where: str) -> None:
    """Raise an `OnespikeError` unless a mapping has these keys, with values of these types; it may have more keys."""
    if not isinstance(content, Mapping):
        raise OnespikeError(f"{where}: expected keys and values, got {shown(content)}")
    for key, kind in kinds.items():
        if key not in content:
            raise OnespikeError(f"{where}: {key} is missing")
        found = convert(content[key], kind, f"{where}: {key}")
        if isinstance(content[key], str) and isinstance(found, int | float):  # options' text may say 5
            raise OnespikeError(f"{where}: {key}: expected a number, got the text {shown(content[key])}")


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge changes into values; nested mappings are merged, too, also as text, and a name alone changes the name."""
    merged = dict(base)
    for key, value in changes.items():
        before = plain(merged.get(key))
        if isinstance(value, Mapping) and isinstance(before, str):
            before = _as_mapping(before, {"name": before})
        elif isinstance(before, Mapping) and isinstance(value, str):
            value = _as_mapping(value, value)
        if isinstance(before, Mapping) and "name" in before and is_name(value):
            value = {"name": value}
        merged[key] = merge(before, value) if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    return merged


def _as_mapping(text: str, otherwise: Any) -> Any:
    """The mapping that a text is in YAML, such as `{threshold: 0.4}`, or what it is otherwise."""
    return parsed if isinstance(parsed := _parsed(text), Mapping) else otherwise


def is_name(value: Any) -> bool:
    """Whether a value, such as an option's text, is a name, and no mapping or other value in YAML."""
    return isinstance(value, str) and isinstance(_parsed(value), str)


def plain(config: Any) -> Any:
    """A config as YAML and JSON have it: every value, lists for tuples, mappings for nested configs."""
    if is_dataclass(config):
        return {field.name: plain(getattr(config, field.name)) for field in fields(config)}
    if isinstance(config, dict):
        return {key: plain(one) for key, one in config.items()}
    return [plain(one) for one in config] if isinstance(config, tuple | list) else config


def expect_plain(config: Any, where: str) -> None:
    """Raise an `OnespikeError` unless JSON and YAML hold all values of a config: a file is to give them back."""
    try:
        _shallow(json.loads(json.dumps(plain(config)), parse_constant=_finite, parse_float=_finite))
        yaml.safe_dump(plain(config))  # an Enum's members are texts to JSON alone
    except (TypeError, ValueError, RecursionError, yaml.YAMLError) as error:
        expected = "expected finite numbers, text, True, False, None, or lists and dictionaries of these"
        raise OnespikeError(f"{where}: {reason(error)}; {expected}") from error


def flat(config: Any, prefix: str) -> dict[str, Any]:
    """A config's values by their whole names, such as "model.neuron.decay"."""
    found: dict[str, Any] = {}
    for key, value in vars(config).items():
        found |= flat(value, f"{prefix}.{key}") if is_dataclass(value) else {f"{prefix}.{key}": plain(value)}
    return found


def names_of(kind: type, prefix: str) -> dict[str, Any]:
    """All names that a config's values can be given by, those of nested configs included, and their types."""
    found: dict[str, Any] = {}
    for key, hint in _hints(kind).items():
        found[f"{prefix}.{key}"] = hint
        if isinstance(hint, type) and is_dataclass(hint):
            found |= names_of(hint, f"{prefix}.{key}")
    return found


def read_yaml(path: Path) -> Any:
    """Read a YAML file of plain values, no key twice, no aliases; anything else is an `OnespikeError`."""
    try:
        return _shallow(yaml.load(read_whole(path, _MOST_YAML).decode(), _Plain))
    except OSError as error:
        raise OnespikeError(f"{path}: {error.strerror or error}; expected a YAML file") from None
    except _NOT_YAML as error:
        raise OnespikeError(f"{path}: cannot be read as YAML: {reason(error)}") from None


def read_json(content: bytes, where: object) -> Any:
    """Read JSON with finite numbers; anything else is an `OnespikeError`."""
    try:
        return _shallow(json.loads(content, parse_constant=_finite, parse_float=_finite))
    except (ValueError, RecursionError) as error:
        raise OnespikeError(f"{where}: cannot be read as JSON: {error}") from None


def _shallow(content: Any) -> Any:
    """Return what was read; a ValueError if it has too many levels."""
    level, depth = [content], 0
    while level := [one for one in level if isinstance(one, list | dict)]:
        if (depth := depth + 1) > _DEEPEST:
            raise ValueError(f"more than {_DEEPEST} levels of lists and mappings")
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return content


class _Plain(yaml.SafeLoader):
    """Reads only what JSON has, too: a few bytes of aliases make gigabytes, and a duplicate key loses a value."""

    @override
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"an alias{self.peek_event().start_mark}: write its value out")
        return super().compose_node(parent, index)

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if key.value in seen if isinstance(key, yaml.ScalarNode) else True:
                raise yaml.YAMLError(f"the key {shown(key.value)} twice, or no text{key.start_mark}")
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        """YAML 1.1 reads 1:2:3 as 3,723 seconds, 1_0 as 10, and 010 as 8; here they stay text."""
        if isinstance(node.value, str) and re.search(r"[:_]|^[-+]?0\d", node.value):
            return node.value
        return yaml.SafeLoader.yaml_constructors[node.tag](self, node)


_TAG = "tag:yaml.org,2002:"
_KINDS = {None} | {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "seq", "map", "str")}
_Plain.yaml_constructors = {tag: one for tag, one in yaml.SafeLoader.yaml_constructors.items() if tag in _KINDS}
_Plain.yaml_constructors |= dict.fromkeys((f"{_TAG}int", f"{_TAG}float"), _Plain.construct_number)
_Plain.yaml_implicit_resolvers = {  # dates stay text
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _KINDS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Writer(yaml.SafeDumper):
    """Puts what `_Plain` would read as a number, and YAML 1.1 would not, into quotes."""


for _each in (_Plain, _Writer):  # 1e-3 and 1.5e3 are numbers, as in JSON; YAML 1.1 wants 1.0e-3 and 1.5e+3
    _each.add_implicit_resolver(f"{_TAG}float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), "-+.0123456789")


def write_yaml(content: Any) -> str:
    """Plain values as YAML, in their order, as `read_yaml` gives them back."""
    written: str = yaml.dump(content, Dumper=_Writer, sort_keys=False)
    return written


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is no finite number")
    return float(number)


def _parsed(value: Any) -> Any:
    try:
        return yaml.load(value, _Plain) if isinstance(value, str) else value
    except _NOT_YAML:
        return value
