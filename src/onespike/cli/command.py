"""From a function to a command: its parameters become options, its docstring their help.

Values of a recipe, such as `--train.epochs 3`, are passed on as they stand; only the recipe knows what they may be.
"""

import argparse
import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring

from onespike.classpath import allow_imports, trust
from onespike.configs import Text, convert
from onespike.data.config import DataConfig
from onespike.errors import OnespikeError, unknown
from onespike.training.config import TrainConfig

#: Values of a recipe by their whole names, as text: what a command function's parameter `overrides` receives.
Overrides = dict[str, Text]


def call(function: Callable[..., int], arguments: Sequence[str], usage: str, sections: Sequence[str] = ()) -> int:
    """Call a command's function with what a command line says.

    Args:
        function: Parameters without a default are positional, positional-only ones too, the others options. A parameter
            `overrides` receives the values of a recipe; one that is annotated with a config has an option for
            each of its fields, and receives those that are given.
        arguments: The command line behind the command's name.
        usage: Such as "onespike evaluate RUN".
        sections: Sections of a recipe whose values the command takes.

    Returns:
        What the function returns, the exit code.

    Raises:
        OnespikeError: An option does not exist, has no value or one of the wrong type, or something is missing.
    """
    parameters = dict(inspect.signature(function).parameters)
    takes_overrides = parameters.pop("overrides", None) is not None
    parser = _Parser(usage=f"{usage} [options]", allow_abbrev=False)
    hints = get_type_hints(function)
    configs = {name: kind for name in parameters if is_dataclass(kind := hints[name])}
    _describe(parser, function, {name: one for name, one in parameters.items() if name not in configs}, hints)
    flags = [name for name in parameters if hints[name] is bool]
    for kind in configs.values():
        flags += _add_config(parser, kind)
    overrides, modules, rest = _split(arguments, sections, flags, parser)
    if takes_overrides and {"-h", "--help"} & set(arguments):
        _describe_sections(parser, sections)
    values, others = parser.parse_known_args(rest)
    for other in others:
        if other.startswith("--"):
            raise unknown("option", other.split("=")[0], _options(parser, sections))
        raise OnespikeError(f"unexpected {other!r}: {usage}")
    for section in sections:
        trust(*(path.rpartition(".")[0] for key, path in overrides.items() if key == f"{section}.class_path"))
    allow_imports(*modules)
    given = vars(values)
    for name, kind in configs.items():
        given[name] = {field.name: given.pop(field.name) for field in fields(kind) if field.name in given}
    first = [given.pop(name) for name, one in parameters.items() if one.kind is one.POSITIONAL_ONLY]
    return function(*first, **given, **({"overrides": overrides} if takes_overrides else {}))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Complain in one line; the command line prints it and exits with code 2."""
        missing = message.removeprefix("the following arguments are required: ")
        raise OnespikeError(f"expected {missing}: {self.usage}" if missing != message else message)


def _describe(parser: _Parser, function: Callable[..., int], parameters: dict[str, Any], hints: dict[str, Any]) -> None:
    """Add an argument for each parameter."""
    docstring = parse_docstring(inspect.getdoc(function) or "")
    texts = {one.arg_name: " ".join((one.description or "").split()) for one in docstring.params}
    parser.description = " ".join(filter(None, [docstring.short_description, docstring.long_description]))
    for name, parameter in parameters.items():
        hint, text = hints[name], texts.get(name, "").replace("%", "%%")
        missing, optional = parameter.default is inspect.Parameter.empty, parameter.kind is parameter.POSITIONAL_ONLY
        if missing or optional:
            count = "?" if optional and not missing else None
            kind = partial(_value, hint=hint, option=name)
            parser.add_argument(name, metavar=name.upper(), help=text, type=kind, nargs=count)
            continue
        option = f"--{name.strip('_').replace('_', '-')}"
        several = get_origin(hint) is list
        inner = get_args(hint)[0] if several else hint
        shown = f" (default: {parameter.default})" if parameter.default not in (None, [], False) else ""
        parser.add_argument(
            option,
            dest=name,
            default=parameter.default,
            nargs="+" if several else None,
            metavar="true|false" if hint is bool else name.strip("_").upper(),
            type=partial(_value, hint=inner, option=option),
            help=text + shown,
        )
    about = "import a module whose classes a recipe or a run names"
    parser.add_argument("--import", dest=argparse.SUPPRESS, default=argparse.SUPPRESS, metavar="MODULE", help=about)


def _add_config(parser: _Parser, kind: Any) -> list[str]:
    """Add an option for each field of a config; gives the names of those that are flags."""
    texts = {one.arg_name: " ".join((one.description or "").split()) for one in parse_docstring(kind.__doc__).params}
    hints, flags = get_type_hints(kind), []
    for name, default in vars(kind()).items():
        option = f"--{name.replace('_', '-')}"
        flags += [name] if hints[name] is bool else []
        parser.add_argument(
            option,
            dest=name,
            default=argparse.SUPPRESS,
            metavar="true|false" if hints[name] is bool else name.upper(),
            type=partial(_value, hint=hints[name], option=option),
            help=f"{texts[name]} (default: {default})".replace("%", "%%"),
        )
    return flags


def _value(text: str, hint: Any, option: str) -> Any:
    return convert(text, hint, option)


def _split(
    arguments: Sequence[str], sections: Sequence[str], flags: Sequence[str], parser: _Parser
) -> tuple[Overrides, list[str], list[str]]:
    """Part a command line into values of a recipe, modules to import, and what is the command's own."""
    overrides: Overrides = {}
    modules: list[str] = []
    rest: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        option, equals, value = argument.partition("=")
        dotted = option.startswith("--") and "." in option
        if dotted and option[2:].split(".")[0] not in sections:
            raise unknown("option", option, _options(parser, sections))
        if not dotted and option != "--import":
            rest.append(argument)
            is_flag = option.startswith("--") and option[2:].replace("-", "_") in flags and not equals
            if is_flag and (not remaining or remaining[0] not in ("true", "false")):
                rest[-1] = f"{option}=true"
            continue
        if not equals:
            if not remaining:
                raise OnespikeError(f"{option[2:]}: expected a value behind {option}")
            value = remaining.pop(0)
        if dotted:
            overrides[option[2:]] = Text(value)
        else:
            modules.append(value)
    return overrides, modules, rest


def _options(parser: _Parser, sections: Sequence[str]) -> list[str]:
    """All options that there are, for an error that names the nearest."""
    own = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    if not sections:
        return own
    from onespike.training.recipe import option_names

    return own + [f"--{name}" for name in option_names() if name.split(".")[0] in sections]


def _describe_sections(parser: _Parser, sections: Sequence[str]) -> None:
    """Add the recipe's options to the help; those of the models need torch, and have a command of their own."""
    for section, kind in (("data", DataConfig), ("train", TrainConfig)):
        if section not in sections:
            continue
        group = parser.add_argument_group(f"{section} options")
        texts = {one.arg_name: one.description or "" for one in parse_docstring(kind.__doc__ or "").params}
        for name, default in vars(kind()).items():
            text = f"{' '.join(texts[name].split())} (default: {default})".replace("%", "%%")
            group.add_argument(f"--{section}.{name}", metavar="VALUE", help=text)
    if "model" in sections:
        parser.epilog = (
            "Options of the model, such as --model.name conv12 or --model.class_path pkg.Net --model.init_args.width "
            "64: `onespike models NAME` lists those of a registered model."
        )
