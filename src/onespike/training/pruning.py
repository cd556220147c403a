"""Temporal pruning: a network is trained at T time steps, then from those weights at T - 1, and so on down to one.

Chowdhury, Rathi and Roy, "Towards Ultra Low Latency Spiking Neural Networks for Vision and Sequential Tasks Using
Temporal Pruning", ECCV 2022.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from onespike.configs import convert
from onespike.data.dataset import open_dataset
from onespike.data.sources import of_events
from onespike.durable import expect_writable, path_of
from onespike.errors import OnespikeError
from onespike.training.loop import complete
from onespike.training.recipe import Recipe, as_recipe
from onespike.training.run import Run


def at(recipe: Recipe, time_steps: int) -> Recipe:
    """The recipe with another number of time steps for its model, and of frames for a data set of events."""
    data = replace(recipe.data, frames=time_steps) if of_events(recipe.data) else recipe.data
    return replace(recipe, data=data, model=replace(recipe.model, time_steps=time_steps))


def prune_time(recipe: Recipe | str, first: int, out: str | Path) -> dict[int, dict[str, Any]]:
    """Train at `first` time steps, then at one less from the best weights, … down to one. Called again, it resumes.

    The recipe's own number of time steps does not matter. Run folders are T4, T3, … in `out`; returns each run's
    summary by its time steps. `first` below 2, or a folder with the run of another recipe, is an `OnespikeError`. If it
    is stopped, it raises `Stopped`, with a checkpoint saved; by Ctrl-C in a test, or a second one, KeyboardInterrupt.
    """
    recipe, out = as_recipe(recipe), path_of(out)
    if (first := convert(first, int, "from")) < 2:
        raise OnespikeError(f"from: expected at least 2 time steps to prune, got {first}")
    if not hasattr(recipe.model, "time_steps"):
        expected = "expected a model such as conv12"
        raise OnespikeError(f"prune-time: {recipe.model.name} has no time steps to choose; {expected}")
    stages = {steps: (at(recipe, steps), Run(out / f"T{steps}")) for steps in range(first, 0, -1)}
    waits = not all(run.is_complete for _, run in stages.values())
    if waits and recipe.data.class_path and open_dataset(recipe.data).of_events:
        found = "its recordings have as many frames, and so time steps, at every stage"
        raise OnespikeError(f"prune-time: data.class_path: {found}; expected a data set by its data.name")
    for stage, run in stages.values():  # all of them, before the first takes its hours
        expect_writable(folder=run.folder)
        if not run.has_begun(stage):
            run.expect_free()
        tested = run.summary if stage.data.is_by_root else None
        if tested and tested.get("test_set") not in (None, open_dataset(stage.data).test_set()):
            raise OnespikeError(f"{run.folder} was tested on other images than those of data.root; correct it")
    summaries: dict[int, dict[str, Any]] = {}
    before: Path | None = None
    for steps, (stage, run) in stages.items():
        summaries[steps] = complete(stage, run, before)
        before = run.folder
    return summaries
