"""What mkdocs adds to the pages of the site: options, recipes, models, the library's interface, results.

All of it comes from the package and from results/, so that no page has to repeat it.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from docstring_parser import parse

from onespike.cli.demo import PRETRAINED
from onespike.conversion import Calibration, ConversionConfig
from onespike.data.config import DataConfig
from onespike.demo import build
from onespike.demo.runtime import runtime
from onespike.errors import OnespikeError
from onespike.exporting.onnx import expect_packages
from onespike.models import MODELS, create_model
from onespike.neurons import NeuronConfig
from onespike.training.config import TrainConfig
from onespike.training.recipe import FOLDER, load_recipe, recipe_names
from onespike.training.run import Run

log = logging.getLogger("mkdocs.hooks")
ROOT = Path(__file__).parents[1]
#: The families of models. `reproduce` registers a network of SpikingJelly's besides.
OURS = [
    family
    for name, family in MODELS.items()
    if name == next(iter(family.variants)) and family.builder.__module__.startswith("onespike.")
]
#: The tables of options, by what a page's comment calls them: what stands before a field's name, and the dataclass.
TABLES = {
    "data": ("data.", DataConfig),
    "train": ("train.", TrainConfig),
    "neuron": ("model.neuron.", NeuronConfig),
    "convert": ("", ConversionConfig),
    "calibration": ("calibration.", Calibration),
    **{next(iter(family.variants)): ("model.", family.config) for family in OURS},
}
#: The rooms of the package whose public names have a page, and its heading.
ROOMS = {
    "onespike": "What `import onespike` offers",
    "training": "Training",
    "models": "Models",
    "neurons": "Neurons",
    "units": "Units",
    "functional": "Equations",
    "data": "Data",
    "evaluation": "Evaluation",
    "counting": "Counting operations, and energy",
    "audit": "Audit",
    "conversion": "Conversion",
    "exporting": "Export",
    "search": "Search",
    "demo": "Demo",
    "inference": "Engines",
}
#: Where the page about the demo offers it, and how.
DEMO = "<!-- demo -->"
OFFER = '**<a href="demo/index.html">Draw a digit</a>**: what the command opens, for a network of the digits.'
#: What registered models are built for: image side, classes.
SIDE, CLASSES = 32, 10


def rows_of(prefix: str, kind: type) -> list[str]:
    """The rows of a dataclass's table; nested ones have a table of their own."""
    texts = {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for base in reversed(kind.__mro__)
        if is_dataclass(base)
        for parameter in parse(base.__doc__ or "").params
    }
    rows = []
    for field in fields(kind):
        if is_dataclass(field.type):
            continue
        default: Any = field.default if field.default_factory is MISSING else field.default_factory()
        default = list(default) if isinstance(default, tuple) else default
        shown = {"None": "null", "": '""', "False": "false"}.get(str(default), str(default))  # as YAML has them
        name = field.name if prefix else field.name.replace("_", "-")
        rows.append(f"| `--{prefix}{name}` | `{shown}` | {texts[field.name]} |")
    return rows


def with_tables(page: str) -> str:
    """The page with a table behind each comment that names one."""

    def table(found: re.Match[str]) -> str:
        rows = rows_of(*TABLES[found[1]])
        return "\n".join([found[0], "", "| option | default | meaning |", "|---|---|---|", *rows, ""])

    return re.sub(r"<!-- table: (\S+) -->", table, page)


RECIPES = """# Recipes

A recipe is a YAML file of choices; `onespike train --recipe NAME` trains by it. The text above its values says what it
is made for and, where it was measured, on what machine and what it reached.
"""
MODELS_PAGE = """# Models

`--model.name NAME` chooses a model, `onespike.create_model(NAME)` builds it, and `onespike models NAME` lists its
presets and options. Weights are those of the model's defaults for colour images of {side}x{side} pixels and {classes}
classes.

How many operations an image takes, and how much energy, depends on what the trained neurons fire: `onespike audit RUN`
counts it. What was measured is in the [results](results.md), and with the [recipes](recipes.md).
"""
RESULTS = """# Results

Each page was written by a command, which it names, with commit and machine; what is pending says so. The numbers are in
CSV files beside them, in the repository's folder `results`.
"""


