"""What `onespike train` trains, by its options, and what it says when it is interrupted; so does `prune-time`."""

import re
import shlex
from pathlib import Path

import pytest

from onespike.cli.train import _folder
from onespike.training import Recipe, Run, Stopped, train
from tests.running import raising
from tests.unit.search.trial import TINY


@pytest.mark.parametrize(("named", "epochs"), [((), 7), (("--recipe", "cifar10/finetune"), 3)])
def test_a_run_from_old_weights_goes_by_the_old_recipe(named, epochs, small, command, tmp_path: Path, monkeypatch):
    seen: list[tuple[Recipe, Run]] = []
    monkeypatch.setattr("onespike.training.loop.train", lambda recipe, out, *_, **__: seen.append((recipe, out)))
    old = Run(tmp_path / "old")
    old.begin(small(train__epochs=7))
    assert command("train", "--init-from", old.folder, *named, "--train.lr", 0.5)[0] == 0
    ((recipe, run),) = seen
    assert (recipe.model, recipe.train.epochs, recipe.train.lr) == (old.recipe.model, epochs, 0.5)
    assert run.folder.name.startswith("old-" if not named else "cifar10-finetune-")


@pytest.mark.parametrize("how", ["--resume", "--init-from"])
def test_what_a_run_is_warned_of_is_said_once(how, small, command, tmp_path: Path):
    train(small(train__epochs=1, data__limit=60), tmp_path / "old", quiet=True)
    (tmp_path / "old" / "metrics.csv").write_text("")
    out = ("--out", tmp_path / "new") if how == "--init-from" else ()
    code, _, complaint = command("train", how, tmp_path / "old", *out, "--train.epochs", 2)
    assert (code, complaint.count("metrics.csv is not what was written")) == (0, 1)


@pytest.mark.parametrize(("recipe", "name"), [("cifar10/fast", "cifar10-fast"), ("there/mine.v2.yaml", "mine.v2")])
def test_without_a_name_a_run_is_called_after_its_recipe(recipe: str, name: str):
    assert re.fullmatch(rf"{re.escape(name)}-\d{{8}}-\d{{6}}", _folder(recipe).name)


@pytest.mark.parametrize("complete", [False, True])
def test_ctrl_c_in_the_test_of_a_twin_says_how_to_go_on(complete, command, tmp_path: Path, monkeypatch):
    def interrupted(recipe: Recipe, run: Run, *_: object, **__: object) -> None:
        run.begin(recipe)
        if complete:
            run.finish({})
        raise KeyboardInterrupt

    monkeypatch.setattr("onespike.training.loop.train", interrupted)
    code, _, complaint = command("train", "--out", tmp_path / "run")
    advice = "" if complete else f"go on with: onespike train --resume {tmp_path / 'run'}\n"
    assert (code, complaint) == (130, f"{advice}interrupted\n")


def test_who_stops_a_run_with_a_class_of_ones_own_is_told_a_command_that_goes_on(command, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("onespike.training.loop.train", raising(Stopped()))
    of_class = ("--model.class_path", "tests.unit.search.trial.Net")
    code, _, complaint = command("train", "--out", tmp_path / "my run", *of_class)
    again = f"onespike train --resume '{tmp_path}/my run' --import tests.unit.search.trial"
    assert (code, complaint) == (130, f"stopped and saved; go on with: {again}\n")


def test_ctrl_c_in_the_test_of_a_stage_says_how_to_go_on(command, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("onespike.training.pruning.prune_time", raising(KeyboardInterrupt))
    code, _, complaint = command("prune-time", "--from", 2, "--out", tmp_path, "--recipe", "cifar10/conv12")
    assert (code, complaint) == (130, "the same command goes on\ninterrupted\n")


def test_what_to_do_with_a_run_of_a_class_of_ones_own_is_told_by_commands_that_work(command, tmp_path: Path):
    values = [word for name, value in TINY.items() if not name.startswith("model.") for word in (f"--{name}", value)]
    of_class = ("--model.class_path", "tests.unit.search.trial.Net")
    _, printed, _ = command("train", "--out", tmp_path / "my run", *values, *of_class)
    run, allowing = f"'{tmp_path}/my run'", "--import tests.unit.search.trial"
    then = f"onespike evaluate {run} {allowing}; onespike inspect {run} --sample 0 {allowing}"
    assert f"see curves.png, then: {then}\n" in printed
    assert command(*shlex.split(then.split(";")[0])[1:])[0] == 0
