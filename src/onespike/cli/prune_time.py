"""`onespike prune-time`."""

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from onespike.errors import OnespikeError
from onespike.training.loop import Stopped
from onespike.training.pruning import prune_time
from onespike.training.recipe import option_value, parse, recipe_names, recipe_path, to_recipe


def run(arguments: Sequence[str]) -> int:
    """Train at T time steps, then from those weights at T - 1, … down to one.

    Args:
        arguments: The command line behind `onespike prune-time`.

    Returns:
        The exit code.
    """
    parser = ArgumentParser(
        prog="onespike prune-time",
        usage="onespike prune-time --recipe RECIPE --from T --out FOLDER [options]",
        description="Temporal pruning: train at T time steps, then from the best weights at T - 1, … down to one. "
        "FOLDER receives one run folder for each; the same command again goes on where it stopped.",
        exit_on_error=False,
    )
    parser.add_argument(
        "--recipe", type=str, default="digits", help=f"a YAML file, or one of: {', '.join(recipe_names())}"
    )
    parser.add_argument("--from", type=int, default=4, help="time steps to begin with")
    parser.add_argument("--out", type=str | None, help="folder for the run folders T4, T3, …")
    file = recipe_path(option_value(arguments, "--recipe") or parser.get_defaults().recipe)
    values = parse(parser, arguments, file)
    if not values.out:
        raise OnespikeError("expected a folder for the runs: onespike prune-time --recipe RECIPE --from T --out FOLDER")
    try:
        summaries = prune_time(to_recipe(values), values["from"], values.out)
    except Stopped:
        print("stopped and saved; the same command goes on", file=sys.stderr)
        return 130
    table = Table("time steps", box=None, pad_edge=False, header_style="dim")
    for column in ("test top-1", "held out", "seconds"):
        table.add_column(column, justify="right")
    for steps, summary in summaries.items():
        held_out = summary["valid_top1"]
        table.add_row(
            str(steps),
            f"{summary['test_top1']:.2f}%",
            "-" if held_out is None else f"{held_out:.2f}%",
            f"{summary['seconds']:.0f}",
        )
    Console(highlight=False).print(table)
    return 0
