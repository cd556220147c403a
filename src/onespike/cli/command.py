"""From a function to a command: its parameters become options, its docstring their help.

Values of a recipe, such as `--train.epochs 3`, are passed on as they are typed; only the recipe knows what is valid.
"""

import argparse
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring

from onespike.classpath import allow_imports, trust
from onespike.configs import Text, convert
from onespike.conversion.config import Calibration, ConversionConfig
from onespike.data.config import DataConfig
from onespike.errors import OnespikeError, shown, unknown
from onespike.training.config import TrainConfig

#: Values of a recipe by their whole names, as text: what a command function's parameter `overrides` receives.
Overrides = dict[str, Text]
#: What the help of each command adds about its parameter `run`.
SHARED = "Or pretrained:NAME, of the package, or hub:USER/NAME, of the Hub: what would go into the run folder goes to "
SHARED += "pretrained-NAME or hub-USER/NAME here."
#: What holds where a command line says nothing, for a command that goes by a recipe, and for one that reads a run.
BY_RECIPE = "the recipe's values come before these defaults"
BY_RUN = {
    "data": "by default those of the run, if there is one",
    "train": "by default those of the recipe cifar10/finetune",
}


def call(function: Callable[..., int], arguments: Sequence[str], usage: str, sections: Sequence[str] = ()) -> int:
    """Call a command's function with the arguments after the command's name; returns its exit code.

    Parameters without a default, and positional-only ones, are positional; the others are options. A list takes one
    word or more. A parameter `overrides` receives a recipe's values in `sections`. A parameter that is annotated with a
    config has an option for each field, and receives those that are given. The usage is such as "onespike evaluate
    RUN". An unknown option, a missing value or one of the wrong type, and a missing argument are an `OnespikeError`.
    """
    parameters, hints = dict(inspect.signature(function).parameters), get_type_hints(function)
    takes_overrides = parameters.pop("overrides", None) is not None
    configs = {name: hints[name] for name in parameters if is_dataclass(hints[name])}
    parser = _Parser(usage=f"{usage} [options]", allow_abbrev=False)
    parser.description, texts = documented(function)
    if "run" in texts and usage.startswith("onespike"):  # benchmarks write nothing into run folders
        texts["run"] += f" {SHARED}"
    for name, parameter in parameters.items():
        if name in configs:
            _add_options(parser, configs[name])
        elif parameter.default is parameter.empty or parameter.kind is parameter.POSITIONAL_ONLY:
            kind = _kind(hints[name], name) | ({} if parameter.default is parameter.empty else {"nargs": "?"})
            parser.add_argument(name, metavar=name.upper(), help=texts.get(name, "").replace("%", "%%"), **kind)
        else:
            _add_option(parser, name, hints[name], parameter.default, texts.get(name, ""))
            parser.set_defaults(**{name: parameter.default})  # for functions that take any names
    about = "A module to import, whose classes a recipe or a run names."
    parser.add_argument("--import", dest=argparse.SUPPRESS, default=argparse.SUPPRESS, metavar="MODULE", help=about)
    overrides, modules, rest = _split(arguments, sections, parser)
    if takes_overrides and {"-h", "--help"} & set(arguments):
        _describe_sections(parser, sections, by_recipe="recipe" in parameters)
    values, others = parser.parse_known_args(rest)
    for other in others:
        if other.startswith("--"):
            raise unknown("option", other.split("=")[0], _options(parser, sections))
        raise OnespikeError(f"unexpected {other!r}: {usage}")
    trust(*(path.rpartition(".")[0] for key, path in overrides.items() if key.partition(".")[2] == "class_path"))
    allow_imports(*modules)
    given = vars(values)
    for name, config in configs.items():
        given[name] = {field.name: given.pop(field.name) for field in fields(config) if field.name in given}
    first = [given.pop(name) for name, one in parameters.items() if one.kind is one.POSITIONAL_ONLY]
    return function(*first, **given, **({"overrides": overrides} if takes_overrides else {}))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Complain in one line; the command line prints it and exits with code 2."""
        message = message.replace("ignored explicit argument", "takes no value, got")
        missing = message.removeprefix("the following arguments are required: ")
        raise OnespikeError(f"expected {missing}: {self.usage}" if missing != message else message)


def documented(described: Any) -> tuple[str, dict[str, str]]:
    """A docstring's description, and its text for each argument."""
    docstring = parse_docstring(inspect.getdoc(described) or "")
    texts = {one.arg_name: " ".join((one.description or "").split()) for one in docstring.params}
    return " ".join(filter(None, [docstring.short_description, docstring.long_description])), texts


