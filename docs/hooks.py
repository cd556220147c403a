"""What mkdocs adds to the pages of the site: options, recipes, models, the library's interface, results.

All of it comes from the package and from results/, so that no page has to repeat it.
"""

import csv
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
from onespike.models.pretrained import pretrained_names, pretrained_summary
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
#: Types that public functions take or return, though no room offers them: the page that has them too.
BESIDE = {
    "onespike": ("conversion.conversion.Conversion", "models.streaming.FrameStream"),
    "training": ("training.checkpoint.ModelCard", "training.trainer.Trainer"),
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
is made for, on what machine it was measured, and what it reached.

The table has the share of the test images that were right, as each text gives it with its seeds and its machine.
"""
MODELS_PAGE = """# Models

`--model.name NAME` chooses a model, `onespike.create_model(NAME)` builds it, and `onespike models NAME` lists its
presets and options.

How to read the tables:

- **weights** and **multiply-accumulates** are those of the model's defaults for colour images of {side}x{side} pixels
  and {classes} classes, counted dense ([table](results/models.md)). Of those on **real** numbers each is a
  multiplication. Of the others only those are done at which a spike arrives, as additions.
- **measured** is test accuracy, for each cost of training that of the best options, which stand beside it; and the
  energy of an image by [the field's convention](audit.md#energy). Both where a committed result or a trained network
  of the package has them.

Energy depends on what the trained neurons fire: `onespike audit RUN` counts it for yours.
"""
RESULTS = """# Results

**[What the paper claims, and what we found](results/README.md)**: a line for each claim, how sure we are, and the
command.

Each table was written by a command, which it names, with commit and machine; what is pending says so. The numbers are
in CSV files beside them, in the repository's folder `results`. Notes are what was measured and is in no table.
"""


def recipes() -> str:
    """The page of recipes: what each is made for, what it takes, and what it reached."""
    table, texts = ["| recipe | model | measured |", "|---|---|---|"], list[str]()
    for name in recipe_names():
        comment, values = list[str](), list[str]()
        for line in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
            (values if values or not line.startswith("#") else comment).append(line)
        text = [line.removeprefix("#").strip() for line in comment[1:]]  # the first is the command
        texts += [f"## {name}", *text, "", "```yaml", *values, "```", ""]
        found = reached(" ".join(text))
        table += (
            [f"| [{name}](#{name.replace('/', '')}) | `{load_recipe(name).model.name}` | {found} |"] if found else []
        )
    return "\n".join([RECIPES, *table, "", *texts])


def reached(text: str) -> str:
    """What a recipe's text says it reached of the test images."""
    if re.search(r"not (yet run|trained) to its end", text, re.IGNORECASE):
        return "not trained to its end yet"
    found = re.search(r"(\d+\.\d+%) of the test images|test accuracy ([\d., and]+%)", text)
    return f"{found[1] or found[2]}{' so far' if 'so far' in text else ''}" if found else ""


def models() -> str:
    """The page of models: how large each is, what one image takes, what was measured, and the recipes that train it."""
    trained: dict[str, list[str]] = {}
    for name in recipe_names():
        trained.setdefault(load_recipe(name).model.name, []).append(name)
    counted = {row["model"]: row for row in rows("models")}
    found = measured()
    lines = [MODELS_PAGE.format(side=SIDE, classes=CLASSES)]
    for family in OURS:
        about = " ".join((parse(family.config.__doc__ or "").short_description or "").split())
        title, *more = re.split(r"(?<!et al)\. ", about, maxsplit=1)
        lines += [f"## {title.rstrip('.')}", "", *more, ""]
        lines += ["| model | weights | multiply-accumulates | on real numbers | measured | recipes |"]
        lines += ["|---|--:|--:|--:|---|---|"]
        deeper = list[str]()
        for name in family.variants:
            if name not in counted:
                deeper.append(f"`{name}` ({weights(name):,})")
                continue
            links = ", ".join(f"[{one}](recipes.md#{one.replace('/', '')})" for one in trained.get(name, []))
            operations = [f"{int(one):,}" for one in list(counted[name].values())[2:]]
            cells = [f"`{name}`", f"{weights(name):,}", *operations, "; ".join(found.get(name, [])), links]
            lines.append(f"| {' | '.join(cells)} |")
        if deeper:
            lines += ["", f"Deeper, the same blocks more often, and their weights: {', '.join(deeper)}."]
        lines.append("")
    return "\n".join(lines)


def rows(table: str) -> list[dict[str, str]]:
    """The rows of a committed result."""
    with (ROOT / "results" / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measured() -> dict[str, list[str]]:
    """Accuracy, and energy where it is known, by model: of the package's trained networks and of committed results."""
    found: dict[str, list[str]] = {}
    best: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows("accuracy"):
        if row["test top-1 %"]:
            place = row["setting"].partition(",")[0], row["group"]
            best[place] = max(best.get(place, row), row, key=lambda one: float(one["test top-1 %"]))
    for (model, group), row in best.items():
        seeds = f"{row['seeds']} seed{'s' if row['seeds'] != '1' else ''}"
        text = f"{float(row['test top-1 %']):.2f}% of {group}{row['setting'].removeprefix(model)}, {seeds}"
        found.setdefault(model, []).append(f"[{text}](results/accuracy.md)")
    for name in pretrained_names():
        summary = pretrained_summary(name)
        energy = 1e6 * summary["audit"]["joules"]["field"]
        text = f"{summary['test_top1']:.2f}% of {summary['data']} with weights of 8 bits, {energy:.3g} µJ"
        found.setdefault(summary["model"], []).append(f"{text} (`pretrained:{name}`)")
    # Those whose tables have the whole test set.
    for model, table in (
        ("resnet18", "one-neuron-longer/conversion-resnet18-cifar10"),
        ("vit12", "conversion-vit12-cifar10"),
    ):
        row = next(one for one in rows(table) if one["network"] == "artificial network, trained as long")
        accuracy, energy = float(row["whole test set %"]), float(row["µJ, field"])
        text = f"{accuracy:.2f}% of cifar10 as an artificial network, {energy:.0f} µJ"
        found.setdefault(model, []).append(f"[{text}](results/{table}.md)")
    paper = next(one for one in rows("presets") if one["run"] == "paper-recipe")
    text = f"{float(paper['test top-1 %']):.2f}% of cifar10 in {paper['epochs']} epochs, 1 seed"
    found.setdefault("conv12", []).append(f"[{text}](results/presets.md)")
    return found


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
    for place in BESIDE.get(room, ()):
        lines += [f"::: onespike.{place}", ""]
    return "\n".join(lines)


def results() -> str:
    """The page that lists the committed results by their headings."""
    lines = [RESULTS]
    for path in sorted((ROOT / "results").glob("[!R]*.md")):  # the list of claims leads the page
        title = path.read_text(encoding="utf-8").partition("\n")[0]
        if title.startswith("# "):  # else it is a part of another
            lines.append(f"- [{title.removeprefix('# ')}](results/{path.name})")
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
    page = with_tables(markdown).replace("](../results/", "](results/").replace("](../docs/", "](../")
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