def recipes() -> str:
    """The page of recipes: what each is made for, what it takes, and what it reached."""
    lines = [RECIPES]
    for name in recipe_names():
        comment, values = list[str](), list[str]()
        for line in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
            (values if values or not line.startswith("#") else comment).append(line)
        text = [line.removeprefix("#").strip() for line in comment[1:]]  # the first is the command
        lines += [f"## {name}", *text, "", "```yaml", *values, "```", ""]
    return "\n".join(lines)


def models() -> str:
    """The page of models: how large each is, what one image takes, and the recipes that train it."""
    trained: dict[str, list[str]] = {}
    for name in recipe_names():
        trained.setdefault(load_recipe(name).model.name, []).append(name)
    lines = [MODELS_PAGE.format(side=SIDE, classes=CLASSES)]
    for family in OURS:
        title, _, more = " ".join((parse(family.config.__doc__ or "").short_description or "").split()).partition(". ")
        lines += [f"## {title.rstrip('.')}", "", more, ""]
        lines += ["| model | weights | recipes |", "|---|--:|---|"]
        for name in family.variants:
            links = ", ".join(f"[{one}](recipes.md#{one.replace('/', '')})" for one in trained.get(name, []))
            lines.append(f"| `{name}` | {weights(name):,} | {links} |")
        lines.append("")
    return "\n".join(lines)


def weights(name: str) -> int:
    """How many weights a registered model has, which is built without memory for them."""
    with torch.device("meta"):
        network = create_model(name, num_classes=CLASSES, in_channels=3, image_size=SIDE)
    return sum(weight.numel() for weight in network.parameters())


def interface(room: str) -> str:
    """The page of a room's public names, from their docstrings."""
    path = "onespike" if room == "onespike" else f"onespike.{room}"
    module = import_module(path)
    lines = [f"# {ROOMS[room]}", "", f"`{path}`: {' '.join((module.__doc__ or '').split())}", ""]
    for name in sorted(module.__all__, key=str.lower):
        one = getattr(module, name)
        if callable(one) and (getattr(one, "__module__", None) or "").startswith("onespike."):
            lines += [f"::: {one.__module__}.{one.__qualname__}", ""]
    return "\n".join(lines)


def results() -> str:
    """The page that lists the committed results by their headings."""
    lines = [RESULTS]
    for path in sorted((ROOT / "results").glob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title}](results/{path.name})")
    return "\n".join(lines)


def generated() -> Iterator[tuple[str, str]]:
    """All pages that are made: where they lie, and their Markdown."""
    yield "recipes.md", recipes()
    yield "models.md", models()
    yield "results.md", results()
    for room in ROOMS:
        yield f"api/{room}.md", interface(room)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made, and the results."""
    from mkdocs.structure.files import File

    for place, text in generated():
        files.append(File.generated(config, place, content=text))
    for path in sorted((ROOT / "results").iterdir()):
        if path.suffix in (".md", ".png"):
            files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the tables, lead links to where things are in the site, and offer the demo if it is there."""
    page = with_tables(markdown).replace("](../results/", "](results/")
    return page.replace(DEMO, OFFER) if DEMO in page and has_runtime() else page


@cache
def has_runtime() -> bool:
    """Whether the demo can be built: ONNX Runtime for browsers is in the cache, or can be fetched."""
    try:
        expect_packages()
        return bool(runtime())
    except OnespikeError as error:
        log.info("without the demo: %s", error)
        return False


def on_post_build(config: Any) -> None:
    """Put the demo of the package's network of the digits beside the pages, in demo/."""
    if has_runtime():
        build(Run.open(PRETRAINED), Path(config.site_dir) / "demo")
