"""Values that do nothing beside others: who sets one by hand expects that it matters, and is told that it does not."""

from collections.abc import Iterable, Iterator

from onespike.errors import warn
from onespike.training.recipe import Recipe


def warn_of_idle(given: Iterable[str], recipe: Recipe) -> None:
    """Warn of each value of a recipe that somebody has given, by its whole name, and that does nothing there."""
    idle = dict(_idle(recipe))
    for name in given:
        if why := idle.get(name):
            warn(f"{name} does nothing here: {why}")


def _idle(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Names of values that do nothing, and why."""
    data, train, model = recipe.data, recipe.train, recipe.model
    if not data.crop_padding:
        yield "data.crop_fill", "data.crop_padding is 0"
    if not train.teacher:
        yield "train.teacher_weight", "there is no train.teacher"
        yield "train.teacher_temperature", "there is no train.teacher"
    if recipe.loss is not None:
        if train.loss != "tet":  # by which networks answer each step
            yield "train.loss", "loss.class_path takes its place"
        if not train.mixup:
            yield "train.label_smoothing", "loss.class_path takes the place of the loss that it smooths"
    if not train.noise_range:
        yield "train.noise_limit", "there is no train.noise_range"
    if not train.warmup_epochs:
        yield "train.warmup_lr", "train.warmup_epochs is 0"
    if data.frames == 1 and data.representation != "timesurface":  # which looks at the time within its frame
        yield "data.frames_by", "data.frames is 1, and it holds all events"
    if train.loss == "tet" and getattr(model, "time_steps", None) == 1:
        yield "train.loss", "model.time_steps is 1"
    if hasattr(model, "neuron") and model.neuron.name == "relu":
        for key in ("threshold", "surrogate", "surrogate_width"):
            yield f"model.neuron.{key}", "relu has none"
    windows, fusion = getattr(model, "windows", None), getattr(model, "fusion", None)
    if windows is None or getattr(model, "unit", "conv") != "conv":
        return
    if windows in ("none", "average"):
        yield "model.region_threshold", f"model.windows is {windows}, and it is for dilated ones"
    if windows == "none":
        yield "model.fusion", "model.windows is none, so no potential is handed on"
    if "none" in (windows, fusion):
        yield "model.theta", "no potential is handed on"
        if model.time_steps == 1 and model.neuron.name != "plif":  # which weighs currents by it
            yield "model.neuron.decay", "no potential is handed on"
            yield "model.neuron.learnable_decay", "no potential is handed on"
