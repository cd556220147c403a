"""Temporal pruning: a network is trained at T time steps, then from those weights at T - 1, and so on down to one.

Chowdhury, Rathi and Roy, "Towards Ultra Low Latency Spiking Neural Networks for Vision and Sequential Tasks Using
Temporal Pruning", ECCV 2022.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from onespike.errors import OnespikeError
from onespike.training.loop import train
from onespike.training.recipe import Recipe, differences
from onespike.training.run import Run


def prune_time(recipe: Recipe, first: int, out: str | Path) -> dict[int, dict[str, Any]]:
    """Train at `first` time steps, then at one less from the best weights, … down to one. Called again, it goes on.

    Args:
        recipe: Data, model and training of every stage; its number of time steps does not matter.
        first: Time steps T to begin with, at least 2.
        out: Folder for the run folders T4, T3, …

    Returns:
        The summary of each stage by its time steps.

    Raises:
        OnespikeError: `first` is out of its range, or a folder holds the run of another recipe.
        Stopped: Somebody stopped it; a checkpoint was saved.
    """
    if first < 2:
        raise OnespikeError(f"from: expected at least 2 time steps to prune, got {first}")
    if not hasattr(recipe.model, "time_steps"):
        raise OnespikeError(
            f"prune-time: {recipe.model.name} has no time steps to choose; expected a model such as conv12"
        )
    stages = {
        steps: (
            replace(recipe, model=replace(recipe.model, time_steps=steps)),
            Run(Path(out) / f"T{steps}"),
        )
        for steps in range(first, 0, -1)
    }
    for stage, run in stages.values():
        changed = differences(Run.open(run.folder).recipe, stage) if run.config.is_file() else []
        if changed:
            raise OnespikeError(
                f"{run.folder} holds the run of another recipe: {'; '.join(changed)}; choose another --out"
            )
    summaries: dict[int, dict[str, Any]] = {}
    before: Run | None = None
    for steps, (stage, run) in stages.items():
        if not run.is_complete:
            train(stage, run.folder, resume=run.config.is_file(), init_from=before.folder if before else None)
        summaries[steps] = run.summary or {}
        before = run
    return summaries
