"""Every number in the README is read from a file. `python -m tests.test_measured` writes its table."""

import csv
import json
import re
import tomllib
from pathlib import Path

from sklearn.datasets import load_digits

from onespike.durable import save_text
from onespike.models.pretrained import pretrained_names, pretrained_summary

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "README.md"
BEGIN, END = "<!-- measured, by python -m tests.test_measured -->\n\n", "\n<!-- end -->\n"
#: Recipes, and the rows of results/accuracy.csv that they train: group and setting.
RECIPES = {
    "cifar10/fast": ("cifar10, 0.4 PFLOP", "spiking-resnet-m, three tied, spaced, narrower"),
    "cifar10/hour": ("cifar10, 2 PFLOP", "spiking-resnet-l, tied, wider, spaced"),
    "cifar10/best": ("cifar10, 5 PFLOP", "spiking-resnet-l, tied, widest, spaced"),
    "cifar100/fast": ("cifar100, 0.4 PFLOP", "spiking-resnet-m, three tied, spaced"),
    "cifar100/hour": ("cifar100, 2 PFLOP", "spiking-resnet-l, tied, wider, spaced"),
    "cifar100/best": ("cifar100, 5 PFLOP", "spiking-resnet-l, tied, widest, spaced"),
    "tiny-imagenet/fast --data.limit 8000": ("tiny-imagenet, 0.15 PFLOP", "spiking-resnet-m"),
}
SPEED = "results/bench-train-spiking-resnet-m.json"
#: What the bench calls whose neurons ran in the same network.
NEURONS = {
    "onespike": "onespike",
    "sequential": "plain PyTorch",
    "spikingjelly": "SpikingJelly's neurons, in their own layout",
    "snntorch": "snnTorch's, likewise",
}


def accuracies() -> list[tuple[str, ...]]:
    """A row for each recipe, with its own ReLU twin and SpikingJelly's networks of the same budget."""
    with (ROOT / "results" / "accuracy.csv").open(newline="") as file:
        rows = {(row["group"], row["setting"]): row for row in csv.DictReader(file) if row["seeds"] != "0"}
    lines = []
    for recipe, key in RECIPES.items():
        beside = {setting: row for (group, setting), row in rows.items() if group == key[0]}
        _, comma, options = key[1].partition(",")
        twin, unspaced = (
            beside.get(f"its ReLU twin{comma}{one}") for one in (options, options.removesuffix(", spaced"))
        )
        relu = _reached(twin) if twin else f"{_reached(unspaced)}, not spaced" if unspaced else ""
        named = {re.sub("^SpikingJelly(?:'s|,) ", "", setting): row for setting, row in beside.items()}
        theirs = (f"{name}: {_reached(row)}" for name, row in named.items() if name not in beside)
        cost = f"{float(rows[key]['PFLOP']):.2f} PFLOP"
        lines.append((f"`{recipe}`", cost, _reached(rows[key]), relu, ", ".join(theirs)))
    return lines


def _reached(row: dict[str, str]) -> str:
    return f"{float(row['test top-1 %']):.2f}% ({row['seeds']} seed{'s' * (row['seeds'] != '1')})"


def speeds() -> list[tuple[str, ...]]:
    """Images a second while training, ours and with the neurons of others."""
    timed = json.loads((ROOT / SPEED).read_text())
    rows = []
    for dtype in ("bf16", "fp32"):
        rates = {one["implementation"]: f"{one['images_per_second']:,.0f}" for one in timed if one["dtype"] == dtype}
        rows.append((f"{timed[0]['model']}, {dtype}", *(rates[name] for name in NEURONS)))
    return rows


def packaged() -> list[tuple[str, ...]]:
    """The trained networks of the package, with weights of 8 bits."""
    rows = []
    for name in pretrained_names():
        summary = pretrained_summary(name)
        audit = summary["audit"]
        reached = f"{summary['test_top1']:.2f}% of {summary['test_images']:,} images"
        spikes, dense = (f"{one / 1e6:.1f} million" for one in (audit["synaptic_operations"], audit["macs"]["dense"]))
        place = f"[`pretrained:{name}`](src/onespike/pretrained/{name}/summary.json)"
        rows.append((place, reached, spikes, dense))
    return rows


def table() -> str:
    """The tables of accuracies, speeds and trained networks."""
    trained = "recipe", "training", "test accuracy", "its ReLU twin", "SpikingJelly"
    shipped = (
        "trained network",
        "test accuracy",
        "synaptic operations",
        "multiply-accumulates if dense, with stem and padding",
    )
    written = [
        "Accuracy at one time step, strictly spiking ([accuracy.md](results/accuracy.md)):",
        _markdown(trained, accuracies()),
        f"Images a second in training, one network with the neurons of each ([{Path(SPEED).name}]({SPEED})):",
        _markdown(("network", *NEURONS.values()), speeds()),
        "Trained networks in the package, and what one image takes:",
        _markdown(shipped, packaged()),
    ]
    return "\n\n".join(written) + "\n"


def _markdown(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, ("---",) * len(names), *rows))


def parts() -> tuple[str, str, str]:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    middle, _, after = rest.partition(END)
    return before, middle, after


def test_the_table_says_what_the_files_say():
    assert parts()[1] == table(), "results have changed: python -m tests.test_measured writes the README's table anew"


def test_every_other_number_is_known():
    before, _, after = parts()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    paper = (ROOT / "src" / "onespike" / "cli" / "references.bib").read_text()
    known = {f"{len(load_digits().images):,}", *re.findall(r"[\d.]+", " ".join([paper, *project["classifiers"]]))}
    prose = re.sub(r"```.*?```|\]\([^)]*\)|`[^`]*`", "", before + after, flags=re.DOTALL)
    # Command lines are run by another test; the remarks behind them are not.
    prose = re.sub(r"^    [^#\n]*", "", prose, flags=re.MULTILINE)
    prose = re.sub(r"PyTorch\s[\d.]+\d", "", prose)  # versions that were tried
    found = re.findall(r"(?<![\w.-])\d(?:[\d,.]*\d)?", prose)
    assert len(found) > 3
    assert [one for one in found if one not in known] == []


if __name__ == "__main__":
    start, _, rest = parts()
    save_text(start + BEGIN + table() + END + rest, PAGE)