def _add_options(parser: Any, config: Any, prefix: str = "", with_defaults: bool = True) -> None:
    hints, (_, texts) = get_type_hints(config), documented(config)
    for one in fields(config):  # no instance is made: some need torch to be checked
        default = one.default if one.default_factory is MISSING else one.default_factory()
        text, default = texts.get(one.name, ""), default if with_defaults else None
        _add_option(parser, prefix + one.name, hints[one.name], default, text)


def _add_option(parser: Any, name: str, hint: Any, default: Any, text: str) -> None:
    """Add one option, which is absent from the parsed values unless it is given."""
    option = f"--{name.strip('_') if '.' in name else name.strip('_').replace('_', '-')}"
    is_said = default is not False and default not in (None, [], (), "")
    shown = f"{text} (default: {_typed(default)})" if is_said else text
    shown = shown.replace("%", "%%")  # which argparse takes for the start of a name
    common: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": shown}
    if hint is bool and "." not in name:
        parser.add_argument(option, action=argparse.BooleanOptionalAction, **common)
        return
    metavar = "true|false" if hint is bool else name.strip("_").rpartition(".")[2].upper()
    parser.add_argument(option, metavar=metavar, **_kind(hint, option), **common)


def _typed(default: Any) -> str:
    """A default as a command line has it: a list as words, a tuple in brackets."""
    if isinstance(default, tuple):
        return f"[{','.join(map(str, default))}]"
    return " ".join(map(str, default)) if isinstance(default, list) else str(default)


def _kind(hint: Any, where: str) -> dict[str, Any]:
    """What argparse makes of words for a type: a list takes one or more, X or None an X, so null is like any name."""
    kinds = [one for one in get_args(hint) if one is not NoneType]
    if get_origin(hint) is list:
        return {"nargs": "+", "type": partial(convert, hint=kinds[0], where=where)}
    optional = get_origin(hint) in (Union, UnionType) and len(kinds) == 1
    return {"type": partial(convert, hint=kinds[0] if optional else hint, where=where)}


def _split(words: Sequence[str], sections: Sequence[str], parser: _Parser) -> tuple[Overrides, list[str], list[str]]:
    """Split a command line's words into values of a recipe, modules to import, and the command's own arguments."""
    overrides, modules, rest = Overrides(), list[str](), list[str]()
    remaining = iter(words)
    for word in remaining:
        option, equals, value = word.partition("=")
        dotted = option.startswith("--") and "." in option
        if dotted and option[2:].split(".")[0] not in sections:
            raise unknown("option", option, _options(parser, sections))
        if not dotted and option != "--import":
            rest.append(word)
            continue
        behind = value if equals else next(remaining, None)
        if behind is None or (behind.startswith("--") and not equals):
            raise OnespikeError(f"{option[2:]}: expected a value behind {option}, got {shown(behind or 'nothing')}")
        if dotted:
            overrides[option[2:]] = Text(behind)
        else:
            modules.append(behind)
    return overrides, modules, rest


def _options(parser: _Parser, sections: Sequence[str]) -> list[str]:
    """All options that exist, for an error that names the nearest."""
    own = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    if not sections:
        return own
    from onespike.training.recipe import option_names

    return own + [f"--{name}" for name in option_names() if name.split(".")[0] in sections]


def _describe_sections(parser: _Parser, sections: Sequence[str], by_recipe: bool) -> None:
    """Add the recipe's options to the help; those of models need torch, and `onespike models` lists them."""
    kinds = {"data": DataConfig, "train": TrainConfig, "conversion": ConversionConfig, "calibration": Calibration}
    for section, kind in kinds.items():
        if section in sections:
            says = BY_RECIPE if by_recipe else BY_RUN.get(section, "")
            group = parser.add_argument_group("; ".join(filter(None, [f"{section} options", says])))
            _add_options(group, kind, f"{section}.", with_defaults=by_recipe or section not in BY_RUN)
    if "model" in sections:
        such = "such as --model.name conv12 or --model.class_path pkg.Net --model.init_args.width 64"
        parser.epilog = f"Options of the model, {such}: `onespike models NAME` lists those of a registered model."
    if "loss" in sections:
        parser.epilog = f"{parser.epilog} A loss of yours: --loss.class_path pkg.Loss --loss.init_args.scale 2."
