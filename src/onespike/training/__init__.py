"""Training: recipes, the loop, checkpoints, run folders."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onespike.training.callbacks import Callback, Pruning, Step
    from onespike.training.config import TrainConfig
    from onespike.training.loop import Diverged, Stopped, train
    from onespike.training.recipe import Recipe, load_recipe, recipe_names
    from onespike.training.run import Run, load

__all__ = [
    "Callback",
    "Diverged",
    "Pruning",
    "Recipe",
    "Run",
    "Step",
    "Stopped",
    "TrainConfig",
    "load",
    "load_recipe",
    "recipe_names",
    "train",
]

#: Where the names live; torch is imported only when one of them is asked for.
_HOMES = {
    **dict.fromkeys(("Callback", "Pruning", "Step"), "callbacks"),
    **dict.fromkeys(("Diverged", "Stopped", "train"), "loop"),
    **dict.fromkeys(("Recipe", "load_recipe", "recipe_names"), "recipe"),
    **dict.fromkeys(("Run", "load"), "run"),
    "TrainConfig": "config",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"onespike.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
