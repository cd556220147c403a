"""Several processes follow one process with the same global batch."""

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import torch

from onespike.evaluation import evaluate
from onespike.training import Run, load_recipe, train
from onespike.training.checkpoint import Checkpoint
from onespike.training.recipe import dump
from tests.running import ONESPIKE, PATIENCE, wait_until

#: Nothing is drawn, nothing is normalised over a batch: two halves of a batch must add up to the whole.
EXACT = {
    "model__encoding": "threshold",
    "model__norm": "none",
    "model__dropout": 0.0,
    "train__mixup": 0.0,
    "train__precision": "fp64",
    "train__device": "cpu",
    "train__epochs": 5,
    "train__batch_size": 32,
}


PYTHON, *MODULE = ONESPIKE
COMMAND = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *MODULE]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def launch(start, tmp_path: Path):
    """Run a command line in two processes; gives the exit code and both outputs."""

    def run(*arguments: str) -> tuple[int, str, str]:
        process = start(*arguments, program=COMMAND, cwd=tmp_path, env=ENVIRONMENT)
        printed, complaint = process.communicate(timeout=5 * PATIENCE)
        return process.returncode, printed, complaint

    return run


def test_several_processes_are_told_their_run_folder(command, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, said = command("train", "--recipe", "digits")
    assert (code, said) == (2, "error: --out: expected a run folder, which several processes share\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_with_batch_norm_the_held_out_score_is_that_of_the_saved_network(small, launch, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(dump(small(**EXACT | {"model__norm": "batch", "train__epochs": 2})))
    code, _, complaint = launch("train", "--recipe", "recipe.yaml", "--out", "two")
    assert code == 0, complaint
    run = Run.open(tmp_path / "two")
    row = run.checkpoint("last").state["progress"]["history"][-1]
    found = evaluate(run, part="validation", which="last", device="cpu")
    assert found.loss.mean == pytest.approx(row["valid_loss"], abs=1e-9)


@pytest.mark.slow
def test_two_processes_follow_one(small, launch, tmp_path: Path):
    recipe = small(**EXACT, train__rate_penalty=0.1)
    alone = train(recipe, tmp_path / "one")
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    code, printed, complaint = launch("train", "--recipe", "recipe.yaml", "--out", "two")
    assert code == 0, complaint
    assert "Warning" not in complaint
    one, two = (Checkpoint.load(tmp_path / name / "last") for name in ("one", "two"))
    assert one.state["progress"]["history"][-1]["epoch"] == 5  # 20 steps: 135 images, 4 batches of 32
    for name in one.weights:
        assert torch.allclose(one.weights[name], two.weights[name], rtol=0, atol=1e-10), name
    assert max((one.weights[name] - two.weights[name]).abs().max() for name in one.weights) > 0  # sums in another order

    together = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert together["test_images"] == alone["test_images"] == 360
    assert together["test_loss"] == pytest.approx(alone["test_loss"], abs=1e-9)
    assert (together["test_top1"], together["test_top5"]) == (alone["test_top1"], alone["test_top5"])
    near, as_near = {"abs": 1e-9}, {"rel": 1e-9, "abs": 0}
    keys = dict.fromkeys(("train_loss", "train_top1", "valid_loss", "valid_top1", "lr"), near)
    for key, tolerance in (keys | dict.fromkeys(("pflop", "synaptic_operations", "energy_uj"), as_near)).items():
        values = [[row[key] for row in c.state["progress"]["history"]] for c in (one, two)]
        assert values[0] == pytest.approx(values[1], **tolerance), key

    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    assert printed.count("test: top-1") == 1


@pytest.mark.slow
def test_a_decay_that_no_gradient_reaches_keeps_no_process_waiting(launch, cache: Path, tmp_path: Path):
    values = {"model.name": "spiking-vgg-xs", "model.width": 4, "model.neuron.learnable_decay": "layer"}
    values |= {"data.limit": 150, "data.cache": str(cache), "train.epochs": 1, "train.batch_size": 32}
    (tmp_path / "recipe.yaml").write_text(dump(load_recipe("digits", values)))
    code, _, complaint = launch("train", "--recipe", "recipe.yaml", "--out", "two")
    assert code == 0, complaint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"train__batch_size": 33, "train__mixup": 0.0},
            "33 cannot be shared equally by 2 processes",
        ),
        ({"train__batch_size": 30, "train__mixup": 0.1}, "each of 2 processes takes 15 of 30 images"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_an_error(small, launch, tmp_path: Path, overrides, message):
    (tmp_path / "recipe.yaml").write_text(dump(small(**overrides)))
    code, _, complaint = launch("train", "--recipe", "recipe.yaml", "--out", "two")
    assert code != 0
    assert "error: train.batch_size: " in complaint
    assert message in complaint
    assert not (tmp_path / "two").exists()


@pytest.mark.slow
def test_stopped_as_a_scheduler_does_they_save_and_go_on(small, start, launch, tmp_path: Path):
    recipe = small(**EXACT | {"train__epochs": 40})
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    metrics = tmp_path / "two" / "metrics.csv"
    words = ["train", "--recipe", "recipe.yaml", "--out", "two"]
    process = start(*words, program=COMMAND, cwd=tmp_path, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    wait_until(metrics.exists, process)
    # A scheduler signals every process of the job, and the launcher passes its own on to ours: they get two.
    launcher = psutil.Process(process.pid)
    for one in [*launcher.children(recursive=True), launcher]:
        one.send_signal(signal.SIGTERM)
    _, printed = process.communicate(timeout=PATIENCE)
    assert "stopped and saved" in printed
    assert "interrupted\n" not in printed
    assert len(metrics.read_text().splitlines()) < 1 + recipe.train.epochs
    code, _, complaint = launch("train", "--resume", "two")
    assert code == 0, complaint
    assert len(metrics.read_text().splitlines()) == 1 + recipe.train.epochs
