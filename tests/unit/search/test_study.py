import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from onespike.errors import OnespikeError
from onespike.lock import held
from onespike.search import storage as storages
from onespike.search import study as studies
from onespike.search.storage import open_storage
from onespike.search.study import claim, expect_same_search, open_study, tried
from onespike.training.recipe import load_recipe
from tests.unit.data.layouts import save_image

SPACE = {"train.lr": FloatDistribution(0.01, 0.1)}


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return open_study(open_storage(None, tmp_path), "test", 20, "", 4)


@pytest.fixture
def alive(tmp_path: Path):
    """Processes that live as long as the test, or until they are left."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(held(tmp_path / studies.WORKERS / name))


def dead(folder: Path, name: str) -> None:
    """What a process leaves that was killed."""
    code = "import os, pathlib, sys\nfrom onespike.lock import held\nwith held(pathlib.Path(sys.argv[1])): "
    process = folder / studies.WORKERS / name
    assert subprocess.run([sys.executable, "-c", f"{code}os._exit(9)", process]).returncode == 9
    assert process.is_dir()


def test_one_objective_is_searched_by_tpe_that_counts_what_runs_as_bad(tmp_path, monkeypatch):
    made, sampler = [], optuna.samplers.TPESampler
    monkeypatch.setattr(optuna.samplers, "TPESampler", lambda **given: made.append(given) or sampler(**given))
    assert isinstance(open_study(open_storage(None, tmp_path), "test", 20, "", 4).sampler, sampler)
    assert made == [{"constant_liar": True}]


def test_a_trial_below_the_median_is_pruned_after_a_quarter_of_its_epochs(tmp_path):
    study = open_study(open_storage(None, tmp_path), "test", 20, "", 8)
    for _ in range(5):
        other = study.ask()
        for epoch in (1, 2, 3):
            other.report(90.0, epoch)
        study.tell(other, 90.0)
    poor, pruned = study.ask(), []
    for epoch in (1, 2, 3):
        poor.report(10.0, epoch)
        pruned.append(poor.should_prune())
    assert pruned == [False, True, True]


@pytest.mark.parametrize(("trials", "population"), [(10, 4), (100, 20), (1000, 50)])
def test_two_objectives_are_searched_by_generations_that_fit_the_number_of_trials(tmp_path, trials, population):
    study = open_study(open_storage(None, tmp_path), "test", trials, "field", 4)
    assert isinstance(study.sampler, optuna.samplers.NSGAIISampler)
    assert study.sampler.population_size == population
    assert isinstance(study.pruner, optuna.pruners.NopPruner)


def numbers(found: list[studies.Tried]) -> list[tuple[int, str]]:
    return [(one.number, one.outcome) for one in found]


def test_a_trial_whose_process_died_is_made_again_with_its_values(study, tmp_path, alive):
    alive("b")
    first = claim(study, SPACE, 2, tmp_path, "a")
    dead(tmp_path, "a")
    again = claim(study, SPACE, 2, tmp_path, "b")
    assert again.params == first.params
    assert (again.number, again.user_attrs[studies.SLOT]) == (1, 0)
    assert study.trials[0].state == TrialState.FAIL
    study.tell(again, 50.0)
    other = claim(study, SPACE, 2, tmp_path, "b")
    assert other.params != first.params
    study.tell(other, 60.0)
    assert claim(study, SPACE, 2, tmp_path, "b") == "done"
    assert numbers(tried(study, "")) == [(0, "trained"), (2, "trained")]
    assert [one.best for one in tried(study, "")] == [False, True]


def test_a_process_that_died_while_it_drew_values_fixes_none(study, tmp_path, alive):
    space = {name: FloatDistribution(0, 1) for name in "ab"}
    alive("c")
    first = study.ask()
    first.set_user_attr(studies.SEEN, 0.0)
    first.suggest_float("a", 0, 1)
    second = claim(study, space, 1, tmp_path, "b")
    dead(tmp_path, "b")
    assert claim(study, space, 1, tmp_path, "c").params == second.params


def test_a_process_elsewhere_is_dead_once_it_has_not_been_seen_for_long(study, tmp_path, alive, monkeypatch):
    alive("b")
    claim(study, SPACE, 1, tmp_path, "elsewhere")
    assert claim(study, SPACE, 1, tmp_path, "b") == "wait"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + studies.GRACE + 1)
    assert claim(study, SPACE, 1, tmp_path, "b").user_attrs[studies.SLOT] == 0


def test_the_values_of_a_trial_outlive_processes_that_died_before_they_drew_them(study, tmp_path):
    def dies_early(name: str) -> None:
        study.ask().set_user_attr(studies.WORKER, name)
        (tmp_path / studies.WORKERS / name).mkdir(parents=True)  # which nobody holds

    dies_early("a")
    drawn = claim(study, SPACE, 1, tmp_path, "b")
    (tmp_path / studies.WORKERS / "b").mkdir()
    studies._take_up(study, 0, tmp_path)
    dies_early("c")
    again = claim(study, SPACE, 1, tmp_path, "d")
    assert (again.number, again.params) == (3, drawn.params)
    assert [one.values for one in tried(study, "")] == [drawn.params]


def test_what_was_stopped_is_made_again_before_anything_new(study, tmp_path, alive):
    alive("a")
    first = claim(study, SPACE, 5, tmp_path, "a")
    first.set_user_attr(studies.STOPPED, "stopped")
    study.tell(first, state=TrialState.FAIL)
    assert numbers(tried(study, "")) == [(0, "waiting")]
    assert claim(study, SPACE, 5, tmp_path, "a").params == first.params


def test_of_two_that_take_the_same_trial_one_gives_it_back(study, tmp_path, alive):
    alive("b"), alive("c")
    first = claim(study, SPACE, 1, tmp_path, "a")
    dead(tmp_path, "a")
    study.tell(first.number, state=TrialState.FAIL)
    for _ in range(2):  # both saw that it was lost
        study.enqueue_trial(first.params, user_attrs={studies.SLOT: 0})
    again = claim(study, SPACE, 1, tmp_path, "b")
    assert again.number == 1
    assert claim(study, SPACE, 1, tmp_path, "c") == "wait"
    study.tell(again, 1.0)
    assert claim(study, SPACE, 1, tmp_path, "c") == "done"
    assert numbers(tried(study, "")) == [(0, "trained")]


def test_an_attempt_at_a_trial_that_has_a_result_is_given_back(study, tmp_path, alive):
    alive("a")
    first = claim(study, SPACE, 1, tmp_path, "a")
    study.tell(first, state=TrialState.FAIL)
    for _ in range(2):  # two processes saw that it was lost
        study.enqueue_trial(first.params, user_attrs={studies.SLOT: 0})
    study.tell(claim(study, SPACE, 1, tmp_path, "a"), state=TrialState.PRUNED)
    assert studies.SLOT not in claim(study, SPACE, 2, tmp_path, "a").user_attrs


def test_an_attempt_that_another_process_has_taken_up_is_left_alone(study, tmp_path, alive):
    alive("b")
    claim(study, SPACE, 1, tmp_path, "a")
    dead(tmp_path, "a")
    claim(study, SPACE, 1, tmp_path, "b")
    studies._take_up(study, 0, tmp_path)  # by a process that has looked before
    assert [one.state for one in study.trials] == [TrialState.FAIL, TrialState.RUNNING]


def test_of_fewer_trials_than_before_those_too_many_are_left(study, tmp_path, alive, monkeypatch):
    alive("a"), alive("b")
    monkeypatch.setattr(studies, "itertools", SimpleNamespace(count=lambda: range(20)))  # not for ever
    first, *others = [claim(study, SPACE, 20, tmp_path, "a") for _ in range(4)]
    study.tell(first, 1.0)
    for one in others:
        one.set_user_attr(studies.STOPPED, "stopped")
        study.tell(one, state=TrialState.FAIL)
    study.enqueue_trial(others[2].params, user_attrs={studies.SLOT: 3})  # and then its process was killed
    one, other = (claim(study, SPACE, 3, tmp_path, name) for name in "ab")
    assert [one.user_attrs[studies.SLOT], other.user_attrs[studies.SLOT]] == [1, 2]
    study.tell(one, 2.0)
    assert claim(study, SPACE, 3, tmp_path, "a") == "wait"
    study.tell(other, 3.0)
    assert claim(study, SPACE, 3, tmp_path, "a") == "done"
    assert claim(study, SPACE, 20, tmp_path, "a").user_attrs[studies.SLOT] == 3


def test_a_trial_too_many_is_given_back(study, tmp_path, alive):
    alive("a")
    attempt = claim(study, SPACE, 1, tmp_path, "a")
    extra = study.ask()  # somebody else's, who looked before `attempt` was there
    assert studies._is_surplus(extra, study, 1, repeats=True)
    assert not studies._is_surplus(attempt, study, 1, repeats=True)


def test_no_values_are_tried_twice_as_long_as_there_are_others(study, tmp_path, alive):
    alive("a")
    space = {"train.epochs": IntDistribution(1, 4)}
    first = [claim(study, space, 5, tmp_path, "a").params["train.epochs"] for _ in range(4)]
    assert sorted(first) == [1, 2, 3, 4]
    assert claim(study, space, 5, tmp_path, "a").params["train.epochs"] in first
    assert len(tried(study, "")) == 5


def test_of_trials_that_are_equally_good_the_cheapest_is_the_best(study):
    for accuracy, pflop in ((60.0, None), (60.0, 0.3), (60.0, 0.2), (60.0, 0.2), (50.0, 0.1)):
        trial = study.ask()
        trial.set_user_attr("pflop", pflop)
        study.tell(trial, accuracy)
    assert [one.best for one in tried(study, "")] == [False, False, True, False, False]


def test_a_slot_is_given_up_after_so_many_deaths_whatever_else_is_attempted():
    def attempt(state: str, **attributes: object) -> SimpleNamespace:
        return SimpleNamespace(state=SimpleNamespace(name=state), user_attrs=attributes)

    dead, stopped = [attempt("FAIL") for _ in range(studies.DEATHS)], attempt("FAIL", stopped="stopped")
    assert studies.result_of([*dead, stopped]) is dead[-1]
    assert studies.result_of([*dead[1:], stopped, attempt("RUNNING")]) is None
    assert studies.result_of([*dead, refused := attempt("FAIL", outcome="refused")]) is refused


@pytest.mark.slow
def test_a_trial_that_kills_its_process_each_time_is_given_up(study, tmp_path, alive):
    for number in range(studies.DEATHS):
        claim(study, SPACE, 1, tmp_path, str(number))
        dead(tmp_path, str(number))
    alive("last")
    assert claim(study, SPACE, 1, tmp_path, "last") == "done"
    assert numbers(tried(study, "")) == [(0, f"its process died {studies.DEATHS} times")]


def test_another_search_in_the_same_place_is_refused(study):
    base, other = (load_recipe("digits", {"train.lr": lr, "data.workers": 2}) for lr in (0.1, 0.2))
    moved = load_recipe("digits", {"train.lr": 0.1, "data.root": "elsewhere", "data.workers": 1})
    for one in (base, base, moved):
        expect_same_search(study, one, {"train.momentum": "{}"}, "", "here")
    with pytest.raises(OnespikeError, match=r"here holds another search: train.lr was 0.1, now 0.2; choose another"):
        expect_same_search(study, other, {"train.momentum": "{}"}, "", "here")
    with pytest.raises(OnespikeError, match=r"here holds another search: space was .*; choose another"):
        expect_same_search(study, base, {}, "", "here")


@pytest.mark.parametrize("part", ["train", "val"])
def test_other_images_are_another_search_wherever_they_lie(study, tmp_path, part):
    def check(root: Path) -> None:
        recipe = load_recipe("digits", {"data.name": "folder", "data.root": str(root), "data.cache": str(tmp_path)})
        expect_same_search(study, recipe, {}, "", "here", "recipe.yaml")

    for place in ("train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog"):
        save_image(tmp_path / "images" / place / "1.png")
    check(tmp_path / "images")
    moved = (tmp_path / "images").rename(tmp_path / "moved")
    check(moved)
    save_image(moved / part / "dog" / "1.png", seed=1)
    with pytest.raises(OnespikeError, match=r"^here holds another search: digest of the .* images was \w+, now \w+"):
        check(moved)
    study.set_user_attr(studies.IMAGES, None)  # as an earlier version left it
    check(moved)


@pytest.mark.parametrize("opened_again", [True, False])
def test_half_a_line_at_the_end_of_the_journal_costs_nothing(study, tmp_path, opened_again):
    study.tell(study.ask(), 1.0)
    with (tmp_path / storages.JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    again = open_study(open_storage(None, tmp_path), "test", 20, "", 4) if opened_again else study
    again.tell(again.ask(), 2.0)
    assert [one.value for one in open_study(open_storage(None, tmp_path), "test", 20, "", 4).trials] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("values", "energy", "said"),
    [([1e9], "", r"accuracy of 1e\+09"), ([-1.0], "", "accuracy of -1"), ([50.0, -2.0], "field", "energy of -2")],
)
def test_a_result_that_no_training_gives_is_refused(values, energy, said, tmp_path):
    study = open_study(open_storage(None, tmp_path), "test", 20, energy, 4)
    study.tell(study.ask(), values)
    with pytest.raises(OnespikeError, match=rf"trial 0 has an {said}, .*: somebody changed the storage"):
        tried(study, energy)


def test_a_lock_whose_journal_cannot_be_written_is_released(tmp_path):
    lock = storages._Lock(tmp_path / "lock", journal=tmp_path)  # a folder
    with pytest.raises(IsADirectoryError):
        lock.acquire()
    assert lock._file.closed


def test_a_file_that_is_no_journal_is_one_line(tmp_path):
    (tmp_path / storages.JOURNAL).write_text("not\njson\nhalf")
    with pytest.raises(OnespikeError, match=r"study.journal is no journal of a search: .*; choose another --out"):
        open_storage(None, tmp_path)
    assert (tmp_path / storages.JOURNAL).read_text() == "not\njson\nhalf"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////proc/no/such.db",
        "nonsense",
        "nosuch://u:geheim@h/n",
        "postgresql+x://u:geheim@h/n",
        "postgresql://u:geheim@h:port/n",
        "",
        "sqlite://",
        "sqlite:///:memory:",
    ],
)
def test_a_storage_that_cannot_be_reached_is_one_line_without_the_password(url: str, tmp_path):
    with pytest.raises(OnespikeError, match="--storage") as raised:
        open_storage(url, tmp_path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300
    assert "geheim" not in str(raised.value)


def test_a_data_base_does_as_well(tmp_path, alive):
    alive("a")
    study = open_study(open_storage(f"sqlite:///{tmp_path}/study.db", tmp_path), "test", 20, "field", 4)
    study.tell(claim(study, SPACE, 2, tmp_path, "a"), [50.0, 1.0])
    study.tell(claim(study, SPACE, 2, tmp_path, "a"), [60.0, 0.5])
    assert claim(study, SPACE, 2, tmp_path, "a") == "done"
    assert [(one.accuracy, one.energy, one.best) for one in tried(study, "field")] == [(50, 1, False), (60, 0.5, True)]


def test_a_plain_postgresql_address_means_the_driver_of_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(OnespikeError, match=r"u:\*\*\*@host/x: .*pip install 'psycopg\[binary\]'$"):
        open_storage("postgresql://u:geheim@host/x", tmp_path)
