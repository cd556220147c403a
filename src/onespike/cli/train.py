"""`onespike train`."""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from onespike.classpath import command
from onespike.cli.command import Overrides
from onespike.errors import OnespikeError

if TYPE_CHECKING:
    from onespike.training import Run
    from onespike.training.recipe import Recipe


def train(
    overrides: Overrides,
    recipe: str | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    init_from: Path | None = None,
    quiet: bool = False,
) -> int:
    """Train a network, or go on with a run that was interrupted.

    Values come from the model, then the recipe, then the options below.

    Args:
        overrides: Values of the recipe.
        recipe: A YAML file, or a recipe of the package such as digits or cifar10/conv12; by default that of the run to
            start from, or else digits.
        out: Run folder, new or empty; by default runs/RECIPE-TIME. Several processes have no default.
        resume: Run folder of an interrupted run, to go on with it.
        init_from: Run folder, pretrained:NAME or hub:USER/NAME, whose best weights the network starts from.
        quiet: Print nothing.
    """
    from onespike.training import Run, load_recipe
    from onespike.training.idle import warn_of_idle

    if resume is not None:
        for option, value in (("recipe", recipe), ("out", out), ("init-from", init_from)):
            if value is not None:
                raise OnespikeError(f"--resume goes on with a run as it is: leave out --{option}")
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if resume is out is None and not alone:  # each process would name its own folder, by its clock
        raise OnespikeError("--out: expected a run folder, which several processes share")
    resumed, start = (Run.open(one) if one else None for one in (resume, init_from))
    own = resumed or (start if recipe is None else None)  # a run whose recipe is the one to go by
    base = own.config if own else "digits" if recipe is None else recipe
    folder = out or _folder(Path(own.name).resolve().name if own else str(base))
    chosen = load_recipe(base, overrides, start.recipe if start else None)
    warn_of_idle(overrides, chosen)
    return fit(chosen, resumed or Run(folder), resume is not None, start, quiet)


def fit(recipe: "Recipe", run: "Run", resume: bool = False, init_from: "Run | None" = None, quiet: bool = False) -> int:
    """Train into a run folder, and say how to go on if it is stopped; returns the exit code."""
    from onespike.training import Stopped, train

    try:
        train(recipe, run, resume, init_from, quiet=quiet)
    except Stopped:
        print(f"stopped and saved; go on with: {command('train', '--resume', run.folder)}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:  # in the test, perhaps of a teacher that is trained first; or the second one
        if run.config.is_file() and not run.is_complete:
            print(f"go on with: {command('train', '--resume', run.folder)}", file=sys.stderr)
        raise
    return 0


def _folder(recipe: str) -> Path:
    name = Path(recipe).with_suffix("").name if recipe.endswith((".yaml", ".yml")) else recipe
    return Path("runs") / f"{name.replace('/', '-')}-{datetime.now():%Y%m%d-%H%M%S}"
