"""What a sweep trains: settings, each the base recipe with some values changed, each with several seeds."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_type_hints

from matplotlib.figure import Figure

from onespike.classpath import ClassPath
from onespike.errors import OnespikeError
from onespike.models import OnespikeConfig
from onespike.training.recipe import NO_MATTER, SECTIONS, Recipe, load_recipe, values_of
from onespike.training.run import Run

#: What rows change that were trained before images grew in the recipe of `FastSweep`.
FULL_SIZE: dict[str, Any] = {"train.start_size": 0, "train.weight_decay": 0.0}
#: What rows of our networks change that were trained before the recipe's stem was rectified and its head took means.
PLAIN: dict[str, Any] = {"model.stem": "whitening", "model.head": "or"}
#: Values of the recipe that the command of a sweep has an option of its own for.
OWN = {
    "train.epochs": "epochs",
    "data.limit": "limit",
    "model.channels": "channels",
    "train.precision": "precision",
    "train.seed": "seeds",
}
#: Options that a row's command leaves out: its network is the same without them.
_PLACES = NO_MATTER - {"model.preset"} | {"train.seed"}


@dataclass(frozen=True)
class Setting:
    """One row of a table.

    Attributes:
        group: What it is listed under: the factor that is varied, the data set, the unit.
        label: Its name in the group.
        overrides: What it changes in the base recipe, such as `{"model.theta": 0.3}`.
        published: The paper's test accuracy in percent, if there is one.
        start: The run whose best weights it starts from; None for fresh ones.
    """

    group: str
    label: str
    overrides: Mapping[str, Any]
    published: float | None = None
    start: str | None = None

    @property
    def name(self) -> str:
        """Its name in the whole table."""
        return f"{self.group} {self.label}"


@dataclass(frozen=True)
class Sweep:
    """A table or figure that takes trainings.

    Attributes:
        name: What its files are called.
        title: Its heading.
        about: What is compared, for the Markdown.
        settings: Its rows; those that come to the same recipe are trained once.
        reference: What each setting is compared with: the first setting ("baseline"), or the best of its group.
        draw: Draws the outcomes; with `audited`, each with its costs.
        recipe: The base recipe.
        epochs: Epochs of each run, unless the user says otherwise.
        limit: Training images of each run, likewise; 0 takes all.
        precision: Arithmetic, likewise.
        audited: Whether each network is audited as well, and the table is one of costs: see `reproduce.costs`.
    """

    name: str
    title: str
    about: str
    settings: Sequence[Setting]
    reference: Literal["baseline", "best"]
    draw: Callable[..., Figure]
    recipe: str = "cifar10/conv12"
    epochs: int = 30
    limit: int = 10_000
    precision: str = "fp32"
    audited: bool = False


#: A sweep by the recipe cifar10/fast as it was before its neurons had the same weights, on all images.
FastSweep = partial(Sweep, recipe=str(Path(__file__).with_name("fast.yaml")), limit=0, precision="bf16")


@dataclass(frozen=True)
class Training:
    """One training of a sweep: the first setting that needs it, its resolved recipe, and the digest of that.

    `options` are those by which `onespike train` makes the recipe of the sweep's; seed and places are left out.
    """

    setting: Setting
    recipe: Recipe
    digest: str
    options: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """Its seed, which is not in the digest."""
        return self.recipe.train.seed

    @property
    def key(self) -> tuple[str, int]:
        """What its row is found by."""
        return self.digest, self.seed

    @property
    def folder(self) -> str:
        """Name of its run folder; no other budget's run has the same."""
        words = f"{self.setting.name} seed{self.seed} {self.digest}"
        return "".join(c if c.isalnum() or c in ".-" else "-" for c in words)


def resolve(sweep: Sweep, overrides: Mapping[str, Any]) -> list[Training]:
    """Make the training of every setting, with seed 0, in the order of the settings.

    The same `overrides` change the base recipe of all settings.

    Raises:
        OnespikeError: A value is out of its range, or one was given that the labels of the rows speak of.
    """
    _expect_free(sweep, overrides)
    base = load_recipe(sweep.recipe, overrides)
    _expect_no_class(sweep, base)
    warmup = {"train.warmup_epochs": base.train.epochs / 10}
    planned = []
    for setting in sweep.settings:
        values = {**warmup, **overrides, **setting.overrides, "train.seed": 0}
        root, name = base.data.root, values.get("data.name", base.data.name)
        if root and (Path(root).expanduser() / name).is_dir():  # a folder of data sets
            values["data.root"] = str(Path(root) / name)
        recipe = load_recipe(sweep.recipe, values)
        if setting.start and Run.open(setting.start).recipe.model != recipe.model:
            raise OnespikeError(f"model: {setting.label} starts from {setting.start}; leave --model.* out")
        options = {key: value for key, value in values.items() if key not in _PLACES}
        planned.append(Training(setting, recipe, digest(recipe, setting.start), options))
    return planned


