import errno
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from onespike.errors import OnespikeError
from onespike.evaluation import evaluate
from onespike.training import Diverged, Recipe, Run, Stopped, loop, progress, train
from onespike.training.callbacks import Callback
from onespike.training.checkpoint import Checkpoint, join_tensors, split_tensors
from onespike.training.interrupt import PATIENCE, Interrupt
from onespike.training.recipe import dump
from onespike.training.restoring import restore
from onespike.training.saving import Saving
from onespike.training.set_up import set_up
from onespike.training.trainer import Trainer
from tests import running
from tests.running import raising, read_rows, thorough, wait_until

EVERYTHING = {
    "train__ema": 0.9,
    "model__norm": "batch",
    "model__neuron__learnable_threshold": "channel",
    "model__time_steps": 2,
    "train__accumulate": 2,
    "train__noise_range": [0.1, 0.9],
}
OTHERS = {
    "adamw": {"train__optimizer": "adamw"},
    "hoyer": {"train__hoyer": 1e-3, "train__surrogate_width_end": 0.3, "model__neuron__surrogate_width": 2.0},
    "int8": {"train__int8_weights": True, "train__recompute": True},
    "muon": {"train__optimizer": "muon", "train__lr": 0.002, "train__norm_lr_factor": 4.0},
    "nadamuon": {"train__optimizer": "nadamuon", "train__lr": 0.002},
    "lookahead": {"train__optimizer": "lookahead_nesterov", "train__norm_lr_factor": 8.0},
    "lookahead muon": {"train__optimizer": "lookahead_muon", "train__lr": 0.002},
}
#: Those of `make test`, stopped between two epochs.
QUICK = ("all",)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Checkpoint.load(folder / "last").weights


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def table(run: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv`, without what the clock says."""
    timed, rows = ("epoch_seconds", "images_per_second"), read_rows(run / "metrics.csv")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        pytest.param(
            overrides, steps, id=f"{steps}-{name}", marks=[pytest.mark.slow] * (name not in QUICK or steps != 8)
        )
        for steps in (3, 8, 11)  # within an epoch of 8 steps, at its very end, in the second one
        for name, overrides in {"plain": {}, "all": EVERYTHING, **(OTHERS if steps == 3 else {})}.items()
    ],
)
def test_interrupted_and_resumed_ends_in_the_same_bits(small, overrides, steps, tmp_path, monkeypatch, stop_after):
    recipe = small(**overrides)
    straight = train(recipe, tmp_path / "straight")
    stop_after(steps)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "stopped")
    monkeypatch.undo()
    summary = train(recipe, tmp_path / "stopped", resume=True)
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))
    assert summary["test_top1"] == straight["test_top1"]
    assert table(tmp_path / "straight") == table(tmp_path / "stopped")
    assert len(table(tmp_path / "stopped")) == recipe.train.epochs


def test_signals_that_follow_at_once_count_as_one_and_a_later_one_saves_nothing(monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("onespike.training.interrupt.time.monotonic", lambda: now)

    def signalled() -> None:
        nonlocal now
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            now += PATIENCE / 2
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupt.requested
            now += PATIENCE
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        signalled()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("place", ["after_epoch", "finish"])
def test_a_signal_after_the_last_step_ends_the_command_once_the_run_is_complete(
    small, command, tmp_path, monkeypatch, number, place
):
    before, closed = getattr(Saving, place), []
    monkeypatch.setattr(Saving, place, lambda *given: signal.raise_signal(number) or before(*given))
    monkeypatch.setattr(Saving, "close", lambda _: closed.append("saving"))
    (tmp_path / "recipe.yaml").write_text(dump(small(train__epochs=1, data__limit=60)))
    code, printed, complaint = command("train", "--recipe", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    said = "interrupted\n" if number == signal.SIGINT else "ended by a signal\n"
    assert (code, complaint) == (128 + number, said)
    assert "test: top-1" in printed
    assert (Run.open(tmp_path / "run").is_complete, closed) == (True, ["saving"])


def test_a_signal_is_not_lost_where_a_training_fails(small, tmp_path, monkeypatch, capsys):
    def diverged(_: object, __: object) -> None:
        signal.raise_signal(signal.SIGINT)
        raise Diverged("the loss is no longer a finite number")

    monkeypatch.setattr(loop, "test", diverged)
    with pytest.raises(KeyboardInterrupt):  # who tries the next one after a failure would go on
        train(small(train__epochs=1, data__limit=60), tmp_path, quiet=True)
    assert capsys.readouterr().err == "warning: the loss is no longer a finite number\n"


def test_a_disk_that_is_full_at_a_stop_is_said(small, tmp_path, monkeypatch, stop_after):
    full = raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    monkeypatch.setattr("onespike.training.checkpoint.write_folder", full)
    stop_after(1)
    with pytest.raises(OnespikeError, match=r"^could not save the checkpoint .*: make room, then go on with --resume"):
        train(small(train__epochs=1, data__limit=60), tmp_path, quiet=True)


def test_under_nohup_a_hangup_stops_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with Interrupt() as interrupt:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt.requested
    finally:
        signal.signal(signal.SIGHUP, before)


# Between two epochs, and in each size of the images.
@pytest.mark.parametrize("steps", thorough([8, 3, 13], 1))
@pytest.mark.parametrize("policy", thorough(["", "original"], 1), ids=["batches", "singly"])
def test_images_that_grow_alternate_and_are_cut_resume_to_the_same_bits(
    small, policy, steps, tmp_path, monkeypatch, stop_after
):
    images = {"data__flip": 0.5, "data__alternate_flip": True, "data__cutout": 8, "data__crop_fill": "reflect"}
    recipe = small(**images, data__auto_augment=policy, data__workers=0, train__start_size=24, train__ema=0.9)

    def network() -> nn.Module:
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*layers, nn.Dropout(0.1), nn.Linear(8, 10))

    train(recipe, tmp_path / "straight", model=network())
    stop_after(steps)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "stopped", model=network())
    monkeypatch.undo()
    train(recipe, tmp_path / "stopped", resume=True, model=network())
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_a_signal_to_the_whole_group_saves_and_says_how_to_go_on(small, start, tmp_path, number, workers):
    recipe = small(train__epochs=500, data__auto_augment="original", data__workers=workers)
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    process = start("train", "--recipe", "recipe.yaml", "--out", "run", cwd=tmp_path, stdout=subprocess.DEVNULL)
    wait_until((tmp_path / "run" / "last" / "state.json").exists, process)
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=running.PATIENCE)
    assert process.returncode == 130
    assert error.endswith("stopped and saved; go on with: onespike train --resume run\n")
    assert "Traceback" not in error
    Checkpoint.load(tmp_path / "run" / "last")  # it is whole


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_clock_and_its_curves(small, tmp_path, monkeypatch, stop_after):
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    looks = itertools.count()  # a second passes between two looks at the clock
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(looks))))
    straight = train(small(), tmp_path / "straight", quiet=True)
    folder, seen = tmp_path / "stopped" / "tensorboard", []
    stop_after(11)  # of 8 steps an epoch
    with pytest.raises(Stopped):
        train(small(), tmp_path / "stopped", quiet=True)
    seen += folder.rglob("events.*")
    before = Checkpoint.load(tmp_path / "stopped" / "last").state["progress"]["seconds"]
    assert 11 < before < straight["seconds"] < train(small(), tmp_path / "stopped", resume=True)["seconds"]
    (file,) = {*folder.rglob("events.*")} - {*seen}
    begun = [event.step for event in EventFileLoader(str(file)).Load() if event.HasField("session_log")]
    assert begun == [11], "TensorBoard leaves out what was written after the checkpoint"


@pytest.mark.parametrize("epoch", thorough([1, 2], 1))
def test_a_disk_that_fills_up_is_one_line_and_with_room_it_resumes_to_the_same_bits(
    small, epoch, tmp_path, monkeypatch
):
    write = Run.write_metrics

    def full(self, history):
        if len(history) == epoch:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, history)

    train(small(), tmp_path / "straight", quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_metrics", full)
        with pytest.raises(OnespikeError, match=r"^the disk of .* is full: .*: make room, then go on with --resume"):
            train(small(), tmp_path / "full", quiet=True)
        (tmp_path / "full" / "curves.png").unlink(missing_ok=True)
    train(small(), tmp_path / "full", resume=True, quiet=True)
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "full"))
    assert table(tmp_path / "straight") == table(tmp_path / "full")
    assert (tmp_path / "full" / "curves.png").is_file()


def test_a_run_folder_tells_the_whole_story(small, tmp_path):
    summary = train(small(), tmp_path / "run")
    written = Run.open(tmp_path / "run").summary
    assert written == summary
    assert {"test_top1", "test_top5", "test_set", "seconds"} <= summary.keys()
    saved = Checkpoint.load(tmp_path / "run" / "last")
    speeds = [row["images_per_second"] for row in saved.state["progress"]["history"]]
    assert summary["images_per_second"] == sum(speeds) / 2, "the median of two"
    assert summary["parameters"] == sum(one.numel() for one in saved.network().parameters())
    assert summary["epochs"] == 2
    assert 0 <= summary["test_top1"] <= summary["test_top5"] <= 100
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        *("best", "last", "tensorboard"),
        *("config.yaml", "metrics.csv", "summary.json", "environment.json", "curves.png"),
    }
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert {"block01_firing_rate", "block02_dead", "block02_always_firing", "block01_in_support"} <= set(
        header.split(",")
    )
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["packages"]["torch"] == torch.__version__


def test_without_held_out_images_the_last_weights_are_taken(small, tmp_path):
    summary = train(small(data__holdout=0), tmp_path / "run")
    assert (summary["valid_top1"], summary["best_epoch"]) == (None, 2)
    assert same(weights(tmp_path / "run"), Checkpoint.load(tmp_path / "run" / "best").weights)


@pytest.mark.slow
def test_a_complete_run_says_so_and_goes_on_with_more_epochs(small, tmp_path):
    train(small(), tmp_path / "run")
    with pytest.raises(OnespikeError, match=r"complete after 2 epochs.*--train.epochs"):
        train(small(), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "summary.json").exists()
    assert train(small(train__epochs=3), tmp_path / "run", resume=True)["epochs"] == 3


def test_another_architecture_is_refused(small, tmp_path):
    train(small(), tmp_path / "run")
    with pytest.raises(OnespikeError, match=r"another run: model.theta was 0.5, now 0.3"):
        train(small(model__theta=0.3), tmp_path / "run", resume=True)
    with pytest.raises(OnespikeError, match=r"train.optimizer was momentum, now adamw; train.ema was 0.0, now 0.5"):
        train(small(train__optimizer="adamw", train__ema=0.5), tmp_path / "run", resume=True)


def test_what_the_position_of_a_run_depends_on_cannot_change(small, tmp_path):
    train(small(train__epochs=1), tmp_path / "run")
    for changed, message in (
        ({"train__seed": 5}, "train.seed was 0, now 5"),
        ({"train__int8_weights": True}, "train.int8_weights was False, now True"),
        ({"train__batch_size": 32}, "train.batch_size was 16, now 32"),
        ({"data__limit": 100}, "training images were 135, now 90"),
    ):
        with pytest.raises(OnespikeError, match=message):
            train(small(train__epochs=3, **changed), tmp_path / "run", resume=True)


def test_other_images_than_before_are_another_run(small, tmp_path):
    def pairs(images):
        return [(image.astype(np.uint8), number % 2) for number, image in enumerate(images)]

    dark = np.arange(20 * 16**2).reshape(20, 16, 16) % 100
    made = small(train__epochs=1, train__batch_size=4, data__crop_padding=0)
    train(made, tmp_path / "run", data=pairs(dark), quiet=True)
    made = replace(made, train=replace(made.train, epochs=2))
    said = r"another run: the images' mean was \(0.19.*,\), now \(0.2.*,\); .* the images it began with"
    with pytest.raises(OnespikeError, match=said):
        train(made, tmp_path / "run", data=pairs(dark + 20), resume=True, quiet=True)
    assert train(made, tmp_path / "run", data=pairs(dark), resume=True, quiet=True)["epochs"] == 2


def test_images_with_other_labels_are_another_run(small, tmp_path):
    images = torch.rand(20, 1, 16, 16)
    made = small(train__epochs=1, train__batch_size=4, data__crop_padding=0)
    train(made, tmp_path / "run", data=TensorDataset(images, torch.arange(20) % 2), quiet=True)
    made = replace(made, train=replace(made.train, epochs=2))
    with pytest.raises(OnespikeError, match=r"another run: the images had other labels, or another order; a run is"):
        train(made, tmp_path / "run", data=TensorDataset(images, torch.arange(20) // 10), resume=True, quiet=True)
    assert train(made, tmp_path / "run", data=TensorDataset(images, torch.arange(20) % 2), resume=True, quiet=True)


def test_other_images_with_the_same_labels_are_told(small, tmp_path, capsys):
    images, labels = torch.rand(20, 1, 16, 16), torch.arange(20) % 2
    made = small(train__epochs=1, train__batch_size=4)
    train(made, tmp_path / "run", data=TensorDataset(images, labels), quiet=True)
    for epochs, same in ((2, True), (3, False)):
        made = replace(made, train=replace(made.train, epochs=epochs))
        given = TensorDataset(images if same else images / 2, labels)
        capsys.readouterr()
        train(made, tmp_path / "run", data=given, resume=True, quiet=True)
        assert ("goes on with other training images than it has seen" in capsys.readouterr().err) is not same


def test_images_of_another_kind_are_another_run(small, tmp_path):
    trainer, run = set_up(small(data__limit=60)), Run(tmp_path)
    trainer.checkpoint().save(run.last)
    run.begin(trainer.recipe)
    card = trainer.card
    for name, value in (("classes", tuple("9876543210")), ("image_size", 64), ("std", (0.5,))):
        trainer.card = replace(card, **{name: value})
        with pytest.raises(OnespikeError, match=rf"is another run: (the images' )?{name} was .*, now "):
            restore(trainer, run)


def test_the_scale_of_fp16_is_resumed(small, tmp_path):
    run, found = Run(tmp_path), []
    for scale in (1024.0, 8.0):
        trainer = set_up(small(data__limit=60))
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        if found:
            restore(trainer, run)
        else:
            trainer.checkpoint().save(run.last)
            run.begin(trainer.recipe)
        found.append(trainer.accelerator.scaler.get_scale())
    assert found == [1024.0, 1024.0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step": 10**6, "images": 16}, "epoch 1, step 1000000: not where it can have stopped"),
        ({"epoch": 2}, "epoch 2, step 0: not where it can have stopped"),
        ({"step": 3}, "0 images in 3 steps"),
        ({"images": 16}, "16 images in 0 steps"),
    ],
)
def test_a_place_where_no_training_can_have_stopped_is_damage(small, tmp_path, changed, message):
    train(small(train__epochs=1, data__limit=60), tmp_path / "run", quiet=True)
    saved = Checkpoint.load(tmp_path / "run" / "last")
    saved.state["progress"] |= changed
    saved.save(tmp_path / "run" / "last")  # its digests fit
    with pytest.raises(OnespikeError, match=f"is damaged: {message}$"):
        restore(set_up(small(train__epochs=3, data__limit=60)), Run.open(tmp_path / "run"))


def test_rates_and_decay_are_chosen_anew(small, tmp_path):
    train(small(train__norm_lr_factor=3.0, train__epochs=1), tmp_path / "run")
    trainer = set_up(small(train__norm_lr_factor=5.0, train__weight_decay=0.5))
    restore(trainer, Run.open(tmp_path / "run"))
    groups = trainer.optimizer.param_groups
    assert [(group["lr_scale"], group["weight_decay"]) for group in groups] == [(5.0, 0.0), (1.0, 0.5)]
    trainer.scheduler.step_update(3)
    assert groups[0]["lr"] == 5 * groups[1]["lr"] > 0


def test_a_run_without_a_checkpoint_starts_anew(small, tmp_path):
    run = Run(tmp_path / "run")
    run.begin(small())
    assert not run.has_checkpoint()
    assert train(small(), tmp_path / "run", resume=True)["epochs"] == 2
    assert run.has_checkpoint()


@pytest.mark.parametrize("left", ["summary.json", "metrics.csv"])
def test_what_came_out_of_checkpoints_that_are_gone_is_not_trained_over(small, tmp_path, left):
    run = Run(tmp_path / "run")
    run.begin(small())
    (run.folder / left).write_text("precious")
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(OnespikeError, match=rf"holds {left}, and its checkpoints .* are gone: there is nothing to re"):
        train(small(), run.folder, resume=True)
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


def test_a_folder_that_is_no_run_is_refused(small, tmp_path):
    with pytest.raises(OnespikeError, match="is not a run"):
        train(small(), tmp_path, resume=True)


@pytest.mark.slow
def test_a_checkpoint_of_a_run_that_had_not_begun_is_in_nobodys_way(small, tmp_path, monkeypatch):
    train(small(), tmp_path / "run", quiet=True)
    (tmp_path / "new").mkdir()
    (tmp_path / "run" / "last").rename(tmp_path / "new" / "last")  # as a kill leaves it that comes before config.yaml
    shutil.copytree(tmp_path / "new", tmp_path / "killed")
    assert train(small(), tmp_path / "new", quiet=True)["epochs"] == 2

    recipe = small(train__epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", raising(KeyboardInterrupt))  # as if it were killed: nobody saves
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "killed", quiet=True)
    assert not Run.open(tmp_path / "killed").has_checkpoint()
    assert train(recipe, tmp_path / "killed", resume=True, quiet=True)["epochs"] == 1


def test_a_folder_that_is_in_use_is_not_overwritten(small, tmp_path):
    (tmp_path / "precious").write_text("data")
    with pytest.raises(OnespikeError, match=r"not empty.*--resume"):
        train(small(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_folder_that_somebody_else_has_filled_meanwhile_is_not_overwritten(small, tmp_path, monkeypatch):
    other, make = tmp_path / "run" / "last", loop.set_up

    def late(*given):
        other.mkdir(parents=True)
        (tmp_path / "run" / "config.yaml").write_text("theirs")
        return make(*given)

    monkeypatch.setattr(loop, "set_up", late)  # it opens the images, which may take long
    with pytest.raises(OnespikeError, match=r"not empty.*--resume"):
        train(small(data__limit=60), tmp_path / "run", quiet=True)
    assert other.is_dir()
    assert (tmp_path / "run" / "config.yaml").read_text() == "theirs"


@pytest.mark.slow
def test_a_damaged_last_checkpoint_falls_back_to_the_best(small, tmp_path, capsys):
    recipe: Recipe = small()
    train(recipe, tmp_path / "run")
    (tmp_path / "run" / "last" / "model.safetensors").write_bytes(b"damaged")
    (tmp_path / "run" / "summary.json").unlink()
    train(recipe, tmp_path / "run", resume=True)
    assert "last is damaged" in capsys.readouterr().err
    assert Run.open(tmp_path / "run").checkpoint("last").state["progress"]["epoch"] == 2


def test_without_the_best_checkpoint_the_summary_tells_of_the_weights_that_were_tested(small, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "quality", lambda row: -float(row["epoch"]))
    checkpoint = Run.checkpoint

    def lost(self, which):
        shutil.rmtree(self.best, ignore_errors=True)
        return checkpoint(self, which)

    monkeypatch.setattr(Run, "checkpoint", lost)
    summary = train(small(), tmp_path / "run")
    last = checkpoint(Run.open(tmp_path / "run"), "last").state["progress"]["history"][-1]
    assert (summary["best_epoch"], summary["valid_top1"]) == (2, last["valid_top1"])


def test_a_new_run_starts_from_old_weights(small, tmp_path):
    train(small(model__norm="none"), tmp_path / "old")
    unmoved = small(model__norm="none", train__lr=1e-9, train__epochs=1)
    summary = train(unmoved, tmp_path / "new", init_from=tmp_path / "old")
    assert summary["test_top1"] == json.loads((tmp_path / "old" / "summary.json").read_text())["test_top1"]
    with pytest.raises(OnespikeError, match=r"head.weight \(10, 12\) instead of \(10, 16\)"):
        train(small(model__channels=[8, 16]), tmp_path / "wrong", init_from=tmp_path / "old")
    assert not (tmp_path / "wrong").exists()


def test_a_moving_average_starts_from_the_old_weights_too_and_what_they_took_counts(small, tmp_path):
    recipe, run = small(train__ema=0.9, data__limit=60), Run(tmp_path)
    old = set_up(replace(recipe, train=replace(recipe.train, seed=1)))
    old.progress.epoch, old.progress.epochs_before, old.progress.flops, old.progress.flops_before = 3, 2, 10.0, 5.0
    for folder in (run.best, run.last):
        old.checkpoint().save(folder)
    run.begin(old.recipe)
    trainer = set_up(recipe)
    trainer.start_from(run)
    for state in (trainer.network.state_dict(), trainer.checkpoint().weights):
        assert same(state, run.checkpoint("best").weights)
    assert (trainer.progress.epochs_before, trainer.progress.flops_before) == (5, 15.0)


def test_a_network_that_was_passed_goes_on_from_its_weights_if_it_is_killed_in_its_first_step(
    small, tmp_path, monkeypatch
):
    network = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
    monkeypatch.setattr(Trainer, "step", raising(KeyboardInterrupt))  # as if it were killed: nobody saves
    with pytest.raises(KeyboardInterrupt):
        train(small(data__limit=60), tmp_path, model=network, quiet=True)
    assert same(Run.open(tmp_path).checkpoint("last").weights, network.state_dict())


@pytest.mark.slow
def test_a_new_run_that_is_killed_in_its_first_step_goes_on_from_the_old_weights(small, tmp_path, monkeypatch):
    recipe, step = small(train__epochs=1), Trainer.step
    train(recipe, tmp_path / "old")
    straight = train(recipe, tmp_path / "straight", init_from=tmp_path / "old")

    monkeypatch.setattr(Trainer, "step", raising(KeyboardInterrupt))  # as if it were killed: nobody saves
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "new", init_from=tmp_path / "old")
    monkeypatch.setattr(Trainer, "step", step)
    summary = train(recipe, tmp_path / "new", resume=True)
    assert (summary["test_loss"], summary["epochs_before"]) == (straight["test_loss"], 1)
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "new"))


def test_of_equally_good_epochs_the_later_one_is_taken(small, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "quality", lambda _row: 50.0)
    summary = train(small(train__epochs=3), tmp_path / "run")
    assert summary["best_epoch"] == Checkpoint.load(tmp_path / "run" / "best").state["progress"]["epoch"] == 3


def test_the_best_epoch_is_kept_and_tested_although_a_later_one_follows(small, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "quality", lambda row: {1: 10.0, 2: 90.0, 3: 50.0}[row["epoch"]])
    summary, run = train(small(train__epochs=3), tmp_path / "run"), Run.open(tmp_path / "run")
    assert summary["best_epoch"] == run.checkpoint("best").state["progress"]["epoch"] == 2
    assert not same(run.checkpoint("best").weights, run.checkpoint("last").weights)
    assert evaluate(run, device="cpu").loss.mean == pytest.approx(summary["test_loss"], rel=1e-6)
    row = run.checkpoint("last").state["progress"]["history"][-1]
    held_out = evaluate(run, part="validation", which="last", device="cpu")
    assert held_out.loss.mean == pytest.approx(row["valid_loss"], rel=1e-6)
    assert held_out.top1.mean == pytest.approx(row["valid_top1"])


class Counting(Callback):
    """Keeps how many epochs it has seen."""

    def __init__(self) -> None:
        self.seen: float = 0

    def after_epoch(self, trainer, row):  # noqa: ARG002
        self.seen += 1

    def state(self):
        return {"seen": self.seen}

    def load_state(self, state):
        self.seen = state["seen"]


@pytest.mark.slow
def test_what_was_passed_has_to_be_passed_again(small, tmp_path, monkeypatch, stop_after):
    recipe, loss = small(train__epochs=2, train__mixup=0), nn.MultiMarginLoss()
    stop_after(10)
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "run", loss=loss, callbacks=[Counting()], quiet=True)
    monkeypatch.undo()
    with pytest.raises(OnespikeError, match=r"was trained with the loss torch.*MultiMarginLoss: pass it again"):
        train(recipe, tmp_path / "run", resume=True, quiet=True)
    with pytest.raises(OnespikeError, match=r"was trained with the callback Counting, .*: pass it again"):
        train(recipe, tmp_path / "run", resume=True, loss=loss, quiet=True)
    with pytest.raises(OnespikeError, match=r"^init_from: a resumed run"):
        train(recipe, tmp_path / "run", resume=True, init_from=tmp_path / "run", loss=loss, quiet=True)
    counting = Counting()
    hoyer = small(train__epochs=2, train__mixup=0, train__hoyer=1e-4)  # a callback more, before it
    train(hoyer, tmp_path / "run", resume=True, loss=loss, callbacks=[counting], quiet=True)
    assert counting.seen == 2


@pytest.mark.parametrize("name", ["Counting", "Monitor", "Teacher", "EnergyBudget"])
def test_a_callback_that_kept_a_state_is_missed_also_if_it_is_called_as_one_of_ours(name, small, tmp_path):
    recipe, run = small(data__limit=60), Run(tmp_path)
    set_up(recipe, callbacks=[type(name, (Counting,), {})()]).checkpoint().save(run.last)
    run.begin(recipe)
    with pytest.raises(OnespikeError, match=rf"was trained with the callback {name}, .*: pass it again"):
        restore(set_up(recipe), run)


def test_a_callback_that_is_called_as_one_of_ours_gets_its_own_state(small, tmp_path):
    recipe, run, mine = small(data__limit=60), Run(tmp_path), type("EnergyBudget", (Counting,), {})()
    mine.seen = 3
    set_up(recipe, callbacks=[mine]).checkpoint().save(run.last)
    run.begin(recipe)
    mine.seen = 0
    restore(trainer := set_up(small(data__limit=60, train__rate_penalty=1), callbacks=[mine]), run)
    assert mine.seen == 3
    trainer.checkpoint().save(run.last)  # with both
    mine.seen = 0
    restore(set_up(recipe, callbacks=[mine]), run)
    assert mine.seen == 3


@pytest.mark.parametrize("later", thorough([torch.ones(3), [1.0, 2.0], {"a": 1}, "text", None], 1), ids=str)
def test_a_callbacks_state_may_grow_and_become_something_else(later, small, tmp_path):
    def trained(epochs: int, seen: object) -> Counting:
        mine = Counting()
        mine.seen, mine.after_epoch = seen, lambda *_: setattr(mine, "seen", later)
        train(small(train__epochs=epochs, data__limit=60), tmp_path, epochs > 1, callbacks=[mine], quiet=True)
        return mine

    trained(1, torch.zeros(0) if isinstance(later, torch.Tensor) else 0.5)
    loaded = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Counting, "load_state", lambda _, state: loaded.append(state["seen"]))
        trained(2, 0.5)
    assert str(loaded) == str([later])


def test_a_network_that_cannot_be_copied_goes_on_with_the_weights_it_had(small, tmp_path):
    def trained(epochs: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
        network.lock = threading.Lock()
        recipe = small(train__epochs=epochs, data__limit=60, train__lr=1e-9, train__optimizer="adamw")
        train(recipe, tmp_path, epochs > 1, model=network, quiet=True)
        return weights(tmp_path)

    once, twice = trained(1), trained(2)
    assert all(torch.allclose(once[name], twice[name], rtol=0, atol=1e-6) for name in once)


@pytest.mark.parametrize("key", [math.nan, (0, 1), np.int64(3)], ids=["nan", "pair", "numpy"])
def test_a_key_that_no_checkpoint_could_be_read_with_is_refused(key):
    with pytest.raises(
        OnespikeError, match=r"^Mine\.seen: the key .* cannot be saved; expected finite numbers, text, "
    ):
        split_tensors({"seen": {key: 1.0}}, "Mine", {})


@pytest.mark.parametrize("tree", [{"a.b": 1, "a": {"b": 2}}, {1: 1, "1": 2}, {1: 1, "1": 2, "1'": 3}], ids=str)
def test_tensors_of_the_same_name_are_all_kept(tree):
    def of_tensors(one):
        return {k: of_tensors(v) for k, v in one.items()} if isinstance(one, dict) else torch.tensor(one)

    written = split_tensors(of_tensors(tree), "Mine", tensors := {})
    assert len(tensors) == len(re.findall("tensor", json.dumps(written)))
    assert join_tensors(json.loads(json.dumps(written)), tensors) == tree
    assert not tensors


UNSAVABLE = {"inf": math.inf, "nan": math.nan, "object": object(), "numpy": np.float32(1), "long": 10**5000}
UNSAVABLE |= {"sparse": torch.eye(3).to_sparse(), "meta": torch.empty(3, device="meta")}


@pytest.mark.parametrize("value", UNSAVABLE.values(), ids=UNSAVABLE)
def test_a_state_that_no_checkpoint_could_be_read_with_is_refused_before_the_first_step(value, small, tmp_path):
    mine = Counting()
    mine.state = lambda: {"seen": value}
    with pytest.raises(OnespikeError, match=r"^callbacks\.\d+\.Counting\.seen: .* cannot be saved; expected "):
        train(small(train__epochs=1), tmp_path / "run", callbacks=[mine], quiet=True)
    assert not mine.seen


def test_a_state_that_holds_itself_is_refused(small, tmp_path):
    mine = Counting()
    mine.state = lambda state=[]: state.append(state) or {"seen": state}
    with pytest.raises(OnespikeError, match=r"^callbacks: a state holds itself, and cannot be saved$"):
        train(small(train__epochs=1), tmp_path / "run", callbacks=[mine], quiet=True)


def test_a_compiled_network_and_one_that_is_not_take_each_others_weights(small, tmp_path: Path):
    def network(compiled: bool) -> nn.Module:
        made = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))
        return torch.compile(made, backend="eager") if compiled else made

    recipe = small(train__epochs=1, train__ema=0.5, data__limit=60)
    train(recipe, tmp_path / "run", model=network(compiled=True), quiet=True)
    plain, compiled = (Run.open(tmp_path / "run").model(model=network(kind)) for kind in (False, True))
    assert sorted(plain.state_dict()) == sorted(weights(tmp_path / "run")) == ["1.bias", "1.weight"]
    assert torch.equal(compiled.state_dict()["_orig_mod.1.weight"], plain[1].weight)
    longer = small(train__epochs=2, train__ema=0.5, data__limit=60)
    assert train(longer, tmp_path / "run", model=network(compiled=False), resume=True, quiet=True)["epochs"] == 2
