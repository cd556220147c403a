import csv
import json
import os
import re
import shlex
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from tiny import SMALL

from onespike.errors import OnespikeError
from onespike.models import model_config
from onespike.training import load_recipe, loop
from onespike.training.loop import Diverged, Stopped
from onespike.training.recipe import dump
from onespike.training.run import Run
from onespike.training.trainer import Trainer
from reproduce import __main__ as command_line
from reproduce import sweep as engine
from reproduce.ablation import ABLATION
from reproduce.accuracy import ACCURACY
from reproduce.costs import read_costs, write_costs
from reproduce.figure1 import FIGURE1
from reproduce.ledger import COLUMNS, Ledger, make_row
from reproduce.operations import OPERATIONS
from reproduce.outcome import Outcome, describe_budget, describe_progress, outcomes, write_outcomes
from reproduce.outcome_figure import draw_depths, draw_rows
from reproduce.over_time import EVENTS
from reproduce.plan import OWN, Setting, Sweep, digest, plan, resolve
from reproduce.report import portable, read_rows
from reproduce.sweep import run_sweep
from reproduce.table2 import TABLE2
from reproduce.windows import WINDOWS
from tests.running import thorough
from tests.test_measured import RECIPES

RESULTS = Path(__file__).parents[3] / "results"
EXTRA = Setting("theta", "0.7", {"model.theta": 0.7})


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Training takes no time and leaves what it always leaves; gives the run folders, as they come."""
    calls, starts = [], []

    def pretend(recipe: Any, out: Path, resume: bool, init_from: Any) -> None:
        assert not resume
        calls.append(out)
        starts.append(init_from)
        run = Run(out)
        run.begin(recipe)
        run.last.mkdir()
        numbers = {"valid_top1": 40.0, "seconds": 60.0, "images_per_second": 100.0, "test_top5": 90.0, "test_loss": 1.0}
        numbers |= {"test_images": 10, "epochs": 1, "best_epoch": 1, "parameters": 1}
        if recipe.model.neuron.reset == "zero":
            raise Diverged("the loss is no longer a finite number")
        run.finish({"test_top1": 50.0 + recipe.model.theta + recipe.train.seed, **numbers})

    pretend.starts = starts
    monkeypatch.setattr(loop, "train", pretend)
    return calls


def row(training: Any, top1: float, **others: Any) -> dict[str, Any]:
    given = {"group": training.setting.group, "setting": training.setting.label, "seed": training.seed}
    numbers = {"outcome": "trained", "test_top1": top1, "seconds": 60.0, "digest": training.digest}
    return {**dict.fromkeys(COLUMNS, ""), "valid_top1": None, "pflop": None, **given, **numbers, **others}


def test_trains_each_recipe_once_and_goes_on_from_the_rows(sweep: Sweep, trained, tmp_path: Path):
    out = tmp_path / "results"
    run_sweep(sweep, SMALL, 2, out, tmp_path / "work")
    assert [folder.name.split("-seed")[0] for folder in trained] == ["baseline-baseline", "theta-0.3"] * 2
    rows = Ledger(out / "demo.runs.csv").rows()
    assert [one["seed"] for one in rows] == [0, 0, 1, 1]  # seeds outermost
    assert all(one["torch"] and one["machine"] and one["images_per_second"] > 0 for one in rows)
    assert not any((folder / "last").exists() for folder in trained)
    table = read_rows(out / "demo.csv")
    assert [one["against the baseline"] for one in table][::2] == ["baseline", "baseline"]
    assert table[0]["test top-1 %"] == table[2]["test top-1 %"]
    # Another session, to which only the results folder came: nothing is trained again, but another seed is.
    run_sweep(sweep, SMALL, 2, out, tmp_path / "elsewhere")
    assert len(trained) == 4
    run_sweep(sweep, SMALL, 3, out, tmp_path / "elsewhere")
    assert len(trained) == 6


def test_a_setting_may_start_from_a_run(sweep: Sweep, trained, tmp_path: Path):
    run_sweep(sweep, SMALL, 1, tmp_path / "results", tmp_path / "work")
    fresh = sweep.settings[0]
    tuned = replace(fresh, label="tuned", start=str(trained[0]))
    run_sweep(replace(sweep, settings=[fresh, tuned]), SMALL, 1, tmp_path / "more", tmp_path / "work-too")
    assert loop.train.starts[-2:] == [None, str(trained[0])]
    rows = Ledger(tmp_path / "more" / "demo.runs.csv").rows()
    assert [row["setting"] for row in rows] == [fresh.label, "tuned"]
    assert len({row["digest"] for row in rows}) == 2
    other = replace(sweep, settings=[fresh, replace(tuned, overrides={"model.theta": 0.3})])
    with pytest.raises(OnespikeError, match=r"tuned starts from .*; leave --model"):
        run_sweep(other, SMALL, 1, tmp_path / "others", tmp_path / "work")
    assert not (tmp_path / "others").exists()


def test_a_finished_run_whose_row_was_lost_is_not_trained_again(sweep: Sweep, trained, tmp_path: Path):
    run_sweep(sweep, SMALL, 1, tmp_path, tmp_path / "work")
    before = (tmp_path / "demo.runs.csv").read_text()
    (tmp_path / "demo.runs.csv").unlink()
    run_sweep(sweep, SMALL, 1, tmp_path, tmp_path / "work")
    assert len(trained) == 2
    assert (tmp_path / "demo.runs.csv").read_text() == before


@pytest.mark.parametrize("damage", ["{", "{}", "[1]", None])
def test_a_damaged_environment_is_one_line(damage: str | None, sweep: Sweep, tmp_path: Path):
    if damage:
        (tmp_path / "environment.json").write_text(damage)
    with pytest.raises(OnespikeError, match=r"environment\.json"):
        make_row(resolve(sweep, SMALL)[0], Run(tmp_path))


@pytest.mark.parametrize(("device", "machine"), [("auto", "a GPU"), ("cpu", "a processor")])
def test_a_row_names_the_machine_that_trained(device: str, machine: str, sweep: Sweep, tmp_path: Path):
    facts = {
        "commit": "c",
        "processor": "a processor",
        "threads": 1,
        "accelerators": ["a GPU"],
        "packages": {"torch": "2"},
    }
    (tmp_path / "environment.json").write_text(json.dumps(facts))
    [training, *_] = resolve(sweep, {**SMALL, "train.device": device})
    found = make_row(training, Run(tmp_path), diverged=True)
    assert [found[name] for name in ("machine", "torch", "commit", "test_top1")] == [machine, "2", "c", None]


def test_time_left_is_that_of_other_seeds_or_else_of_all(sweep: Sweep):
    one, other, *_, unknown = plan(resolve(replace(sweep, settings=[*sweep.settings, EXTRA]), SMALL), 2)
    rows = [row(one, 50, seconds=60.0), row(other, 50, seconds=120.0), row(other, 50, seconds=None)]
    assert engine._time_left([one, other, other, unknown], rows) == 60 + 120 + 120 + 90
    assert engine._time_left([one], rows[2:]) is None


@pytest.mark.slow
def test_an_interrupted_training_goes_on_from_its_checkpoint(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    budget = {**SMALL, "train.epochs": 2}
    alone = replace(sweep, settings=sweep.settings[:1])
    step, steps = Trainer.step, []

    def count(self: Trainer, number: int, *batch: Any) -> Any:
        steps.append(number)
        if steps == [0, 1, 2, 3, 4]:  # in the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number, *batch)

    monkeypatch.setattr(Trainer, "step", count)
    with pytest.raises(Stopped):
        run_sweep(alone, budget, 1, tmp_path / "one", tmp_path / "work")
    assert "| baseline | baseline | 0 | 1 |" in (tmp_path / "one" / "demo.md").read_text()
    run_sweep(alone, budget, 1, tmp_path / "one", tmp_path / "work")
    assert steps == [0, 1, 2, 3, 4, 5]
    run_sweep(alone, budget, 1, tmp_path / "two", tmp_path / "work2")
    one, two = (Ledger(tmp_path / name / "demo.runs.csv").rows() for name in ("one", "two"))
    assert one[0]["test_top1"] == two[0]["test_top1"]


def test_parts_share_the_work(sweep: Sweep, trained, tmp_path: Path):
    run_sweep(sweep, SMALL, 1, tmp_path, tmp_path / "work", part=(2, 2))
    assert [folder.name.split("-seed")[0] for folder in trained] == ["theta-0.3"]
    assert "1 of 2 runs are done; what is missing is marked pending" in (tmp_path / "demo.md").read_text()
    assert "baseline | 0 | 1 | - | - | - | - | - | - | pending" in (tmp_path / "demo.md").read_text()
    run_sweep(sweep, SMALL, 1, tmp_path, tmp_path / "work", part=(1, 2))
    assert len(Ledger(tmp_path / "demo.runs.csv").rows()) == 2
    assert "2 of 2 runs are done. Trained on " in (tmp_path / "demo.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("trained")
def test_a_training_that_diverges_is_said_and_does_not_stop_the_others(sweep: Sweep, tmp_path: Path):
    reset = Setting("reset", "zero", {"model.neuron.reset": "zero"})
    run_sweep(
        replace(sweep, settings=[sweep.settings[0], reset, sweep.settings[1]]), SMALL, 1, tmp_path, tmp_path / "work"
    )
    assert "diverged in 1 of 1" in (tmp_path / "demo.md").read_text()
    rows = Ledger(tmp_path / "demo.runs.csv").rows()
    assert [one["outcome"] for one in rows] == ["trained", "diverged", "trained"]
    assert rows[1]["test_top1"] is None


def test_a_row_is_added_once_by_one_process_at_a_time(sweep: Sweep, tmp_path: Path):
    first, ledger = resolve(sweep, SMALL)[0], Ledger(tmp_path / "demo.runs.csv")
    with ledger.locked():
        for top1 in (10.0, 20.0):  # the second by another process, which was slower
            ledger.add(row(first, top1))
        with pytest.raises(Timeout):
            FileLock(tmp_path / ".demo.runs.csv.lock").acquire(timeout=0)
    assert [one["test_top1"] for one in ledger.rows()] == [10.0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train.epochs": 2}, "epochs was 1, now 2"),
        ({"data.limit": 80, "model.channels": [4, 8]}, "limit was 60, now 80; channels was 4-6, now 4-8"),
        ({"train.lr": 0.3}, "another option of the recipe"),
    ],
)
def test_rows_of_another_budget_are_refused(changed, message, sweep: Sweep, tmp_path: Path):
    [first, _] = plan(resolve(sweep, SMALL), 1)
    ledger = Ledger(tmp_path / "demo.runs.csv")
    spent = {"limit": 60, "epochs": 1, "batch_size": 16, "channels": "4-6", "precision": "fp32"}
    with ledger.locked():
        ledger.add(row(first, 10.0, **spent))
    ledger.check(plan(resolve(sweep, {**SMALL, "data.workers": 1}), 3))  # that changes no result
    with pytest.raises(OnespikeError, match="holds runs of another budget") as error:
        run_sweep(sweep, {**SMALL, **changed}, 1, tmp_path, tmp_path / "work")
    assert message in str(error.value)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    "damage",
    [
        *({"test_top1": "nan"}, {"test_top1": "5000"}, {"test_top1": ""}, {"seconds": "inf"}, {"seconds": "-1"}),
        *({"outcome": "foo"}, {"outcome": ""}, {"seed": "-1"}, {"seed": "x"}, {"digest": ""}),
        *("twice", "short", "long"),
    ],
    ids=str,
)
def test_damaged_rows_are_refused(damage, tmp_path: Path):
    path = tmp_path / "demo.runs.csv"
    sound = {**dict.fromkeys(COLUMNS, ""), "seed": "0", "outcome": "trained", "test_top1": "50", "digest": "abc"}
    lines = [[{**sound, **(damage if isinstance(damage, dict) else {})}[name] for name in COLUMNS]]
    if damage == "twice":
        lines *= 2
    elif damage == "short":
        lines[0] = lines[0][:3]
    elif damage == "long":
        lines[0].append("more")
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *lines])
    with pytest.raises(OnespikeError, match=r"demo\.runs\.csv cannot be read as the runs of a sweep"):
        Ledger(path).rows()


def test_digest():
    first, theta, *_ = resolve(ABLATION, {})
    base = first.recipe
    assert digest(base) == first.digest == theta.digest  # alternating windows, the baseline's own
    assert digest(replace(base, train=replace(base.train, seed=5, save_minutes=1))) == digest(base)
    assert digest(replace(base, train=replace(base.train, lr=0.1))) != digest(base)
    assert digest(replace(base, data=replace(base.data, root="/somewhere"))) == digest(base)
    own = replace(base, data=replace(base.data, name="folder", root="/here"))
    assert digest(replace(own, data=replace(own.data, root="/somewhere"))) != digest(own)


@pytest.mark.parametrize(
    ("name", "whole", "point"),
    [("train.weight_decay", 1, 1.0), ("model.neuron.decay", 0, 0.0), ("train.noise_range", [0, 1], [0.0, 1.0])],
)
def test_equal_numbers_are_one_recipe(name: str, whole: Any, point: Any):
    one, other = (digest(load_recipe("cifar10/conv12", {name: value})) for value in (whole, point))
    assert one == other


def test_verdicts(sweep: Sweep, tmp_path: Path):
    planned = resolve(sweep, SMALL)
    trainings = plan(planned, 3)

    def judge(baseline: list[float], theta: list[float]) -> list[str]:
        rows = [row(trainings[2 * seed], value) for seed, value in enumerate(baseline)]
        rows += [row(trainings[2 * seed + 1], value) for seed, value in enumerate(theta)]
        write_outcomes(sweep, planned, 3, rows, tmp_path)
        return [outcome.verdict for outcome in outcomes(sweep, planned, 3, rows)]

    assert judge([], []) == ["pending"] * 3
    assert judge([50, 51, 52], []) == ["baseline", "pending", "baseline"]
    assert judge([], [50]) == ["pending", "no baseline yet", "pending"]
    assert judge([50], [70]) == ["baseline", "no interval", "baseline"]
    assert judge([50, 51, 52], [50, 51, 53]) == ["baseline", "indistinguishable", "baseline"]
    assert judge([50, 51, 52], [70, 71, 72]) == ["baseline", "above", "baseline"]
    assert judge([50, 51, 52], [30, 31, 32]) == ["baseline", "below", "baseline"]
    assert "What the data says: below the baseline: " in (tmp_path / "demo.md").read_text()
    # Differences 1, 2 and 3: mean 2, half the interval 4.3027 / sqrt(3).
    assert judge([50, 51, 52], [51, 53, 55]) == ["baseline", "indistinguishable", "baseline"]
    text = (tmp_path / "demo.md").read_text()
    assert "| indistinguishable | +2.00 | 2.48 |" in text
    assert "Seed by seed" not in text  # 2 is less than 2.48
    judge([50, 51, 52], [51, 52, 53.3])  # 1, 1 and 1.3: 1.1 +- 0.43
    assert (
        "Seed by seed a difference to the baseline shows for theta 0.3 (+1.10); 1 rows"
        in (tmp_path / "demo.md").read_text()
    )
    assert "intervals part from some 7.0 points on" in text  # 2 x 4.3027 x sqrt((1 + 4 + 1) / 3) / sqrt(3)


def test_seeds_that_diverged_are_counted_apart_and_named(sweep: Sweep, tmp_path: Path):
    planned = resolve(sweep, SMALL)
    trainings = plan(planned, 3)
    rows = [row(one, 50) for one in trainings[::2]]
    rows += [row(trainings[1], 90), {**row(trainings[3], 0), "outcome": "diverged", "test_top1": None}]
    write_outcomes(sweep, planned, 3, rows, tmp_path)
    text = (tmp_path / "demo.md").read_text()
    assert "| 1 | 1 | 1 | 90.00 | - | - | - |" in text
    assert "| diverged in 1 of 2 | +40.00 | - |" in text
    assert "diverged with some seed: theta 0.3." in text


def test_a_budget_names_what_its_runs_do_not_share(sweep: Sweep):
    trainings = plan(resolve(sweep, SMALL), 1)
    text = describe_budget(trainings, 1)
    assert "60 training images, of which 10% are held out to choose the epoch, 1 epoch, batches of 16," in text
    recipe = replace(trainings[0].recipe, train=replace(trainings[0].recipe.train, optimizer="muon", batch_size=7))
    text = describe_budget([*trainings, replace(trainings[0], recipe=recipe)], 1)
    assert "or 7, " in text
    assert " or muon at " in text
    assert "channels 4-6, fp32" in text
    assert "with 0.1 epochs of warm-up; seed 0." in text
    strict = replace(trainings[0].recipe, model=model_config("spiking-vgg-m"))
    text = describe_budget([replace(trainings[0], recipe=strict)], 1)
    assert "batches of 16, fp32" in text


def judged(sweep: Sweep, values: list[list[float | None]]) -> list[Outcome]:
    """The outcomes of a sweep whose settings have these accuracies, seed after seed; None is one that diverged."""
    planned = resolve(sweep, SMALL)
    trainings = plan(planned, 3)
    each = len(trainings) // 3
    rows = [
        row(
            trainings[each * seed + number], top1 or 0.0, **({} if top1 else {"outcome": "diverged", "test_top1": None})
        )
        for number, seeds in enumerate(values)
        for seed, top1 in enumerate(seeds)
    ]
    return outcomes(sweep, planned, 3, rows)


@pytest.mark.parametrize(
    ("values", "legend", "label"),
    [
        ([[50, 51, 52], [70, 71, 72]], ["baseline", "above", "published"], "test accuracy, %; bars: 95% intervals"),
        ([[50, 51, 52], [70, None]], ["baseline", "diverged with some seed", "published"], None),
        ([[50], [70]], ["baseline", "no verdict", "published"], "test accuracy, %"),
        ([[], [70]], ["no verdict", "published"], "test accuracy, %"),
    ],
)
def test_the_legend_of_a_picture_has_what_is_drawn(values, legend: list[str], label: str | None, sweep: Sweep):
    figure = draw_rows(judged(sweep, values))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == legend
    colours = [handle.get_color() for handle in figure.legends[0].legend_handles]
    assert len(set(colours)) == len(colours)
    assert label in (None, figure.axes[-1].get_xlabel())


def test_pending_stands_beside_the_number_that_is_published(sweep: Sweep):
    [word] = draw_rows(judged(sweep, [[50], []])).axes[1].texts
    assert (word.get_text(), word.xy) == ("pending", (50.0, 0))
    assert word.get_position()[0] > 0


@pytest.mark.parametrize(("values", "bars"), [([[50, 51]], "; bars: 95% intervals"), ([[50]], "")])
def test_a_picture_over_depths_says_what_its_bars_are(values, bars: str, sweep: Sweep):
    depths = replace(sweep, settings=[Setting("conv", "12", {})], reference="best")
    assert draw_depths(judged(depths, values)).axes[0].get_ylabel() == f"test accuracy, %{bars}"


def test_a_picture_over_depths_names_units_and_blocks_that_are_pending(sweep: Sweep):
    labels = ((unit, depth) for unit in ("conv", "lstm") for depth in ("12", "20"))
    settings = [Setting(unit, depth, {"model.theta": 0.1 * n}) for n, (unit, depth) in enumerate(labels, 1)]
    [axis] = draw_depths(judged(replace(sweep, settings=settings, reference="best"), [[50], [], [50]])).axes
    assert axis.get_title("right") == "pending: conv 20, lstm 20"


def test_a_table_over_time_tells_pending_from_diverged(sweep: Sweep, tmp_path: Path):
    planned = resolve(sweep, SMALL)
    trainings = plan(planned, 1)
    drawn = replace(sweep, draw=EVENTS.draw)

    def states(*rows: dict[str, Any]) -> list[str | None]:
        write_costs(drawn, planned, 1, rows, tmp_path)
        return [one.get("state") for one in read_rows(tmp_path / "demo.csv")]

    done, lost = row(trainings[0], 50), row(trainings[1], 0, outcome="diverged", test_top1=None)
    assert states() == ["pending"] * 3
    assert states(done) == ["", "pending", ""]
    assert states(done, lost) == ["", "diverged in 1 of 1", ""]
    assert states(done, row(trainings[1], 50)) == [None] * 3


@pytest.mark.parametrize("sweep", [TABLE2, FIGURE1], ids=lambda sweep: sweep.name)
def test_each_row_is_the_network_that_its_label_says_whatever_the_recipe_lists(sweep: Sweep, tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(dump(load_recipe("cifar10/conv12")))
    found = [one.recipe.model for one in resolve(replace(sweep, recipe=str(file)), {})]
    models = [one.recipe.model for one in resolve(sweep, {})]
    assert [(one.unit, one.depths) for one in found] == [(one.unit, one.depths) for one in models]
    with pytest.raises(OnespikeError, match=r"model\.unit"):
        resolve(sweep, {"model.unit": "conv"})


def test_no_table_is_begun_whose_images_are_not_there(sweep: Sweep, tmp_path: Path):
    with pytest.raises(OnespikeError, match="absent"):
        run_sweep(sweep, {"data.name": "cifar10", "data.root": str(tmp_path / "absent")}, 1, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_command_says_nothing_of_who_did_which_part():
    command = [
        "/a/reproduce/__main__.py",
        "ablation",
        "--part",
        "1/2",
        "--part=1/2",
        "--data.root=/b/data",
        "--seeds",
        "3",
    ]
    assert portable(command) == ["python", "-m", "reproduce", "ablation", "--data.root=…/data", "--seeds", "3"]
    command = ["onespike", "--runs", "[/home/a/one,/home/a/two]", "/home/a b/three", "cifar10/conv12", "a/b"]
    assert portable(command) == ["onespike", "--runs", "[…/one,…/two]", "…/three", "cifar10/conv12", "a/b"]


def test_the_command_of_a_module_can_be_run():
    program = str(RESULTS.parent / "benchmarks" / "calibration.py")
    assert portable([program, "RUN"]) == ["python", "-m", "benchmarks.calibration", "RUN"]
    assert portable([str(RESULTS / "own.py"), "RUN"]) == ["own.py", "RUN"]


def test_against_the_best_of_the_group(sweep: Sweep):
    best = replace(sweep, reference="best", settings=[*sweep.settings[1:], replace(EXTRA, group="alone")])
    planned = resolve(best, SMALL)
    first, second, alone = plan(planned, 1)
    rows = [row(first, 60), row(second, 40), row(alone, 10)]
    assert [outcome.verdict for outcome in outcomes(best, planned, 1, rows)] == ["best", "no interval", "best"]


def test_differences_are_of_the_same_seed(sweep: Sweep):
    planned = resolve(sweep, SMALL)
    one, two, three = plan(planned, 3)[::2], plan(planned, 3)[1::2], plan(planned, 4)[6]
    rows = [row(*each) for each in zip(one, (50, 60, 70), strict=True)] + [row(three, 99)]
    rows += [row(two[2], 71.5), row(two[1], 60.5)]  # in any order, and one is still missing
    baseline, theta, _ = outcomes(sweep, planned, 3, rows)
    assert baseline.accuracies == {0: 50, 1: 60, 2: 70}, "a fourth seed was not asked for"
    assert (theta.difference.mean, theta.difference.count) == (1.0, 2)
    said = "5 of 6 runs are done; what is missing is marked pending. The file of runs has 1 more, of further seeds."
    assert describe_progress(planned, 3, rows).startswith(said)


def test_a_row_sets_what_its_label_says_whatever_all_are_given(sweep: Sweep):
    assert [one.recipe.model.theta for one in resolve(sweep, SMALL | {"model.theta": 0.7})] == [0.7, 0.3, 0.5]


def test_what_another_process_did_meanwhile_is_not_done_again(sweep: Sweep, trained, tmp_path: Path, monkeypatch):
    pretend = loop.train

    def beside(recipe: Any, out: Path, *how: Any) -> None:
        pretend(recipe, out, *how)
        if len(trained) == 1:
            run_sweep(sweep, SMALL, 1, tmp_path, tmp_path / "other", part=(2, 2))

    monkeypatch.setattr(loop, "train", beside)
    sweep = replace(sweep, draw=lambda _: Figure())
    run_sweep(sweep, SMALL, 1, tmp_path, tmp_path / "work")
    assert [folder.name.split("-seed")[0] for folder in trained] == ["baseline-baseline", "theta-0.3"]
    assert len(Ledger(tmp_path / "demo.runs.csv").rows()) == 2


@pytest.mark.usefixtures("trained")
def test_networks_are_audited_before_their_row_is_there(sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []

    def audit(training: Any, run: Run, path: Path) -> None:
        asked.append((training.key, run.is_complete, path.name, len(Ledger(tmp_path / "demo.runs.csv").rows())))

    monkeypatch.setattr(engine, "audit_training", audit)
    audited = replace(sweep, audited=True, draw=lambda _: Figure())
    run_sweep(audited, SMALL, 1, tmp_path, tmp_path / "work")
    keys = [one.key for one in plan(resolve(sweep, SMALL), 1)]
    assert asked == [(key, True, "demo.audit.csv", number) for number, key in enumerate(keys)]


def test_the_papers_sweeps():
    units = [one.recipe for one in resolve(TABLE2, {"train.epochs": 5})]
    assert [(recipe.data.name, recipe.model.unit) for recipe in units] == [
        (data, unit) for data in ("cifar10", "cifar100") for unit in ("mlp", "rnn", "birnn", "gru", "lstm", "conv")
    ]
    assert {recipe.train.warmup_epochs for recipe in units} == {0.5}
    assert {recipe.data.auto_augment for recipe in units} == {"original"}
    assert [sum(one.recipe.model.depths) for one in resolve(FIGURE1, {})] == [12, 20, 24, 36] * 2
    ablation = plan(resolve(ABLATION, {}), 2)
    assert len(ablation) == 2 * (1 + 3 + 5 + 4 + 3 + 3 + 2 + 1 + 1)  # binary is the paper's with fusion none
    assert ablation[0].recipe.model.preset == "paper"


@pytest.mark.parametrize(
    ("sweep", "key", "value"),
    [
        (ACCURACY, "data.name", "cifar100"),
        (EVENTS, "data.frames", 4),
        (WINDOWS, "model.windows", "average"),
        (WINDOWS, "model.fusion", "sum"),
        (ACCURACY, "model.preset", "ann"),
        (ACCURACY, "train.batch_size", 125),
        (OPERATIONS, "train.rate_penalty", 1),
        (EVENTS, "train.epochs", 5),
        (ACCURACY, "data.limit", 100),
    ],
)
def test_what_the_labels_of_rows_say_is_no_option(sweep: Sweep, key: str, value: Any):
    with pytest.raises(OnespikeError, match=rf"--{OWN.get(key, key)}: rows of {sweep.name} set it themselves"):
        resolve(sweep, {key: value})


@pytest.mark.parametrize(
    ("sweep", "section"),
    [(TABLE2, "data"), (TABLE2, "model"), (ABLATION, "model"), (EVENTS, "model"), (EVENTS, "loss")],
)
def test_no_class_takes_the_place_of_what_rows_name(sweep: Sweep, section: str):
    with pytest.raises(OnespikeError, match=rf"^{section}\.class_path: the rows of {sweep.name} take registered ones"):
        resolve(sweep, {f"{section}.class_path": "pkg.Own"})


def test_rows_that_name_no_data_take_a_class_of_the_users():
    assert {one.recipe.data.class_path for one in resolve(ABLATION, {"data.class_path": "pkg.Own"})} == {"pkg.Own"}


def test_a_folder_of_data_sets(tmp_path: Path):
    (tmp_path / "cifar10").mkdir()
    roots = [one.recipe.data.root for one in resolve(TABLE2, {"data.root": str(tmp_path)})]
    assert roots == [str(tmp_path / "cifar10")] * 6 + [str(tmp_path)] * 6


def test_the_row_of_a_recipe_is_trained_by_it():
    defaults = {"train.epochs": ACCURACY.epochs, "data.limit": ACCURACY.limit, "train.precision": ACCURACY.precision}
    found = {(one.setting.group, one.setting.label): one.digest for one in resolve(ACCURACY, defaults)}
    for recipe, row in RECIPES.items():
        name, *options = recipe.split()
        keys = (key.removeprefix("--") for key in options[::2])
        assert found[row] == digest(load_recipe(name, dict(zip(keys, options[1::2], strict=True)))), recipe


def test_networks_of_two_families_are_two_recipes_though_both_leave_every_value_alone():
    recipes = [load_recipe("cifar10/fast", {"model.name": name}) for name in ("spiking-vgg-m", "spiking-resnet-m")]
    assert digest(recipes[0]) != digest(recipes[1])


def test_the_options_of_each_row_make_its_recipe():
    page = (RESULTS / "accuracy.md").read_text()
    [shared] = re.findall(
        r"^A row alone is trained by `onespike train --recipe reproduce/fast.yaml (.+) --out RUN`", page, re.M
    )
    listed = dict(re.findall(r"^- (.+): `(--.+)`$", page, re.M))
    defaults = {"train.epochs": ACCURACY.epochs, "data.limit": ACCURACY.limit, "train.precision": ACCURACY.precision}
    planned = resolve(ACCURACY, defaults)
    assert [*listed] == [one.setting.name for one in planned]
    for one in planned:
        keys, values = (shlex.split(f"{shared} {listed[one.setting.name]}")[first::2] for first in (0, 1))
        options = {key.removeprefix("--"): value for key, value in zip(keys, values, strict=True)}
        assert digest(load_recipe(ACCURACY.recipe, options)) == one.digest, one.setting.name


TABLES = thorough(sorted(RESULTS.rglob("*.runs.csv")), 4)


@pytest.mark.parametrize("file", TABLES, ids=lambda file: str(file.relative_to(RESULTS)))
def test_the_command_below_a_committed_table_goes_on_from_its_rows_and_makes_it_of_them(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    page = file.with_name(file.name.replace(".runs.csv", ".md"))
    [typed] = re.findall(r"^- Command: `(?:python -m reproduce|onespike paper) (.+)`$", page.read_text(), re.M)
    asked: list[Any] = []
    monkeypatch.setattr(command_line, "run_sweep", lambda *given: asked.extend(given))
    command_line.run(shlex.split(typed))
    sweep, given, seeds, *_ = asked
    planned, ledger = resolve(sweep, given), Ledger(file)
    ledger.check(plan(planned, seeds))
    digests = {(one.setting.group, one.setting.label): one.digest for one in planned}
    rows = ledger.rows()
    assert [row["digest"] for row in rows] == [digests[row["group"], row["setting"]] for row in rows]
    audited = file.with_name(file.name.replace(".runs.", ".audit."))
    assert set(read_costs(audited)) <= {(row["digest"], row["seed"]) for row in rows}
    if sweep.audited:
        shutil.copy(audited, tmp_path)
    anew = write_costs if sweep.audited else write_outcomes
    anew(replace(sweep, draw=lambda _: Figure()), planned, seeds, rows, tmp_path)
    made, committed = (read_rows(folder / f"{sweep.name}.csv") for folder in (tmp_path, file.parent))
    for one, other in zip(made, committed, strict=True):
        assert one.keys() == other.keys()
        for name, cell in one.items():
            assert cell == other[name] or float(cell) == pytest.approx(float(other[name]), rel=1e-9, abs=1e-9), name