def _expect_free(sweep: Sweep, overrides: Mapping[str, Any]) -> None:
    """Raise an `OnespikeError` if a value was given that rows set themselves: their labels would be wrong.

    Where rows change a baseline, only what all of them set is refused: the rest of the baseline is the user's to
    choose. Elsewhere it is what any row sets.
    """
    keys = [set(setting.overrides) for setting in sweep.settings]
    swept = set.union(*keys) if sweep.reference == "best" else set.intersection(*keys)
    defaults = {"train.epochs": sweep.epochs, "data.limit": sweep.limit, "train.precision": sweep.precision}
    for key, value in overrides.items():
        if key in swept and (key, value) not in defaults.items():
            raise OnespikeError(f"--{OWN.get(key, key)}: rows of {sweep.name} set it themselves; leave it out")


def _expect_no_class(sweep: Sweep, base: Recipe) -> None:
    """Raise an `OnespikeError` if a class of the user's would take the place of what rows name."""
    swept = {key for setting in sweep.settings for key in setting.overrides}
    for section, by_class in (
        ("model", isinstance(base.model, ClassPath)),  # of which there is no digest
        ("data", base.data.class_path and "data.name" in swept),
        ("loss", base.loss and "train.loss" in swept),
    ):
        if by_class:
            raise OnespikeError(
                f"{section}.class_path: the rows of {sweep.name} take registered ones alone; leave it out"
            )


def plan(planned: Sequence[Training], seeds: int) -> list[Training]:
    """List what has to be trained, each once, though several settings may need it.

    Seeds are outermost: a partial table has all settings for seed 0 first.

    Raises:
        OnespikeError: The number of seeds is out of its range.
    """
    if not 1 <= seeds <= 1000:
        raise OnespikeError(f"seeds: expected 1 to 1000, got {seeds}")
    trainings: dict[tuple[str, int], Training] = {}
    for seed in range(seeds):
        for one in planned:
            recipe = replace(one.recipe, train=replace(one.recipe.train, seed=seed))
            trainings.setdefault((one.digest, seed), replace(one, recipe=recipe))
    return list(trainings.values())


def digest(recipe: Recipe, start: str | None = None) -> str:
    """Digest what of a recipe changes the outcome: 8 hexadecimal digits.

    `start` is where it starts from, as in `Setting`. Only values that are not the default enter, so that an option that
    is added later does not change the digests of recipes that leave it alone; neurons' values have the names that they
    had when the first rows were trained. The root enters where nothing else says which images they are.
    Equal numbers are one, however they were written: 1 is 1.0 in a float's field.
    """
    usual = values_of(Recipe(model=type(recipe.model)()))
    floats = {name for section in SECTIONS for name in _floats(getattr(recipe, section), section)}
    ignored = {*NO_MATTER, "train.seed"} - ({"data.root"} if recipe.data.is_by_root else set())
    changed = {
        _OLD_NAMES.get(key, key.replace("model.neuron.", "model.")): (
            json.loads(json.dumps(value), parse_int=float) if key in floats else value
        )
        for key, value in values_of(recipe).items()
        if key not in ignored and value != usual.get(key)
    }
    if not isinstance(recipe.model, OnespikeConfig):
        changed["model.name"] = recipe.model.name  # the same values mean another network in another family
    if start:
        changed["start"] = start
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]


def _floats(config: Any, prefix: str) -> list[str]:
    """Whole names of a config's values that are floating-point numbers, or lists of them."""
    found = []
    for key, hint in get_type_hints(type(config)).items() if is_dataclass(config) else ():
        found += _floats(getattr(config, key), f"{prefix}.{key}")
        if "float" in str(hint):  # float, float | None, tuple[float, float] | None
            found.append(f"{prefix}.{key}")
    return found


_OLD_NAMES = {"model.neuron.name": "model.activation"}
