"""Every number in the README is read from a file. `python -m tests.test_measured` writes its table."""

import csv
import json
import re
import tomllib
from itertools import groupby
from pathlib import Path

from sklearn.datasets import load_digits

from onespike.durable import save_text
from onespike.models.pretrained import pretrained_names, pretrained_summary

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "README.md"
BEGIN, END = "<!-- measured, by python -m tests.test_measured -->\n\n", "\n<!-- end -->\n"
#: What the bench calls whose neurons ran in the same network.
NEURONS = {
    "sequential": "plain PyTorch",
    "spikingjelly": "SpikingJelly's neurons in their own layout",
    "snntorch": "snnTorch's likewise",
}
SPEED = "results/bench-train-spiking-resnet-m.json"


def accuracies() -> list[tuple[str, ...]]:
    """A row for each budget of results/accuracy.csv that has results: ours first, then what was trained beside it."""
    with (ROOT / "results" / "accuracy.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = []
    for group, settings in groupby(table, lambda row: row["group"]):
        cells = [
            f"{one['setting']}: {float(one['test top-1 %']):.2f}% ({one['seeds']} seed{'s' * (one['seeds'] != '1')})"
            for one in settings
            if one["seeds"] != "0"
        ]
        if cells:
            rows.append((f"Test accuracy, {group} of training", cells[0], ", ".join(cells[1:]), "results/accuracy.md"))
    return rows


def speeds() -> list[tuple[str, ...]]:
    """Images a second while training, ours and with the neurons of others."""
    timed = json.loads((ROOT / SPEED).read_text())
    rows = []
    for dtype in ("bf16", "fp32"):
        rates = {one["implementation"]: one["images_per_second"] for one in timed if one["dtype"] == dtype}
        beside = ", ".join(f"{words} {rates[name]:.0f}" for name, words in NEURONS.items())
        what = f"Training {timed[0]['model']}, {dtype}, images a second"
        rows.append((what, f"{rates['onespike']:.0f}", beside, SPEED))
    return rows


def packaged() -> list[tuple[str, ...]]:
    """The trained networks of the package, with weights of 8 bits."""
    rows = []
    for name in pretrained_names():
        summary = pretrained_summary(name)
        audit = summary["audit"]
        reached = f"{summary['test_top1']:.2f}% of {summary['test_images']:,} images"
        spikes = f"{audit['synaptic_operations'] / 1e6:.1f} million synaptic operations an image"
        macs = f"{audit['macs']['dense'] / 1e6:.1f} million multiply-accumulates"
        dense = f"{macs} if it were dense, with the padding and the stem"
        place = f"src/onespike/pretrained/{name}/summary.json"
        rows.append((f"`pretrained:{name}`", f"{reached}, {spikes}", dense, place))
    return rows


def table() -> str:
    lines = ["| what | onespike | beside it | from |", "|---|---|---|---|"]
    for what, ours, beside, place in [*accuracies(), *speeds(), *packaged()]:
        lines.append(f"| {what} | {ours} | {beside} | [{Path(place).name}]({place}) |")
    return "\n".join(lines) + "\n"


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
