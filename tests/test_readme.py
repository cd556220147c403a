"""The README and the pages in docs/ say what is so.

python -m tests.test_readme     # writes the tables of docs/options.md anew, from the dataclasses
"""

import functools
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from docstring_parser import parse

from onespike.cli import main
from onespike.cli.main import COMMANDS
from onespike.conversion import Calibration, ConversionConfig
from onespike.data.config import DataConfig
from onespike.models import MODELS, model_names
from onespike.neurons import NeuronConfig
from onespike.training.config import TrainConfig
from onespike.training.recipe import load_recipe, recipe_names
from onespike.units import UNITS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
OPTIONS = ROOT / "docs" / "options.md"
#: The tables of options: what stands before the name of a field, and the dataclass.
TABLES = {
    "data": ("data.", DataConfig),
    "train": ("train.", TrainConfig),
    "neuron": ("model.neuron.", NeuronConfig),
    "convert": ("", ConversionConfig),
    "calibration": ("calibration.", Calibration),
    **{
        next(iter(family.variants)): ("model.", family.config)
        for family in MODELS.values()
        if family.builder.__module__.startswith("onespike.")  # `reproduce` registers a network of SpikingJelly's
    },
}
#: What the pages write where a reader has to choose.
STANDS_FOR = {"COMMAND": "train", "MODEL": "conv12", "N": "64", "NAME": "table1", "P": "2", "T": "4"}


def rows_of(prefix: str, kind: type) -> list[str]:
    """The rows of a dataclass's table; nested ones have a table of their own."""
    texts = {
        parameter.arg_name: " ".join(parameter.description.split())
        for base in reversed(kind.__mro__)
        if is_dataclass(base)
        for parameter in parse(base.__doc__).params
    }
    rows = []
    for field in fields(kind):
        if is_dataclass(field.type):
            continue
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = list(default) if isinstance(default, tuple) else default
        shown = {"None": "null", "": '""', "False": "false"}.get(str(default), str(default))  # as YAML has them
        name = field.name if prefix else field.name.replace("_", "-")
        rows.append(f"| `--{prefix}{name}` | `{shown}` | {texts[field.name]} |")
    return rows


def with_tables(page: str) -> str:
    """The page with each table, which follows a comment with its name, made anew."""

    def table(found: re.Match[str]) -> str:
        rows = rows_of(*TABLES[found[1]])
        return "\n".join([f"<!-- table: {found[1]} -->", "| option | default | meaning |", "|---|---|---|", *rows, ""])

    return re.sub(r"<!-- table: (\S+) -->\n(?:\|.*\n)*", table, page)


def test_the_tables_of_options_are_complete_and_right():
    page = OPTIONS.read_text()
    assert set(re.findall(r"<!-- table: (\S+) -->", page)) == set(TABLES)
    assert page == with_tables(page), "write them anew: python -m tests.test_readme"


@pytest.mark.parametrize("page", PAGES)
def test_every_recipe_that_is_named_exists(page: str):
    assert set(re.findall(r"--recipe ([a-z0-9/-]+)", PAGES[page])) <= set(recipe_names())


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str):
    folder = ROOT if page == "README.md" else ROOT / "docs"
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", prose) if "://" not in link]
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str):
    rooms = (ROOT, ROOT / "src" / "onespike", ROOT / "docs")
    named = set(re.findall(r"`?\b((?:[a-z_0-9]+/)+[a-z_0-9-]+\.(?:py|yaml|md|json|csv|png))\b", PAGES[page]))
    assert [name for name in sorted(named) if not any((room / name).exists() for room in rooms)] == []


@pytest.mark.filterwarnings("default")
def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONESPIKE_CACHE", str(tmp_path / "cache"))
    scope: dict[str, Any] = {}
    exec(compile("\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL)), "README.md", "exec"), scope)
    assert scope["logits"].shape == (8, 10)
    assert scope["features"].shape == (8, 16, 12, 12)
    assert scope["conversion"].network(scope["images"]).equal(scope["network"](scope["images"]))
    assert scope["run"].summary == scope["summary"]
    assert (tmp_path / "runs" / "mine" / "summary.json").exists()


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every command line of README and docs, in a block or within a sentence, and its page."""
    programs = r"(?:onespike|python -m (?:onespike|reproduce|benchmarks)|python benchmarks/\w+\.py)"
    for page, text in PAGES.items():
        joined = text.replace("\\\n", " ")
        lines = re.findall(rf"^ {{4}}(?:torchrun .* -m )?({programs} .*|{programs})$", joined, re.MULTILINE)
        # A sentence may break a line within a command; the output of a command is none.
        lines += [" ".join(one.split()) for one in re.findall(rf"`({programs}\s[^`]+)`", joined)]
        for line in lines:
            words = [STANDS_FOR.get(word, word) for word in shlex.split(line, comments=True) if word != "…"]
            if words[-1] not in COMMANDS:  # a sentence about a command
                yield page, words


@pytest.fixture
def somebodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The module `pkg` of the pages, which Python can import, and a folder to be in."""
    (tmp_path / "pkg.py").write_text("class Net: ...\nclass Data: ...\nclass Loss: ...\n")
    monkeypatch.setitem(UNITS, "separable", UNITS["conv"])  # which the page about extending adds
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("onespike.classpath._ALLOWED", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("pkg", None)


def parsed_only(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Let a module's command parse its command line and do nothing else; what it would have been called with."""
    real, calls = getattr(module, "call", None), []

    def call(function: Callable[..., int], *rest: Any) -> int:
        @functools.wraps(function)
        def instead(*positional: Any, **options: Any) -> int:
            calls.append((positional, options))
            return 0

        return real(instead, *rest)

    if real:
        monkeypatch.setattr(module, "call", call)
    return calls


@pytest.mark.usefixtures("somebodys", "capsys")
@pytest.mark.parametrize(
    "words", [pytest.param(words, id=f"{page}: {shlex.join(words)}") for page, words in command_lines()]
)
def test_every_command_line_is_understood(words: list[str], monkeypatch: pytest.MonkeyPatch):
    program, *arguments = words[2:] if words[:2] == ["python", "-m"] else words
    if program == "python":
        script = (ROOT / arguments[0]).read_text()
        assert [one for one in arguments if one.startswith("--") and f'"{one}"' not in script] == []
        return
    name, *options = arguments or [""]
    if program == "onespike":
        assert name in COMMANDS
        module, run, options = main, main.dispatch, arguments
    else:
        module = import_module(f"{program}.__main__")
        run, options = module.run, arguments
    calls = parsed_only(module, monkeypatch)
    if "--help" in options:
        with pytest.raises(SystemExit, match=r"^0$"):
            run(options)
        return
    assert run(options) == 0
    for positional, values in calls:
        overrides = {key: one for key, one in values.get("overrides", {}).items() if not key.startswith("calibration.")}
        recipe = values.get("recipe") or "cifar10/conv12"
        if overrides and recipe in recipe_names():
            start = {"model.name": positional[0]} if positional and positional[0] in model_names() else {}
            load_recipe(recipe, start | overrides)
        if program == "benchmarks":
            chosen = {key for key, value in values.items() if value is not None}
            assert chosen - {"task", "rounds", "threads", "device", "gemm"} <= set(module.OPTIONS[name])


if __name__ == "__main__":
    OPTIONS.write_text(with_tables(OPTIONS.read_text()))
