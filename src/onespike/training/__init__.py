"""Training: recipes, the loop, checkpoints, run folders."""

from onespike.training.config import Recipe, TrainConfig
from onespike.training.loop import Stopped, train
from onespike.training.recipe import load_recipe, recipe_names
from onespike.training.run import Run, load

__all__ = ["Recipe", "Run", "Stopped", "TrainConfig", "load", "load_recipe", "recipe_names", "train"]
