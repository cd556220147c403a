"""`onespike search`."""

import sys
from pathlib import Path
from typing import Any, Literal

from onespike.cli.command import Overrides
from onespike.errors import OnespikeError
from onespike.terminal import person


def search(
    overrides: Overrides,
    recipe: str = "digits",
    space: Path | None = None,
    out: Path | None = None,
    trials: int = 20,
    workers: int = 1,
    energy: Literal["", "field", "int8", "memory"] = "",
    storage: str | None = None,
) -> int:
    """Search for the values of a recipe's options with the best accuracy on the held-out images.

    Trials are run folders in --out; search.html there has the pictures, and the command that trains the best. The same
    command goes on where it was stopped; on several machines that share a --storage, it shares the work.

    Args:
        overrides: Values of the recipe that all trials have.
        recipe: A YAML file, or a recipe of the package, that each trial changes.
        space: A YAML file with the options to choose, and what each may be.
        out: Folder of the search, new or that of the same search.
        trials: Number of trials to train, pruned ones included.
        workers: Processes that train at the same time.
        energy: Search for low energy, too, by this convention of the audit: the result is the front of both.
        storage: URL of a database, such as postgresql://user:password@host/name; by default a file in --out.
    """
    from onespike.search.report import PAGE, best_of, command_of, describe, words_of
    from onespike.search.search import search as search_for

    if space is None or out is None:
        raise OnespikeError("expected a space and a folder: onespike search --space FILE --out FOLDER")
    console = person()
    options: dict[str, Any] = {"trials": trials, "workers": workers, "energy": energy, "storage": storage}
    try:
        found = search_for(
            recipe, space, out, overrides=overrides, say=lambda one: console.print(describe(one)), **options
        )
    except KeyboardInterrupt:
        print(f"stopped; what is done is kept in {out}: the same command goes on", file=sys.stderr)
        return 130
    common = words_of(recipe, overrides)
    console.print(f"\n{'the front' if energy else 'the best'}; no test image was looked at to choose:")
    for one in best_of(found):
        console.print(describe(one))
        console.print(f"    {command_of(one, common)}")
    console.print(f"\nthe report is {out / PAGE}")
    return 0
