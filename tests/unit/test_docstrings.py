"""What help() and the site say of public classes."""

import inspect
import re
import runpy
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import onespike
from onespike.functional import fire_over_time, norm_fire
from onespike.neurons import NEURONS
from onespike.units import ConvUnit

ROOMS = sorted(path.parent.name for path in Path(onespike.__file__).parent.glob("*/__init__.py"))


def public_records() -> list[Any]:
    """Public dataclasses and named tuples."""
    modules = [import_module(f"onespike.{room}") for room in ROOMS]
    offered = [getattr(module, name) for module in modules for name in getattr(module, "__all__", ())]
    classes = dict.fromkeys(filter(inspect.isclass, offered))
    return [one for one in classes if is_dataclass(one) or hasattr(one, "_fields")]


@pytest.mark.parametrize("kind", public_records(), ids=lambda one: one.__name__)
def test_every_field_is_explained(kind: Any) -> None:
    names = [one.name for one in fields(kind)] if is_dataclass(kind) else kind._fields
    texts = "\n".join(inspect.cleandoc(base.__doc__) for base in kind.__mro__ if base.__doc__)
    assert [name for name in names if not re.search(rf"^    {name}: ", texts, re.MULTILINE)] == []


@pytest.mark.parametrize("one", [*NEURONS.values(), ConvUnit, norm_fire, fire_over_time], ids=lambda one: one.__name__)
def test_the_equation_is_where_help_shows_it(one: Any) -> None:
    assert re.search(r"^ {4}\S.* = .+$", inspect.getdoc(one) or "", re.MULTILINE)


def test_types_that_public_functions_take_or_return_are_on_a_page() -> None:
    hooks = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "hooks.py"))
    for room, places in hooks["BESIDE"].items():
        page = hooks["interface"](room)
        for place in places:
            module, _, name = place.rpartition(".")
            assert getattr(import_module(f"onespike.{module}"), name).__doc__
            assert page.count(f"::: onespike.{place}\n") == 1
