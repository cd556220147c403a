import json
import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import sqlalchemy
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json
from optuna.trial import TrialState

from onespike.audit import audit
from onespike.classpath import allow_imports
from onespike.configs import Text
from onespike.data.loader import EvalLoader
from onespike.errors import OnespikeError
from onespike.search import search, worker
from onespike.search import storage as storages
from onespike.search import study as studies
from onespike.search.report import write_report
from onespike.search.search import _environment
from onespike.search.worker import Job, work
from onespike.training import Run, load
from onespike.training.callbacks import Callback
from onespike.training.interrupt import Interrupt, Stopped
from onespike.training.layout import laid_out
from onespike.training.recipe import Recipe, load_recipe
from onespike.training.set_up import set_up
from onespike.training.trainer import Diverged, Trainer
from tests.running import raising
from tests.unit.search.trial import TINY


@pytest.fixture
def job(tmp_path: Path):
    def make(trials: int, energy: str = "", space: dict | None = None, **overrides: object) -> Job:
        space = space or {"train.lr": FloatDistribution(0.05, 0.3, log=True)}
        return Job(
            recipe="digits",
            overrides=TINY | {key.replace("__", "."): one for key, one in overrides.items()},
            space={name: distribution_to_json(one) for name, one in space.items()},
            out=str(tmp_path),
            name="test",
            storage=None,
            trials=trials,
            energy=energy,
            epochs=1,
            imports=[],
            parent=os.getppid(),
        )

    return make


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch):
    """A process of a search, as far as it is not of the system's."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(worker, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(worker, "_end_with", lambda _: None)
    yield lambda job: worker.main(job.to_json())
    signal.signal(signal.SIGTERM, before)


def study_of(job: Job):
    storage = storages.open_storage(job.storage, Path(job.out))
    return studies.open_study(storage, job.name, job.trials, job.energy, job.epochs)


def test_trials_are_runs_chosen_by_the_held_out_images(job, tmp_path, monkeypatch):
    made, dataset = job(2, "field"), Run.dataset
    assert work(made) == 0
    study = study_of(made)
    found = studies.tried(study, "field")
    assert [one.outcome for one in found] == ["trained"] * 2
    for one in found:
        run = Run.open(tmp_path / one.facts["folder"])
        assert (one.accuracy, one.facts["epoch"]) == (run.summary["valid_top1"], 1)
        assert run.recipe.train.lr == one.values["train.lr"]
        with monkeypatch.context() as patch:
            patch.setattr(Run, "dataset", lambda self: replace(dataset(self), test=None))  # nobody asks for them
            assert one.energy == worker.count_energy(run)["field"]
        data = run.dataset()
        batches = [images for images, _ in EvalLoader(data.validation, data.mean, data.std, 64)]
        network = laid_out(load(run.folder), batches[0])
        assert one.energy == pytest.approx(1e6 * audit(network, batches).energy("field").total)
    assert not (tmp_path / studies.WORKERS).exists()
    write_report(tmp_path, found, ["--recipe", "<digits>"], "field", study)
    page = (tmp_path / "search.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "&lt;digits&gt;" in page
    assert "http" not in page


def test_what_a_killed_process_left_is_gone_on_with(job, tmp_path, monkeypatch):
    made, step = job(1, train__epochs=2, train__save_minutes=0), Trainer.step
    lr = FloatDistribution(0.05, 0.3, log=True)

    def killed(self, number, images, labels):
        if number == 6:
            raise SystemExit  # nothing is told to the storage, as by a kill
        return step(self, number, images, labels)

    attempt = studies.claim(study_of(made), {"train.lr": lr}, 1, tmp_path, "killed")
    monkeypatch.setattr(Trainer, "step", killed)
    with pytest.raises(SystemExit):
        worker._train(study_of(made), attempt, made, worker.Life(attempt))
    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(studies, "GRACE", -1.0)
    steps: list[int] = []
    monkeypatch.setattr(Trainer, "step", lambda self, number, *rest: steps.append(number) or step(self, number, *rest))
    assert work(made) == 0
    assert steps[0] == 6
    (one,) = studies.tried(study_of(made), "")
    assert (one.number, one.outcome, one.values) == (0, "trained", attempt.params)
    assert [path.name for path in tmp_path.glob("trial-*")] == ["trial-000"]
    again = study_of(made).trials[-1]
    assert list(again.intermediate_values) == [1, 2]  # the storage knows of the epoch before as well


def test_values_that_have_a_result_are_not_trained_again(job, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "REPEATS", 0)
    assert work(job(2, space={"train.momentum": CategoricalDistribution([0.9])})) == 0
    first, second = studies.tried(study_of(job(2)), "")
    assert (first.outcome, second.outcome) == ("trained", "trained")
    assert (second.accuracy, second.facts) == (first.accuracy, first.facts)
    assert [path.name for path in tmp_path.glob("trial-*")] == ["trial-000"]


def test_a_trial_that_cannot_be_trained_is_one_with_a_reason(job):
    space = {"train.batch_size": CategoricalDistribution([8, 9])}  # Mixup needs an even number
    assert work(job(2, space=space, train__mixup=0.2)) == 0
    found = {one.values["train.batch_size"]: one.outcome for one in studies.tried(study_of(job(2)), "")}
    assert found[8] == "trained"
    assert found[9].startswith("refused: train.mixup: mixes pairs")


def test_a_training_that_diverges_or_needs_too_much_memory_is_one_with_a_reason(job, monkeypatch):
    errors = iter([torch.OutOfMemoryError("no room for it"), None])

    def failing(_: Trainer, number: int, *__: object) -> tuple[float, float]:
        if number == 0 and (error := next(errors)):
            raise error
        return float("nan"), 0.0

    monkeypatch.setattr(Trainer, "step", failing)
    assert work(job(2)) == 0
    first, second = studies.tried(study_of(job(2)), "")
    assert first.outcome == "out of memory: no room for it"
    assert second.outcome.startswith("diverged: the loss is no longer a finite number")


def test_options_without_a_type_have_the_types_of_the_command_line_and_the_space(job, tmp_path, monkeypatch):
    allow_imports("tests.unit.search.trial")
    space = {"model.init_args.widths": CategoricalDistribution(["[4, 8]", "[8, 4]"])}
    given = {"model.class_path": "tests.unit.search.trial.Net", "model.init_args.bias": "false"}
    given |= {"train.track": "tensorboard,wandb"}
    others = {key: value for key, value in TINY.items() if not key.startswith("model.")}
    made = replace(job(1, space=space), overrides=others | given, typed=list(given))
    monkeypatch.setattr("onespike.training.loop.Trackers", lambda _: Callback())
    assert work(Job(**json.loads(made.to_json()))) == 0
    assert [one.outcome for one in studies.tried(study_of(made), "")] == ["trained"]
    recipe = Run.open(tmp_path / "trial-000").recipe
    assert recipe.model.init_args["bias"] is False
    assert recipe.model.init_args["widths"] in ([4, 8], [8, 4])
    assert recipe.train.track == ("tensorboard", "wandb")


@pytest.mark.parametrize(("argument", "values"), [("fold", [0, 1]), ("gain", [1.0, 0.5])])
def test_trials_hold_out_the_same_images(job, argument, values):
    allow_imports("tests.unit.search.trial")
    made = job(2, space={f"data.init_args.{argument}": CategoricalDistribution(values)})
    options = {key: one for key, one in TINY.items() if key not in ("data.limit", "data.holdout")}
    made = replace(made, overrides=options | {"data.class_path": "tests.unit.search.trial.Folds"})
    for value in values:
        study_of(made).enqueue_trial({f"data.init_args.{argument}": value})
    assert work(made) == 0
    first, second = studies.tried(study_of(made), "")
    assert first.outcome == "trained"
    refused = "refused: data.init_args: {'fold': 1} holds out other images, and scores on them do not compare"
    assert second.outcome == (refused if argument == "fold" else "trained")


def test_what_was_typed_is_known_in_the_processes(tmp_path, monkeypatch):
    jobs: list[Job] = []
    monkeypatch.setitem(search.__globals__, "_processes", lambda job, _: jobs.append(job) or nullcontext([]))
    (tmp_path / "space.yaml").write_text("train.lr: {low: 0.02, high: 0.3}\n")
    given = {**TINY, "train.track": Text("tensorboard,wandb"), "train.mixup": np.float32(0.1)}
    with pytest.raises(OnespikeError, match="1 of 1 trials are not done"):
        search("digits", tmp_path / "space.yaml", tmp_path / "out", overrides=given, trials=1)
    (made,) = jobs
    read = Job(**json.loads(made.to_json()))
    assert (read.typed, read.overrides["train.mixup"]) == (["train.track"], np.float32(0.1).item())


def test_a_trial_without_held_out_images_is_refused_and_the_search_goes_on(job):
    space = {"data.holdout": CategoricalDistribution([0.3, 0])}  # as arguments of a data set of one's own may do
    made = replace(job(2, space=space), overrides={k: v for k, v in TINY.items() if k != "data.holdout"})
    for _ in range(2):  # called again, it has nothing left to do
        assert work(made) == 0
        found = {one.values["data.holdout"]: one.outcome for one in studies.tried(study_of(made), "")}
        assert found[0.3] == "trained"
        assert found[0].startswith("refused: data.holdout: held-out images choose the best trial")


def test_values_that_fail_in_the_first_step_are_refused(job, monkeypatch):
    error = OnespikeError("train.batch_size, train.accumulate: take larger parts")
    monkeypatch.setattr(Trainer, "step", raising(error))
    made = job(1)
    assert work(made) == 0
    assert [one.outcome for one in studies.tried(study_of(made), "")] == [
        "refused: train.batch_size, train.accumulate: take larger parts"
    ]


def test_nothing_but_refusals_ends_it(job):
    space = {"train.batch_size": CategoricalDistribution([7, 9, 11, 13])}
    with pytest.raises(OnespikeError, match=r"the first 3 trials were all refused: train.mixup"):
        work(job(4, space=space, train__mixup=0.2))


def test_a_folder_in_the_way_of_a_trial_is_left_as_it_is(job, tmp_path):
    (tmp_path / "trial-000").mkdir()
    (tmp_path / "trial-000" / ".config.yaml.new").touch()  # as a kill leaves it
    assert work(job(1)) == 0
    (tmp_path / "trial-001").mkdir()
    (tmp_path / "trial-001" / "mine").write_text("precious")
    with pytest.raises(OnespikeError, match="trial-001 is not empty"):
        work(job(2))
    assert (tmp_path / "trial-001" / "mine").read_text() == "precious"


@pytest.mark.parametrize("error", [OSError(28, "No space"), "of the system", "after a checkpoint"], ids=str)
def test_an_error_of_the_machine_ends_it_and_the_trial_waits(job, error, monkeypatch):
    def failing(_: object, run: Run, **__: object) -> None:
        if error == "after a checkpoint":
            (run.folder / "last").mkdir(parents=True)
        raise OnespikeError("No space") from (OSError(28, "No space") if error == "of the system" else None)

    monkeypatch.setattr(worker, "complete", failing if isinstance(error, str) else raising(error))
    for _ in range(1 if error == "after a checkpoint" else 2):  # of the folder that it leaves here no run can make use
        with pytest.raises((OSError, OnespikeError), match="No space"):
            work(job(1))
    assert [one.outcome for one in studies.tried(study_of(job(1)), "")] == ["waiting"]


def test_values_at_which_the_code_crashes_twice_are_given_up(job, monkeypatch):
    space = {"train.momentum": CategoricalDistribution([0.8, 0.9])}
    complete = worker.complete

    def failing(recipe: Recipe, *arguments: object, **options: object) -> object:
        if recipe.train.momentum == 0.8:
            raise IndexError("index 7 is out of range")
        return complete(recipe, *arguments, **options)

    monkeypatch.setattr(worker, "complete", failing)
    first = job(2, space=space)
    for _ in range(2):  # as two processes of one call: nobody could have mended it in between
        with pytest.raises(IndexError, match="index 7"):
            work(first)
        assert "waiting" in [one.outcome for one in studies.tried(study_of(first), "")]
    assert work(job(2, space=space)) == 0
    found = {one.values["train.momentum"]: one.outcome for one in studies.tried(study_of(job(2)), "")}
    assert found == {0.8: "crashed: IndexError: index 7 is out of range", 0.9: "trained"}


def test_an_error_of_the_machine_is_one_line_for_the_parent(job, main, monkeypatch, capsys):
    monkeypatch.setattr(worker, "work", raising(OSError(28, "No space left on device", "journal.log")))
    assert main(job(1)) == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device: 'journal.log'\n"


def test_signs_of_life_go_on_after_a_failure_until_somebody_else_has_taken_over(monkeypatch):
    class Attempt:
        answers = iter([OSError("full"), None, sqlalchemy.exc.OperationalError("", {}, Exception()), RuntimeError()])

        def set_user_attr(self, *_: object) -> None:
            if error := next(self.answers):
                raise error

    monkeypatch.setattr(studies, "BEAT", 0.01)
    with worker.Life(Attempt()) as life:
        life._thread.join(60)
        assert (life._thread.is_alive(), life.lost) == (False, True)


def test_an_attempt_that_another_process_has_taken_over_stops():
    life, trainer = worker.Life(SimpleNamespace()), SimpleNamespace(stop=False)
    for life.lost in (False, True):
        life.after_step(trainer, None)
        assert trainer.stop == life.lost


@pytest.mark.slow
@pytest.mark.parametrize("energy", ["", "field"])
def test_an_attempt_that_another_process_has_taken_over_ends_no_search(job, monkeypatch, energy):
    made, step = job(1, energy), Trainer.step

    def taken_over(self: Trainer, number: int, *batch: object) -> tuple[float, float]:
        study = study_of(made)
        if study.trials[0].state == TrialState.RUNNING:
            study.tell(0, state=TrialState.FAIL)
            if energy:  # and nothing is reported before it fails
                raise Diverged("the loss is no longer a finite number")
        return step(self, number, *batch)

    monkeypatch.setattr(Trainer, "step", taken_over)
    assert work(made) == 0
    study = study_of(made)
    assert [one.state for one in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert [one.outcome for one in studies.tried(study, energy)] == ["trained"]


@pytest.mark.parametrize(("visible", "devices"), [("3,5", ["3", "5", "3"]), (None, ["0", "1", "0"])])
def test_processes_share_threads_and_take_accelerators_in_turns(visible, devices, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    made = [_environment(number, 3) for number in range(3)]
    assert [(one["OMP_NUM_THREADS"], one["CUDA_VISIBLE_DEVICES"]) for one in made] == [("2", one) for one in devices]
    assert not {"OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"} & _environment(0, 1).keys()
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert _environment(0, 3)["OMP_NUM_THREADS"] == "5"


def test_a_storage_that_goes_away_is_one_line(job, main, tmp_path, monkeypatch, capsys):
    gone = raising(sqlalchemy.exc.OperationalError("SELECT", {}, Exception("no server\nat all")))

    monkeypatch.setattr(studies, "claim", gone)
    monkeypatch.setattr(studies, "GRACE", 0.0)
    expected = "the search cannot go on: OperationalError: no server at all; once that is mended, the same command does"
    assert main(job(1)) == 2
    assert capsys.readouterr().err == f"error: {expected}\n"
    monkeypatch.setattr(studies, "tried", gone)
    monkeypatch.setitem(search.__globals__, "_processes", lambda *_: nullcontext([]))
    (tmp_path / "space.yaml").write_text("train.lr: {low: 0.02, high: 0.3}\n")
    with pytest.raises(OnespikeError) as raised:
        search("digits", tmp_path / "space.yaml", tmp_path / "out", overrides=TINY)
    assert str(raised.value) == expected


def away(function, times: int = 1):
    """A function of a storage, or of a trial in it, that is away the first times."""
    error, left = sqlalchemy.exc.OperationalError("SELECT", {}, Exception("no server")), [None] * times

    def called(*arguments: object, **options: object):
        if left:
            left.pop()
            raise error
        return function(*arguments, **options)

    return called


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [(optuna.Trial, "report"), (optuna.Study, "tell")])
def test_a_storage_that_is_away_for_a_moment_ends_no_process(kind, name, job, monkeypatch):
    made, slept = job(1), []
    monkeypatch.setattr(studies, "claim", away(studies.claim, times=2))
    monkeypatch.setattr(kind, name, away(getattr(kind, name)))
    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=slept.append, time=lambda: 0.0, monotonic=lambda: 0.0))
    monkeypatch.setattr(studies, "is_alive", lambda *_: False)  # as 90 seconds later
    assert work(made) == 0
    assert slept == [1] * 3
    (attempts,) = studies.slots_of(study_of(made).get_trials()).values()
    assert [one.state.name for one in attempts] == ["FAIL", "COMPLETE"]


def test_a_process_that_is_asked_to_stop_while_its_storage_is_away_stops(job, monkeypatch):
    monkeypatch.setattr(worker, "complete", raising(Stopped("asked")))
    monkeypatch.setattr(optuna.Study, "tell", away(optuna.Study.tell))
    assert work(job(1)) == 130


@pytest.mark.parametrize("error", [KeyboardInterrupt(), IndexError("index 7 is out of range")], ids=repr)
def test_a_storage_that_is_away_hides_neither_a_stop_nor_a_crash(job, monkeypatch, error):
    def failing(*_: object, **__: object) -> None:
        monkeypatch.setattr(optuna.Study, "get_trials", away(optuna.Study.get_trials))
        raise error

    monkeypatch.setattr(worker, "complete", failing)
    waits = raising(AssertionError("it waits for the storage, and goes on"))
    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=waits, time=lambda: 0.0, monotonic=lambda: 0.0))
    with pytest.raises(type(error)):
        work(job(1))


def test_a_storage_that_can_only_be_read_is_one_line(tmp_path):
    (tmp_path / "space.yaml").write_text("train.lr: {low: 0.02, high: 0.3}\n")
    storages.open_storage(f"sqlite:///{tmp_path}/study.db", tmp_path)
    url = f"sqlite:///file:{tmp_path}/study.db?mode=ro&uri=true"
    with pytest.raises(OnespikeError, match=r"^the search cannot go on: .*readonly.*; once that is mended"):
        search("digits", tmp_path / "space.yaml", tmp_path / "out", overrides=TINY, storage=url)


@pytest.mark.parametrize(("direction", "trials"), [("maximize", 1), ("minimize", 0)])
def test_a_study_of_somebody_elses_is_left_as_it_is(tmp_path, direction, trials):
    (tmp_path / "space.yaml").write_text("train.lr: {low: 0.02, high: 0.3}\n")
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=url, study_name="mnist", direction=direction)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), trials)
    refusal = "the storage holds a study 'mnist' that is no search of onespike; choose another --out"
    with pytest.raises(OnespikeError, match=refusal):
        search("digits", tmp_path / "space.yaml", tmp_path / "mnist", overrides=TINY, storage=url)
    assert study.user_attrs == {}


@pytest.fixture
def watch(monkeypatch):
    """Watch a search, looking every 30 seconds; an answer of its storage is trials, or what is raised.

    Returns the trials that were announced, and the times of the reports.
    """

    def watched(answers: list) -> tuple[list, list[float]]:
        now, looks, said, reported = [0.0], [], [], []

        def look(*_: object):
            looks.append(answers.pop(0))
            if isinstance(looks[-1], Exception):
                raise looks[-1]
            return looks[-1]

        def report():
            reported.append(now[0])
            return looks[-1]

        def sleep(seconds: float) -> None:
            now[0] += 30 * bool(seconds)

        clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
        monkeypatch.setitem(search.__globals__, "time", clock)
        monkeypatch.setattr(studies, "tried", look)
        process = SimpleNamespace(poll=lambda: None if len(answers) > 1 else 0, returncode=None)
        search.__globals__["_watch"]([SimpleNamespace(process=process)], None, "", said.append, report)
        return said, reported

    return watched


RUNNING, TRAINED = (studies.Tried(0, outcome, {}, None, None, {}, False) for outcome in ("running", "trained"))


def test_a_page_is_drawn_again_where_something_has_changed(watch):
    assert watch([[], *[[RUNNING]] * 8, *[[TRAINED]] * 4]) == ([TRAINED], [90.0, 240.0])


def test_a_storage_that_is_away_for_a_moment_ends_no_search(watch, capsys):
    away = sqlalchemy.exc.OperationalError("SELECT", {}, Exception("no server"))
    assert watch([[], [RUNNING], away, away, [TRAINED], [TRAINED]])[0] == [TRAINED]
    said = "warning: the storage is away; the search waits for it, for 90 seconds at most\n"
    assert capsys.readouterr().err == said
    for answers in ([[], *[away] * 9, []], [[RUNNING], away]):  # for too long; when all processes have ended
        with pytest.raises(sqlalchemy.exc.OperationalError):
            watch(answers)


def test_a_process_that_fails_ends_the_search_and_one_that_is_killed_does_not(monkeypatch):
    monkeypatch.setattr(studies, "tried", lambda *_: [])
    said = "a warning\nerror: the disk is full"
    for code, error, message in ((2, OnespikeError, "^the disk is full$"), (1, RuntimeError, f"failed:\n{said}$")):
        process = SimpleNamespace(poll=lambda code=code: code, returncode=code)
        failed, killed = (SimpleNamespace(process=one, said=lambda: said) for one in (process, KILLED))
        with pytest.raises(error, match=message):
            search.__globals__["_watch"]([killed, failed], None, "", print, list)
        search.__globals__["_watch"]([killed], None, "", print, list)


KILLED = SimpleNamespace(poll=lambda: -9, returncode=-9)


def test_a_pruned_trial_has_its_last_accuracy(job, tmp_path, monkeypatch):
    monkeypatch.setattr("optuna.trial.Trial.should_prune", lambda _: True)
    assert work(job(1, train__epochs=3)) == 0
    (one,) = studies.tried(study_of(job(1)), "")
    assert (one.outcome, one.accuracy is not None, one.best) == ("pruned", True, False)
    assert Run.open(tmp_path / "trial-000").checkpoint("last").state["progress"]["epoch"] == 1


def test_a_process_that_is_asked_to_stop_stops_and_the_trial_waits(job, monkeypatch):
    step = Trainer.step

    def asked(self: Trainer, number: int, *batch: object) -> tuple[float, float]:
        signal.raise_signal(signal.SIGTERM)
        return step(self, number, *batch)

    monkeypatch.setattr(Trainer, "step", asked)
    made = job(3)
    assert work(made) == 130
    assert [one.outcome for one in studies.tried(study_of(made), "")] == ["waiting"]


def test_a_process_that_is_asked_to_stop_in_the_test_begins_no_other_trial(job, tmp_path, monkeypatch):
    made = job(2)
    with monkeypatch.context() as patch:
        patch.setattr("onespike.training.display.Display.finish", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            work(made)
    assert [one.outcome for one in studies.tried(study_of(made), "")] == ["waiting"]
    assert Run.open(tmp_path / "trial-000").is_complete


def test_a_process_that_is_asked_to_stop_outside_the_training_has_not_died(job, main, tmp_path, monkeypatch):
    for step in (worker.complete, worker.load_recipe):
        with monkeypatch.context() as patch:
            patch.setattr(worker, step.__name__, lambda *_, **__: signal.raise_signal(signal.SIGTERM))
            for _ in range(studies.DEATHS):
                assert main(job(1)) == 130
        assert [one.outcome for one in studies.tried(study_of(job(1)), "")] == ["waiting"]
    assert not (tmp_path / studies.WORKERS).exists()


def test_without_its_parent_a_process_is_asked_to_stop_and_then_ended(monkeypatch):
    parents, done = iter([7, 7, 1]), []
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(os, "kill", lambda process, number: done.append((process == os.getpid(), number)))
    monkeypatch.setattr(os, "_exit", done.append)
    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=done.append))
    worker._end_with(7)
    assert done == [worker.LOOK, worker.LOOK, (True, signal.SIGTERM), worker.LAST, 130]
    parents = iter([1])
    done.clear()
    with Interrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        worker._end_with(7)
        interrupt.requested = False  # or it would take effect here
    assert done == [worker.LAST, 130], "asked once, it is not asked again"


def test_a_network_that_cannot_be_counted_is_refused(job, monkeypatch):
    error = OnespikeError("the network's head does aten.cumprod, which the audit cannot count")
    monkeypatch.setattr(worker, "audit", raising(error))
    assert work(job(1, "field")) == 0
    (one,) = studies.tried(study_of(job(1, "field")), "field")
    assert one.outcome == "refused: the network's head does aten.cumprod, which the audit cannot count"


def test_the_energy_of_a_network_that_takes_views_of_maps_is_counted(tmp_path):
    allow_imports("tests.unit.search.trial")
    options = {"model.class_path": "tests.unit.search.trial.Viewed", "data.limit": 60}
    made, run = set_up(load_recipe("digits", options)), Run(tmp_path / "run")
    run.begin(made.recipe)
    made.checkpoint().save(run.best)
    macs = 4 * 8 * 8 * 4 * 4 + 4 * 4 * 4 * 10
    assert worker.count_energy(run)["field"] == pytest.approx(4.6e-6 * macs)


def test_images_that_cannot_be_read_while_energy_is_counted_end_it_and_the_trial_waits(job, monkeypatch):
    made, before = job(1, "field"), worker.EvalLoader
    broken = {"__iter__": raising(OnespikeError("cat.png cannot be read"))}
    monkeypatch.setattr(worker, "EvalLoader", type("Unreadable", (before,), broken))
    with pytest.raises(OnespikeError, match=r"^cat\.png cannot be read$"):
        work(made)
    assert [one.outcome for one in studies.tried(study_of(made), "field")] == ["waiting"]


def test_a_recipe_that_is_edited_while_it_is_searched_by_ends_the_search(job, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {momentum: 0.9}\n")
    made = replace(job(1), recipe=str(recipe))
    base = load_recipe(str(recipe), made.values({}))
    studies.expect_same_search(study_of(made), base, made.space, "", "here")
    edited = r"recipe\.yaml was changed: .* holds another search: train\.momentum was 0\.9, now 0\.5"
    for content, complaint in (("train: {momentum: 0.5}", edited), ("{", "cannot be read")):
        recipe.write_text(content)
        with pytest.raises(OnespikeError, match=complaint):
            work(made)
        assert [one.outcome for one in studies.tried(study_of(made), "")] == ["waiting"]


def test_a_folder_that_is_renamed_holds_the_same_search(tmp_path, monkeypatch):
    monkeypatch.setitem(search.__globals__, "_processes", lambda *_: nullcontext([]))
    (tmp_path / "space.yaml").write_text("train.lr: {low: 0.02, high: 0.3}\n")
    for name in ("one", "other"):
        with pytest.raises(OnespikeError, match="1 of 1 trials are not done"):
            search("digits", tmp_path / "space.yaml", tmp_path / name, overrides=TINY, trials=1)
        (tmp_path / name).rename(tmp_path / "other")
    (study,) = storages.open_storage(None, tmp_path / "other").get_all_studies()
    assert study.study_name == "one"


def test_a_folder_whose_trials_are_in_another_storage_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(search.__globals__, "_processes", lambda *_: nullcontext([]))
    (tmp_path / "space.yaml").write_text("train.lr: {low: 0.02, high: 0.3}\n")
    one, other, base = tmp_path / "one", tmp_path / "other", f"sqlite:///{tmp_path}/study.db"

    def called(out: Path, storage: str | None) -> str:
        with pytest.raises(OnespikeError) as raised:
            search("digits", tmp_path / "space.yaml", out, overrides=TINY, trials=1, storage=storage)
        return str(raised.value)

    for out in (one, one, other):  # again, and on another machine
        assert "1 of 1 trials are not done" in called(out, base)
        one.joinpath("trial-000").mkdir(exist_ok=True)
    renamed = one.rename(tmp_path / "renamed")
    expected = f"{renamed} has trials of a search, but --storage has none called renamed: give the folder its old name"
    assert called(renamed, base).startswith(expected)
    assert called(renamed, None).startswith(f"{renamed} has trials of a search, but no journal: say --storage, or")
    names = [study.study_name for study in storages.open_storage(base, one).get_all_studies()]
    assert names == ["one", "other"]


def test_a_job_is_read_as_it_was_written(job):
    made = job(2, "field")
    assert Job(**json.loads(made.to_json())) == made
