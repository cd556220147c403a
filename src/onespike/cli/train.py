"""`onespike train`."""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from onespike.errors import OnespikeError
from onespike.training.loop import Stopped, train
from onespike.training.recipe import option_value, parse, recipe_names, recipe_path, to_recipe
from onespike.training.run import Run


def run(arguments: Sequence[str]) -> int:
    """Train a network, or go on with a run that was interrupted.

    Args:
        arguments: The command line behind `onespike train`.

    Returns:
        The exit code.
    """
    parser = ArgumentParser(
        prog="onespike train",
        description="Train a network. Values come from the model, then the recipe, then the options below.",
        exit_on_error=False,
    )
    parser.add_argument(
        "--recipe", type=str, default="digits", help=f"a YAML file, or one of: {', '.join(recipe_names())}"
    )
    parser.add_argument("--out", type=str | None, help="run folder, new or empty; by default runs/RECIPE-TIME")
    parser.add_argument("--resume", type=str | None, help="run folder of an interrupted run, to go on with it")
    parser.add_argument("--init-from", type=str | None, help="run folder whose best weights the network starts from")
    resumed = option_value(arguments, "--resume")
    if resumed is not None:
        file = Run.open(Path(resumed)).config
    else:
        file = recipe_path(option_value(arguments, "--recipe") or parser.get_defaults().recipe)
    other = option_value(arguments, "--init-from")
    values = parse(parser, arguments, file, start=Run.open(Path(other)).config if other else None)
    if resumed is not None:
        for option in ("recipe", "out", "init_from"):
            if f"--{option.replace('_', '-')}" in (argument.split("=")[0] for argument in arguments):
                raise OnespikeError(f"--resume goes on with a run as it is: leave out --{option.replace('_', '-')}")
    folder = _folder(values)
    try:
        train(to_recipe(values), folder, resume=resumed is not None, init_from=values.init_from)
    except Stopped:
        print(f"stopped and saved; go on with: onespike train --resume {folder}", file=sys.stderr)
        return 130
    return 0


def _folder(values: Namespace) -> Path:
    if values.resume:
        return Path(values.resume)
    if values.out:
        return Path(values.out)
    name = Path(values.recipe).with_suffix("").name if values.recipe.endswith((".yaml", ".yml")) else values.recipe
    return Path("runs") / f"{name.replace('/', '-')}-{datetime.now():%Y%m%d-%H%M%S}"
