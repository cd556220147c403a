"""The space of a search: a YAML file of a recipe's options, and the values that each may have.

model.channels: {choices: [[8, 16], [16, 32]]}      # one of these values
train.batch_size: {low: 16, high: 64, step: 16}     # whole numbers: 16, 32, 48, 64
train.lr: {low: 0.001, high: 0.1, log: true}        # each factor of ten as likely as the next
train.label_smoothing: [0, 0.2]                     # short for {low: 0, high: 0.2}

An option that takes whole numbers gets whole numbers.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from onespike.configs import Text, is_name, make, read_yaml
from onespike.errors import OnespikeError, shown
from onespike.models import model_names
from onespike.training.recipe import load_recipe, option_names

#: Most steps in a range.
STEPS = 10**6
#: Options that decide which images are held out.
SPLIT = ("data", "data.name", "data.root", "data.class_path", "data.limit", "data.holdout")
#: The form of an option, for messages; draws of the other options to try before a value counts as impossible.
EXPECTED, DRAWS = "expected [low, high], {low: …, high: …, log: true} or {choices: […]}", 20


@dataclass(frozen=True)
class _Range:
    low: float
    high: float
    log: bool = False
    step: float | None = None

    def steps(self) -> Decimal:
        """How many steps it has, by its numbers as they were written: of floats the last may be lost."""
        return (Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(self.step))

    def last(self) -> float:
        """The last value that steps reach."""
        return float(Decimal(str(self.low)) + int(self.steps()) * Decimal(str(self.step)))


#: What an option may be: a range, or choices as Optuna stores them.
_Form = _Range | list[Any]


def read_space(path: Path, recipe: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Read a space for a recipe with some values changed; returns Optuna's distribution of each option.

    Raises:
        OnespikeError: It cannot be read; an option does not exist, is set by `overrides` as well, or has an empty
            range; it decides which images are held out; or the recipe refuses an end of a range, or a choice, whatever
            the other options are.
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not content:
        expected = "expected options and what each may be, such as train.lr: {low: 0.001, high: 0.1, log: true}"
        raise OnespikeError(f"{path}: {expected}, got {shown(content)}")
    if odd := [name for name in content if not isinstance(name, str)]:
        raise OnespikeError(f"{path}: {shown(odd[0])}: expected the name of an option, such as train.lr")
    if split := [name for name in content if name in SPLIT]:
        why = "it decides which images are held out, and only scores on the same images can be compared"
        raise OnespikeError(f"{path}: {split[0]}: {why}; leave it out, and set it for all trials by --{split[0]}")
    taken = {*overrides, *(f"{name}.name" for name, value in overrides.items() if is_name(value))}
    if both := [name for name in content if {name, f"{name}.name"} & taken]:
        raise OnespikeError(f"--{both[0]}: {path} searches for it; leave one of the two out")
    if twice := [name for name in content if f"{name}.name" in content]:
        raise OnespikeError(f"{path}: {twice[0]} and {twice[0]}.name are one option; leave one of the two out")
    forms = {name: _form(form, f"{path}: {name}") for name, form in content.items()}
    _expect_possible(forms, path, recipe, overrides)
    types = [option_names(model) for model in model_names()]  # some models alone may have an option
    return {name: _distribution(form, _is_whole(name, form, types), f"{path}: {name}") for name, form in forms.items()}


def _form(form: Any, where: str) -> _Form:
    if isinstance(form, list) and len(form) == 2:
        form = {"low": form[0], "high": form[1]}
    if not isinstance(form, Mapping):
        raise OnespikeError(f"{where}: {EXPECTED}, got {shown(form)}")
    if "choices" in form:
        choices = form["choices"]
        if len(form) > 1 or not isinstance(choices, list) or len(choices) < 2:
            raise OnespikeError(f"{where}: expected {{choices: […]}} with at least two values, got {shown(dict(form))}")
        # As Optuna stores them: a list, or keys and values, as text.
        choices = [json.dumps(one) if isinstance(one, list | Mapping) else one for one in choices]
        if len(set(choices)) < len(choices):
            raise OnespikeError(f"{where}: expected choices of which no two are equal, got {shown(form['choices'])}")
        return choices
    if not {"low", "high"} <= {*form}:
        raise OnespikeError(f"{where}: {EXPECTED}, got {shown(dict(form))}")
    span: _Range = make(_Range, form, where)
    if not span.low < span.high:
        raise OnespikeError(f"{where}: the range is empty: expected low < high, got {span.low:g} and {span.high:g}")
    if span.log and (span.low <= 0 or span.step is not None):
        raise OnespikeError(f"{where}: log: true needs a low above 0 and no step, got {shown(dict(form))}")
    if span.step is not None and not (span.step > 0 and 1 <= span.steps() <= STEPS):
        expected = f"expected more than 0 and no more than the range, and {STEPS:,} steps at most"
        raise OnespikeError(f"{where}.step: {expected}, got {span.step:g}")
    return span


def _ends(form: _Form) -> list[Any]:
    return list(map(as_chosen, form)) if isinstance(form, list) else [form.low, form.high]


def as_chosen(stored: Any) -> Any:
    """What a recipe is given for a value that Optuna stores: it reads the text of a list as a list."""
    return Text(stored) if isinstance(stored, str) and stored.startswith(("[", "{")) else stored


def _expect_possible(forms: Mapping[str, _Form], path: Path, recipe: str, overrides: Mapping[str, Any]) -> None:
    """Raise an `OnespikeError` unless each end of each option, with some values of the others, makes a recipe."""
    for name, form in forms.items():
        for end in _ends(form):
            draws, errors = random.Random(name), list[OnespikeError]()
            others: list[dict[str, Any]] = [{}]  # as in the recipe; then as drawn
            others += [{key: draws.choice(_ends(one)) for key, one in forms.items()} for _ in range(DRAWS)]
            for values in others:
                try:
                    load_recipe(recipe, {**overrides, **values, name: end})
                    break
                except OnespikeError as error:
                    errors.append(error)
            else:
                raise OnespikeError(f"{path}: {errors[0]}")


def _is_whole(name: str, form: _Form, types: list[dict[str, Any]]) -> bool:
    """Whether an option takes whole numbers alone; for a user's class, the space decides."""
    if isinstance(form, list) or not (isinstance(form.low, int) and isinstance(form.high, int)):
        return False
    return ".init_args." in name or any(known.get(name) in (int, int | None) for known in types)


def _distribution(form: _Form, whole: bool, where: str) -> Any:
    """Optuna's distribution for a form; `whole` says that the option takes whole numbers alone."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(form, list):
        return CategoricalDistribution(form)
    low, step = form.low, form.step
    if whole and step is not None and not isinstance(step, int):
        raise OnespikeError(f"{where}.step: expected a whole number, got {shown(step)}")
    high = form.high if step is None else form.last()
    if whole:
        return IntDistribution(int(low), int(high), form.log, int(step or 1))
    return FloatDistribution(float(low), float(high), form.log, step)
