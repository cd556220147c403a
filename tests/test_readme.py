"""The README and the pages in docs/ say what is so."""

import functools
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from onespike.cli import main
from onespike.cli.main import COMMANDS
from onespike.models import model_names
from onespike.training.recipe import FOLDER as RECIPES
from onespike.training.recipe import load_recipe, recipe_names
from onespike.units import UNITS
from tests.running import read_rows

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
PAGES["../results/README.md"] = (ROOT / "results" / "README.md").read_text()
OPTIONS = ROOT / "docs" / "options.md"
#: Pages that are made when the site is built, which checks the links to them.
MADE = ("recipes.md", "models.md", "results.md", "api/")
#: What the pages write where a reader has to choose.
STANDS_FOR = {"COMMAND": "train", "MODEL": "conv12", "N": "64", "NAME": "table1", "P": "2", "T": "4"}


def test_every_dataclass_of_options_has_its_table():
    hooks = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
    page = OPTIONS.read_text()
    assert sorted(re.findall(r"<!-- table: (\S+) -->", page)) == sorted(hooks["TABLES"])
    filled = hooks["with_tables"](page)
    for row in ("| `--data.holdout` | `0.1` |", "| `--model.preset` | `paper` |", "| `--model.neuron.decay` |"):
        assert row in filled
        assert row not in page
    assert "| `--time-steps` |" in filled


def test_recipes_say_what_they_reached_or_that_they_were_not_run_to_their_end():
    reached = runpy.run_path(str(ROOT / "docs" / "hooks.py"))["reached"]
    found = {
        "cifar10/fast": "91.84%",
        "cifar10/resnet18": "90.94%",
        "cifar10/conv12": "42.2% so far",
        "cifar100/conv12": "not trained to its end yet",
        "tiny-imagenet/conv12": "not trained to its end yet",
        "cifar10/conv12-augmix": "not trained to its end yet",
    }
    texts = {name: (RECIPES / f"{name}.yaml").read_text().replace("\n# ", " ") for name in found}
    assert {name: reached(text) for name, text in texts.items()} == found


def test_the_page_of_models_has_the_best_options_of_each_budget():
    measured = runpy.run_path(str(ROOT / "docs" / "hooks.py"))["measured"]()
    for row in read_rows(ROOT / "results" / "accuracy.csv"):
        if row["test top-1 %"]:
            [best] = [one for one in measured[row["setting"].partition(",")[0]] if f"% of {row['group']}," in one]
            assert float(best[1:].partition("%")[0]) >= round(float(row["test top-1 %"]), 2)


@pytest.mark.parametrize("page", PAGES)
def test_every_recipe_that_is_named_exists(page: str):
    named = re.findall(r"--recipe ([a-z0-9/-]+)(?![\w/-]|\.\w)", PAGES[page])  # a file of one's own ends in .yaml
    assert set(named) <= set(recipe_names())


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str):
    folder = ROOT if page == "README.md" else (ROOT / "docs" / page).parent
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", prose) if "://" not in link]
    assert [link for link in links if not (folder / link).exists() and not link.startswith(MADE)] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_exists(page: str):
    rooms = (ROOT, ROOT / "src" / "onespike", ROOT / "docs", (ROOT / "docs" / page).parent)
    named = set(re.findall(r"`?\b((?:[a-z_0-9-]+/)+[a-z_0-9-]+\.(?:py|yaml|md|json|csv|png))\b", PAGES[page]))
    named = {name for name in named if not name.startswith(MADE)}
    assert [name for name in sorted(named) if not any((room / name).exists() for room in rooms)] == []


@pytest.mark.parametrize(
    "page", [*(ROOT / "docs").glob("*.md"), *(ROOT / "results").glob("*.md")], ids=lambda p: p.name
)
def test_scripts_of_the_repository_are_called_as_modules(page: Path):
    assert "python benchmarks/" not in page.read_text()  # it would not find the others
    assert "python reproduce/" not in page.read_text()


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Every command line of README and docs, in a block or within a sentence, and its page."""
    programs = r"(?:onespike|python -m (?:onespike|reproduce|benchmarks(?:\.\w+)?))"
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
    if program.startswith("benchmarks."):
        script = (ROOT / f"{program.replace('.', '/')}.py").read_text()
        given = [one for one in arguments if one.startswith("--")]
        taken = {one: (f'"{one}"', f"    {one[2:].replace('-', '_')}: ") for one in given}  # by argparse, by a function
        assert [one for one, ways in taken.items() if not any(way in script for way in ways)] == []
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
            assert set(values["options"]) <= set(module.OPTIONS[name])
