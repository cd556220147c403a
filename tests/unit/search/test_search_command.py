import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from onespike.classpath import allow_imports
from onespike.configs import Text, convert
from onespike.search.report import command_of, words_of
from onespike.search.study import Tried
from onespike.training import Run
from tests.running import read_rows
from tests.unit.search.trial import TINY

OPTIONS = [word for key, value in TINY.items() for word in (f"--{key}", str(value))]
SPACE = "train.lr: {low: 0.02, high: 0.3, log: true}\nmodel.preset: {choices: [binary, strict]}\n"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def rows(out: Path) -> list[dict[str, str]]:
    return read_rows(out / "search.csv")


@pytest.mark.slow
def test_two_objectives_a_call_that_goes_on_and_the_command_that_trains_the_best(command, space, tmp_path):
    out = tmp_path / "out"
    words = ["search", "--space", space, "--out", out, "--energy", "field", *OPTIONS]
    code, _, complaint = command(*words, "--trials", 2)
    assert code == 0, complaint
    first = rows(out)
    code, printed, complaint = command(*words, "--trials", 3)
    assert code == 0, complaint
    assert "trial 0" not in printed.split("the front")[0]  # what is done is not done again
    assert [row["outcome"] for row in rows(out)] == ["trained"] * 3
    assert rows(out)[:2] == [{**row, "best": rows(out)[place]["best"]} for place, row in enumerate(first)]
    page = (out / "search.html").read_text()
    assert page.count("data:image/png;base64,") == 3  # the front, the history, the values
    assert "http" not in page
    for row in rows(out):
        run = Run.open(out / row["run"])
        assert float(row["held out %"]) == run.summary["valid_top1"]
        assert float(row["µJ"]) > 0
        assert run.recipe.train.lr == float(row["train.lr"])
    best = next(row for row in rows(out) if row["best"])
    lines = [line.strip() for line in printed.splitlines() if line.strip().startswith("onespike train")]
    chosen = next(line for line in lines if best["train.lr"] in line)
    assert chosen in page.replace("&#x27;", "'")
    assert command(*shlex.split(chosen)[1:], "--out", tmp_path / "best", "--quiet")[0] == 0
    again, before = Run.open(tmp_path / "best"), Run.open(out / best["run"])
    assert {**again.summary, "seconds": 0, "images_per_second": 0} == {
        **before.summary,
        "seconds": 0,
        "images_per_second": 0,
    }
    code, _, complaint = command(*words, "--train.momentum", 0.5)
    assert (code, "holds another search: train.momentum was 0.9, now 0.5" in complaint) == (2, True)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--trials", 0), "--trials: expected 1 to 1,000,000, got 0"),
        (("--workers", 1000), "--workers: expected 1 to 256, got 1000"),
        (("--energy", "joule"), "unknown --energy 'joule': known: field, int8, memory"),
        (("--data.holdout", 0), "data.holdout: held-out images choose the best trial, and there are none"),
        (("--recipe", "digit"), "unknown recipe 'digit'"),
        (("--storage", "postgresql://u:geheim@127.0.0.1:1/x"), "--storage postgresql://u:***@127.0.0.1:1/x: "),
        (("--train.lr", 0.1), "--train.lr: "),
    ],
)
def test_bad_input_is_one_line(command, space, tmp_path, more: tuple, complaint: str):
    words = ["search", "--space", space, "--out", tmp_path / "out", *OPTIONS]
    for option in more[::2]:
        if str(option) in words:
            place = words.index(option)
            del words[place : place + 2]
    code, printed, error = command(*words, *more)
    assert (code, printed) == (2, "")
    assert complaint in error
    assert error.count("\n") == 1
    assert "geheim" not in error


@pytest.mark.slow
def test_a_search_without_a_result_is_an_error(command, space, tmp_path):
    space.write_text("loss.class_path: {choices: [pkg.One, pkg.Two]}\n")
    code, printed, error = command("search", "--space", space, "--out", tmp_path / "out", *OPTIONS, "--trials", 2)
    assert (code, error.count("\n"), "the best" in printed) == (2, 1, False)
    assert "no trial has a result, the first was refused: loss: pkg." in error
    assert [row["outcome"][:7] for row in rows(tmp_path / "out")] == ["refused"] * 2


def test_the_command_of_a_trial_imports_what_the_search_did():
    allow_imports("json.tool")
    one = Tried(0, "trained", {"train.lr": 0.1}, 90.0, None, {}, best=True)
    command = command_of(one, words_of("digits", {"train.track": []}))
    expected = "onespike train --import json.tool --recipe digits --train.track '[]' --train.lr 0.1"
    assert command == expected


@pytest.mark.parametrize("value", ["no", "null", "1e3", "1.5", "", "~", "[1, 2]", "a: b", "relu", "it's", "é 😀", "_1"])
def test_the_command_of_a_trial_gives_text_back_as_it_is(value):
    name = "model.init_args.mode"
    own = Tried(0, "trained", {name: value, "train.optimizer": "sgd"}, 90.0, None, {}, best=True)
    commands = [words_of("digits", {name: value})]
    if value != "[1, 2]":  # which stands for a list in a space
        commands.append(shlex.split(command_of(own, [])))
        assert commands[-1][-2:] == ["--train.optimizer", "sgd"]
    for words in commands:
        assert convert(Text(words[words.index(f"--{name}") + 1]), Any, name) == value
    assert words_of("digits", {name: Text(value)})[-1] == value  # as it was typed
    assert words_of("digits", {"data.root": value})[-1] == value  # the type tells
    chosen = Tried(0, "trained", {name: "[4, 8]"}, 90.0, None, {}, best=True)
    assert command_of(chosen, []).endswith("'[4, 8]'")


def test_text_that_looks_like_an_option_is_joined_to_its_own():
    assert words_of("digits", {"data.root": "--mine", "data.name": "folder"})[2:] == [
        "--data.root=--mine",
        "--data.name",
        "folder",
    ]


@pytest.mark.parametrize("name", ["search.csv", "trial-000/mine", "notes.txt"])
def test_a_folder_of_somebody_elses_is_left_as_it_is(command, space, tmp_path, name):
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("precious")
    code, _, error = command("search", "--space", space, "--out", tmp_path / "out", *OPTIONS)
    assert (code, error.count("\n")) == (2, 1)
    assert f"holds {Path(name).parts[0]}, which is of no earlier search: choose another folder" in error
    assert [path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["precious"]


def test_without_space_or_folder_it_says_what_it_needs(command, tmp_path):
    assert "expected a space and a folder: onespike search --space FILE --out FOLDER" in command("search")[2]
    missing = command("search", "--space", tmp_path / "no.yaml", "--out", tmp_path / "out")[2]
    assert "no.yaml: No such file or directory; expected a YAML file" in missing


def test_without_the_extra_it_says_what_to_install(command, space, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, error = command("search", "--space", space, "--out", tmp_path / "out", *OPTIONS)
    assert (code, error) == (2, "error: search: optuna is missing: pip install 'onespike[search]'\n")
