"""Training: recipes, the loop, checkpoints, run folders."""

from typing import TYPE_CHECKING

from onespike.lazy import lazy

if TYPE_CHECKING:
    from onespike.training.callbacks import Callback, Pruning, Step
    from onespike.training.config import TrainConfig
    from onespike.training.loop import Diverged, Stopped, train
    from onespike.training.recipe import Recipe, load_recipe, recipe_names
    from onespike.training.run import Run, load

__all__ = ["Callback", "Diverged", "Pruning", "Recipe", "Run", "Step", "Stopped", "TrainConfig"]
__all__ += ["load", "load_recipe", "recipe_names", "train"]

_HOMES = {
    **dict.fromkeys(("Callback", "Pruning", "Step"), "onespike.training.callbacks"),
    **dict.fromkeys(("Diverged", "Stopped", "train"), "onespike.training.loop"),
    **dict.fromkeys(("Recipe", "load_recipe", "recipe_names"), "onespike.training.recipe"),
    **dict.fromkeys(("Run", "load"), "onespike.training.run"),
    "TrainConfig": "onespike.training.config",
}
__getattr__, __dir__ = lazy(__name__, _HOMES)
