"""Names from outside: none of them acts in a terminal, a spreadsheet or a browser, and none is lost."""

import csv
import os
import re
from pathlib import Path
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onespike.durable import csv_text
from onespike.errors import LINE, OnespikeError, printable
from onespike.terminal import Terminal
from tests.hostile.harness import make_tree

NAMES = (
    "[bold]x[/bold]",
    "[/x]",
    "[",
    "[link=http://x]y",
    ":smile:",
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "a\nb",
    "a\rb",
    "a\tb",
    "\u202eabc",
    "\u2028x",
    "=1+1",
    "@SUM(A1)",
    "+cmd|'/C calc'!A0",
    "-x",
    "<script>alert(1)</script>",
    "'; rm -rf x",
    "%s%n{0}",
    "ü",
    "日本",
    "x" * 255,
    b"\xff\xfe".decode("utf-8", "surrogateescape"),
)
#: What acts in a terminal, but for the escape sequences of colours, which a terminal asks for.
ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029]")


@pytest.mark.parametrize("name", NAMES)
def test_classes(name, command, tmp_path):
    tree = make_tree(tmp_path / "mine")
    for part in ("train", "test"):
        (tree / part / "cat").rename(tree / part / name.replace("/", "|"))
    images = ["--data.name", "folder", "--data.root", tree, "--data.image_size", 16]
    tiny = ["--model.depths", "[1,1]", "--model.channels", "[4,8]", "--train.batch_size", 2, "--train.mixup", 0]
    run = tmp_path / "run"
    code, out, error = command("train", "--out", run, *images, *tiny, "--train.epochs", 1, "--train.track", "[]")
    if {"Cc", "Cs"} & set(map(category, name)):  # no class is called so
        assert (code, error.count("\n")) == (2, 1), error
        assert "rename it" in error
        return
    assert code == 0, error
    code, out, error = command("evaluate", run)
    assert (code, error) == (0, "")
    assert not ACTS.search(out)
    assert "dog" in out
    for file in ("confusion.csv", "per_class.csv"):
        with (run / "evaluation" / file).open(newline="", errors="replace") as opened:
            for row in csv.reader(opened):
                assert not any(cell[:1] in "=+-@" for cell in row if cell and not cell[1:2].isdigit())


@pytest.mark.parametrize("name", [*NAMES, "x" * 256, "~nobody/x", "x/" * 3000])
def test_folders_that_are_written(name, command, tmp_path):
    out = tmp_path / name
    images = ["--data.limit", 40, "--model.depths", "[1,1]", "--model.channels", "[4,8]", "--train.batch_size", 12]
    code, said, error = command("train", "--out", out, *images, "--train.epochs", 1, "--train.track", "[]")
    assert "Traceback" not in error
    if len(name) > 255:
        assert (code, error.count("\n")) == (2, 1)
        assert "cannot write" in error
        assert not list(tmp_path.iterdir())
        return
    assert (code, error) == (0, "")
    assert not ACTS.search(said)
    assert (out / "summary.json").exists()
    assert printable(out, 10_000)[-20:] in said


def test_a_folder_may_be_called_like_a_home(command, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("train", "--out", "~nobodyatall", words=("no such home", "give its whole path"))
    code, _, error = command("train", "--out", tmp_path / "~nobodyatall", "--data.limit", 40, "--train.epochs", 1)
    assert (code, error) == (0, "")
    assert (tmp_path / "~nobodyatall" / "summary.json").exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "arguments", ["evaluate X", "train --resume X", "train --recipe X", "audit X", "X", "train --X"]
)
def test_what_is_not_there(name, arguments, refused):
    refused(*(word.replace("X", name) for word in arguments.split()))


@pytest.mark.parametrize("name", NAMES)
def test_data_sets_that_are_not_there(name, refused, tmp_path):
    refused("train", "--out", tmp_path / "out", "--data.name", name)
    refused("train", "--out", tmp_path / "out", "--data.name", "folder", "--data.root", tmp_path / name)


@given(st.text(max_size=3000))
def test_any_text_is_one_short_line(text):
    assert printable(text).isprintable() or not text
    assert len(printable(text)) <= 12 * LINE
    assert "\n" not in str(OnespikeError(text))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_text_is_printed_as_it_is(text):
    console = Terminal(width=1000, record=True, file=Path(os.devnull).open("w"))  # noqa: SIM115
    with console.file:
        console.print(text)
    shown = console.export_text(styles=False)
    inner = text.strip("\n")
    assert printable(inner).rstrip() in shown.strip("\n") or not inner.strip()


@given(st.lists(st.text(max_size=20), min_size=1))
def test_no_cell_is_a_formula(cells):
    for cell in next(csv.reader(csv_text(cells, ()).splitlines(keepends=True), strict=False), []):
        assert not re.match(r"[=@\t\r]", cell)


def test_numbers_stay_numbers():
    assert csv_text(["a", "-1.5", "+2", "-1e-05"], [[-1.5, "-3%"]]) == "a,-1.5,+2,-1e-05\n-1.5,-3%\n"
