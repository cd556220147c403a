"""The README says what is so."""

import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import pytest
from docstring_parser import parse

from onespike.data.config import DataConfig
from onespike.models import OnespikeConfig, ViTConfig
from onespike.training.config import TrainConfig
from onespike.training.recipe import recipe_names

README = (Path(__file__).parents[1] / "README.md").read_text()


#: The options of the spiking networks, then those of the artificial ones.
KINDS = [("data", DataConfig), ("model", OnespikeConfig), ("train", TrainConfig), ("model", ViTConfig)]


def rows_of(section: str, kind: type) -> list[str]:
    """The rows of a dataclass, those of a nested one in its place."""
    rows = []
    texts = {
        parameter.arg_name: " ".join(parameter.description.split())
        for base in reversed(kind.__mro__)
        if is_dataclass(base)
        for parameter in parse(base.__doc__).params
    }
    for field in fields(kind):
        if is_dataclass(field.type):
            rows += rows_of(f"{section}.{field.name}", field.type)
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = list(default) if isinstance(default, tuple) else default
        shown = {"None": "null", "": '""', "False": "false"}.get(str(default), str(default))  # as YAML has them
        rows.append(f"| `--{section}.{field.name}` | `{shown}` | {texts[field.name]} |")
    return rows


def option_rows() -> list[str]:
    """The tables of options, as the README must have them: made from the dataclasses and their docstrings."""
    return [row for section, kind in KINDS for row in rows_of(section, kind)]


def test_the_tables_of_options_are_complete_and_right():
    table = [line for line in README.splitlines() if line.startswith("| `--")]
    assert table == option_rows(), "put these rows into the README:\n" + "\n".join(option_rows())


def test_every_recipe_that_is_named_exists():
    named = set(re.findall(r"--recipe ([a-z0-9/-]+)", README))
    assert named <= set(recipe_names())
    assert named


@pytest.mark.filterwarnings("default")
def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONESPIKE_CACHE", str(tmp_path / "cache"))
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["logits"].shape == (8, 10)
    assert scope["features"].shape == (8, 16, 12, 12)
    assert (tmp_path / "runs" / "from-python" / "summary.json").exists()
