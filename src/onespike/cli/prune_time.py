"""`onespike prune-time`."""

import sys
from pathlib import Path

from onespike.cli.command import Overrides
from onespike.errors import OnespikeError
from onespike.terminal import person, plain_table


def prune_time(overrides: Overrides, recipe: str = "digits", from_: int = 4, out: Path | None = None) -> int:
    """Train at T time steps, then from the best weights at T - 1, … down to one (temporal pruning).

    FOLDER receives one run folder for each; the same command again goes on where it stopped.

    Args:
        overrides: Values of the recipe.
        recipe: A YAML file, or a recipe of the package.
        from_: Time steps to begin with.
        out: Folder for the run folders T4, T3, …
    """
    from accelerate.state import PartialState

    from onespike.training import Stopped, load_recipe
    from onespike.training.pruning import prune_time

    if out is None:
        raise OnespikeError("expected a folder for the runs: onespike prune-time --recipe RECIPE --from T --out FOLDER")
    if given := {"model.time_steps", "data.frames"} & {*overrides}:
        raise OnespikeError(f"--{min(given)}: the time steps go from --from {from_} down to one; leave it out")
    try:
        summaries = prune_time(load_recipe(recipe, overrides), from_, out)
    except Stopped:
        print("stopped and saved; the same command goes on", file=sys.stderr)
        return 130
    except KeyboardInterrupt:  # in the test of a stage, or the second one
        print("the same command goes on", file=sys.stderr)
        raise
    if not PartialState().is_main_process:
        return 0
    table = plain_table("time steps", ">test top-1", ">held out", ">seconds")
    for steps, summary in summaries.items():
        held_out = "-" if summary["valid_top1"] is None else f"{summary['valid_top1']:.2f}%"
        table.add_row(str(steps), f"{summary['test_top1']:.2f}%", held_out, f"{summary['seconds']:.0f}")
    person().print(table, soft_wrap=False)
    return 0
