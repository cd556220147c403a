import shutil
from pathlib import Path

import pytest
import torch

from onespike.classpath import allow_imports
from onespike.errors import OnespikeError
from onespike.training import Run, Stopped, load_recipe, loop
from onespike.training.checkpoint import Checkpoint
from onespike.training.pruning import at, prune_time
from onespike.training.trainer import Trainer
from tests.hostile.harness import make_tree


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch):
    """Notes the time steps of each training, and the weights it starts from."""
    seen: list[tuple[int, dict[str, torch.Tensor]]] = []
    fit = loop.fit

    def noted(trainer, run):
        weights = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
        seen.append((trainer.network.config.time_steps, weights))
        return fit(trainer, run)

    monkeypatch.setattr(loop, "fit", noted)
    return seen


def test_frames_are_those_of_events_that_the_library_reads():
    events = load_recipe("events/digits")
    assert (at(events, 2).data.frames, at(events, 2).model.time_steps) == (2, 2)
    own = load_recipe("events/digits", {"data.class_path": "pkg.Data"})
    assert (at(own, 2).data.frames, at(own, 2).model.time_steps) == (own.data.frames, 2)


@pytest.mark.slow  # it simulates the recordings
def test_events_of_a_class_have_as_many_frames_at_each_stage(tmp_path: Path, monkeypatch):
    (tmp_path / "saccades.py").write_text(
        "from onespike.data import DataConfig, open_dataset\n"
        f"chosen = DataConfig('digits-saccades', frames=4, limit=40, holdout=0, cache={str(tmp_path / 'cache')!r})\n"
        "def four(): return open_dataset(chosen)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    allow_imports("saccades")
    recipe = load_recipe("events/digits", {"data.class_path": "saccades.four", "data.holdout": 0})
    with pytest.raises(OnespikeError, match=r"^prune-time: data.class_path: its recordings have as many frames"):
        prune_time(recipe, 4, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_are_those_of_the_training_also_where_another_process_writes_them(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("onespike.training.loop.train", lambda stage, *_, **__: {"steps": stage.model.time_steps})
    assert prune_time("digits", 2, tmp_path) == {2: {"steps": 2}, 1: {"steps": 1}}


@pytest.mark.slow
def test_each_stage_has_one_time_step_less_and_starts_from_the_best_weights_before_it(small, tmp_path: Path, begun):
    summaries = prune_time(small(train__epochs=1), 3, tmp_path)
    assert list(summaries) == [3, 2, 1]
    assert [steps for steps, _ in begun] == [3, 2, 1]
    for steps, (_, weights) in zip((3, 2), begun[1:], strict=True):
        before = Checkpoint.load(tmp_path / f"T{steps}" / "best").weights
        assert all(torch.equal(weights[name], before[name]) for name in before)
    for steps, summary in summaries.items():
        assert summary == Run.open(tmp_path / f"T{steps}").summary


@pytest.mark.slow
def test_interrupted_it_goes_on_where_it_stopped(small, tmp_path: Path, begun, monkeypatch):
    recipe, step = small(train__epochs=1), Trainer.step
    straight = prune_time(recipe, 2, tmp_path / "straight")
    begun.clear()

    def stopping(self, number, images, labels):
        if self.network.config.time_steps == 1 and number == 3:
            raise Stopped
        return step(self, number, images, labels)

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(Stopped):
        prune_time(recipe, 2, tmp_path / "stopped")
    monkeypatch.setattr(Trainer, "step", step)
    again = prune_time(recipe, 2, tmp_path / "stopped")
    assert [steps for steps, _ in begun] == [2, 1, 1]
    for key in ("test_loss", "epochs_before"):
        assert [summary[key] for summary in again.values()] == [summary[key] for summary in straight.values()]
    assert [summary["epochs_before"] for summary in again.values()] == [0, 1]


@pytest.mark.slow
def test_a_folder_of_another_recipe_is_refused(small, tmp_path: Path):
    prune_time(small(train__epochs=1), 2, tmp_path)
    with pytest.raises(
        OnespikeError, match=r"T2 holds the run of another recipe: model.theta was 0.5, now 0.3; choose"
    ):
        prune_time(small(train__epochs=1, model__theta=0.3), 2, tmp_path)


@pytest.mark.slow
def test_a_stage_that_was_tested_on_other_images_is_refused(small, tmp_path: Path):
    first, second = make_tree(tmp_path / "first"), make_tree(tmp_path / "second")
    shutil.copy(second / "test/cat/0.png", second / "test/cat/1.png")
    options = {"data__name": "folder", "data__limit": 0, "train__batch_size": 4, "train__epochs": 1}
    prune_time(small(**options, data__root=str(first)), 2, tmp_path / "out")
    with pytest.raises(OnespikeError, match=r"T2 was tested on other images than those of data.root; correct it"):
        prune_time(small(**options, data__root=str(second)), 2, tmp_path / "out")
    shutil.copytree(first, tmp_path / "moved")
    assert list(prune_time(small(**options, data__root=str(tmp_path / "moved")), 2, tmp_path / "out")) == [2, 1]
    stage = Run.open(tmp_path / "out" / "T2")
    stage.finish({key: one for key, one in stage.summary.items() if key != "test_set"})  # as of an older run
    assert list(prune_time(small(**options, data__root=str(first)), 2, tmp_path / "out")) == [2, 1]


@pytest.mark.slow
def test_it_goes_on_after_a_change_that_does_not_matter(small, tmp_path: Path, begun):
    summaries = prune_time(small(train__epochs=1), 2, tmp_path)
    assert prune_time(small(train__epochs=1, train__save_minutes=1.0, data__workers=1), 2, tmp_path) == summaries
    assert len(begun) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "1", "--out", "x"], "expected at least 2 time steps"),
        (["--from", "2"], "expected a folder for the runs"),
        (
            ["--from", "2", "--out", "x", "--model.time_steps", "3"],
            "--model.time_steps: the time steps go from --from 2",
        ),
        (["--from", "2", "--out", "x", "--data.frames", "2"], "--data.frames: the time steps go from --from 2"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(arguments, message, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = command("prune-time", *arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
    assert not any(tmp_path.iterdir())


def test_the_command_prints_a_row_for_each_stage(command, tmp_path: Path, cache: Path):
    options = ["--data.limit", 150, "--data.cache", cache, "--model.channels", "[8,12]", "--model.depths", "[1,1]"]
    budget = ["--train.epochs", 1, "--train.warmup_epochs", 0]
    code, printed, _ = command("prune-time", "--from", 2, "--out", tmp_path / "pruned", *options, *budget)
    assert code == 0
    rows = [line.split() for line in printed.splitlines() if line[:1] in "12"]
    assert [row[0] for row in rows] == ["2", "1"]
    assert all(row[1].endswith("%") for row in rows)
