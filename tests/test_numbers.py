"""Figures in the pages are those of the files that the pages name."""

import csv
import json
import re
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
#: Pages of which every figure is looked up. A figure is a share, a factor, or a number with a decimal point, and what
#: has thousands.
PAGES = {
    page.name: page.read_text()
    for page in [DOCS / f"{name}.md" for name in ("audit", "conversion", "dataflow", "deviations", "export")]
    + [DOCS / f"{name}.md" for name in ("extending", "reproducing", "speed")]
    + [ROOT / "results" / "README.md"]
}
NUMBER = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
#: What is ours, in a file of timings.
OURS = {"onespike", "recompute", "engine"}
FIGURE = re.compile(rf"(?<![\w.,])({NUMBER})(%|x(?![\w]))?(?![\w.]*\d|e[-+]?\d)")


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Heading and text of each section, without code."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"(?m)^ {4}(?! *[-*] ).*$", "", text)
    for part in re.split(r"(?m)^(?=#{1,3} )", text):
        yield part.partition("\n")[0].lstrip("# "), part.partition("\n")[2]


def sources(section: str) -> list[Path]:
    """Files that a section names: results, cards of trained networks, recipes, constants."""
    named = re.findall(r"\b((?:results|src|reproduce)/[\w./-]+\.(?:csv|json|md|yaml|py|h))", section)
    beside = re.findall(r"[(`]([\w/-]+\.(?:csv|md))", section)  # in the list of claims, which lies in results/
    named += [f"results/{name}" for name in beside if (ROOT / "results" / name).is_file()]
    return [ROOT / name for name in dict.fromkeys(named)]


def numbers(path: Path) -> set[float]:
    """All numbers of a file; of timings side by side also how many times as fast one is as another."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".csv":
        cells = [cell.strip("+%") for row in csv.reader(text.splitlines()) for cell in row]
        return {float(cell) for cell in cells if re.fullmatch(r"-?\d+\.?\d*(e[+-]?\d+)?", cell)}
    if path.suffix == ".json":
        return set(leaves(data := json.loads(text))) | set(ratios(data))
    return {float(one.replace(",", "")) for one in re.findall(NUMBER, text)}


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from leaves(one)
    elif isinstance(value, int | float):
        yield float(value)


def ratios(data: Any) -> Iterator[float]:
    """Ours over others' in either arithmetic, and one arithmetic over another, of records that time the same task."""
    if not isinstance(data, list):
        return
    for one, other in permutations(data, 2):
        pair = {one["implementation"], other["implementation"]}
        same = all(one[key] == other[key] for key in ("task", "model", "preset", "batch", "threads"))
        if same and (len(pair) == 1 or pair & OURS):
            for key in ("images_per_second", "peak_memory_mb"):
                if one[key] and other[key]:
                    yield one[key] / other[key]


def is_in(figure: str, found: set[float], share: bool) -> bool:
    """Whether a number, rounded to the digits of a figure, is one of those found, or as a share of one is."""
    digits, value = len(figure.partition(".")[2]), float(figure.replace(",", ""))
    step = 10.0**-digits
    return any(
        abs(abs(one) * factor - value) <= step / 2 * (1 + 1e-9)
        for one in found
        for factor in ((1, 100) if share else (1,))
    )


def figures(section: str) -> Iterator[tuple[str, bool]]:
    """The figures of a section, and whether each is a share."""
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)|https?://\S+", "", section)
    for found in FIGURE.finditer(prose):
        number, unit = found.groups()
        if unit or "." in number or "," in number:
            yield number, unit == "%"


def parts(section: str) -> Iterator[tuple[str, list[Path]]]:
    """Paragraphs, list items and table rows of a section, each with the files that it names, or else its section."""
    for part in re.split(r"\n\s*\n|\n(?=[|-] ?)", section):
        yield part, sources(part) or sources(section)


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_is_in_a_file_that_its_paragraph_or_section_names(page: str):
    missing = []
    for heading, section in sections(PAGES[page]):
        for part, files in parts(section):
            found = set().union(*map(numbers, files))
            missing += [f"{heading}: {one}" for one, share in figures(part) if not is_in(one, found, share)]
    assert missing == []


def cells(page: Path) -> Iterator[tuple[str, str]]:
    """What stands in each place of a page's table that is also a file, and what stands there in the file beside it."""
    head, *rows = csv.reader(page.with_suffix(".csv").read_text(encoding="utf-8").splitlines())
    text = page.read_text(encoding="utf-8")
    lines = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in text.splitlines()]
    begin = next((at for at, names in enumerate(lines) if len(names) > 1 and {*names} <= {*head}), None)
    for row, line in zip(rows, lines[begin + 2 :] if begin else (), strict=False):
        yield from ((cell, row[head.index(name)]) for name, cell in zip(lines[begin], line, strict=True))


def is_rounded(cell: str, number: str) -> bool:
    """Whether a cell of a page is a cell of its file, to the digits of the page."""
    if cell == number or (cell, number) == ("-", ""):
        return True
    plain = cell.strip("+%").replace(",", "")
    digits, _, power = plain.partition("e")
    step = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
    return abs(float(plain) - float(number) * (100 if "%" in cell else 1)) <= 0.5001 * step


def test_pages_of_results_say_what_the_files_beside_them_say():
    found = {page: [*cells(page)] for page in (ROOT / "results").rglob("*.md") if page.with_suffix(".csv").is_file()}
    wrong = [(page.name, *pair) for page, pairs in found.items() for pair in pairs if not is_rounded(*pair)]
    assert wrong == []
    assert sum(map(len, found.values())) > 4000


def test_a_figure_that_is_in_no_file_is_found():
    section = "By [results/table1.md](../results/table1.md) it is 0.0583, 4.9% and 1.23x as fast, of 10,000 images."
    found = numbers(sources(section)[0])
    assert [one for one, share in figures(section) if not is_in(one, found, share)] == ["4.9", "1.23", "10,000"]


@pytest.mark.slow
def test_the_audit_that_is_shown_is_what_the_command_prints(command):
    network = "pretrained:digits-spiking-vgg-xs"
    code, printed, _ = command("audit", network, "--no-latency")
    assert code == 0
    lines = {line.rstrip() for line in printed.splitlines()}
    (shown,) = re.findall(rf"Of `{network}`.*?```text\n(.*?)```", PAGES["audit.md"], re.DOTALL)
    assert [line for line in shown.splitlines() if line and line not in lines] == []
