"""`onespike convert`, as it is typed, and the run folder it leaves."""

import json
import os
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import onespike
from onespike.audit import audit_run
from onespike.conversion import Calibration
from onespike.conversion.network import ConvertedNetwork
from onespike.errors import OnespikeError
from onespike.evaluation import evaluate
from onespike.evaluation.convert import _calibration_images, convert_run
from onespike.lock import LOCK, held
from onespike.models import expect_blocks
from onespike.training import Run, load_recipe, train
from onespike.training.checkpoint import Checkpoint
from tests.running import raising, read_rows

#: Few images, and no large systems of equations.
FAST = ("--images", 32, "--calibration.correct", "bias")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_converted_run_is_a_run_like_any_other(ann_run, command, tmp_path):
    before, out = contents(ann_run.folder), tmp_path / "snn"
    code, printed, complaints = command("convert", ann_run.folder, "--out", out, "--time-steps", 2, *FAST)
    assert (code, complaints) == (0, "")
    assert contents(ann_run.folder) == before
    report = json.loads((out / "conversion.json").read_text())
    assert (report["time_steps"], report["calibration_images"], report["real_valued"]) == (2, 32, [])
    assert [row["layer"] for row in read_rows(out / "conversion.csv")] == [layer["layer"] for layer in report["layers"]]
    for layer in report["layers"]:
        assert 0 < layer["relative_l2"] < 1
        assert 0.5 < layer["cosine"] < 1
        assert 0 < layer["firing_rate"] < 1
        assert layer["layer"] in printed
    recipe = Run(out).recipe
    assert (recipe.conversion.neurons, recipe.conversion.time_steps) == ("channel", 2)
    assert recipe.model == ann_run.recipe.model
    network = onespike.load(out)
    assert isinstance(network, ConvertedNetwork)
    assert network(torch.rand(3, 1, 16, 16)).shape == (3, 10)
    assert command("evaluate", out)[0] == 0
    assert evaluate(Run(out), time_steps=8).loss.mean != evaluate(Run(out)).loss.mean


def test_a_run_without_its_last_checkpoint_keeps_its_epochs_and_flops(ann_run, tmp_path):
    source = Run(shutil.copytree(ann_run.folder, tmp_path / "ann"))
    summary = source.summary
    source.finish({**summary, "best_epoch": 1, "epochs": 7, "pflop": 0.25, "pflop_before": 0.5})
    shutil.rmtree(source.last)
    out = tmp_path / "snn"
    convert_run(source, out, images=32, calibration=Calibration(correct="bias"))
    assert (Run(out).epochs(), Run(out).flops()) == (source.epochs(), source.flops())
    assert source.flops() == 0.75e15


@pytest.mark.slow
def test_an_audit_shows_no_accuracy_at_other_time_steps(ann_run, command, tmp_path):
    out = tmp_path / "snn"
    assert command("convert", ann_run.folder, "--out", out, *FAST)[0] == 0
    assert command("evaluate", out, "--time-steps", 4)[0] == 0
    assert audit_run(out, images=8, latency=False).accuracy is None
    assert command("evaluate", out)[0] == 0
    assert audit_run(out, images=8, latency=False).accuracy == evaluate(out).top1.mean


def test_several_neurons_for_each_activation(ann_run, command, tmp_path):
    out = tmp_path / "snn"
    code, printed, _ = command("convert", ann_run.folder, "--out", out, "--population", 3, *FAST)
    assert code == 0
    assert "layers of neurons, 3 for each activation, one time step, calibrated" in printed
    assert json.loads((out / "conversion.json").read_text())["population"] == 3
    assert {neurons.population for neurons in onespike.load(out).neurons.values()} == {3}
    code, _, complaints = command("evaluate", out, "--time-steps", 2)
    assert code == 2
    assert complaints == "error: population: expected 1 where there are 2 time steps, got 3\n"


@pytest.mark.slow
def test_other_images_calibrate_and_are_those_of_the_new_run(ann_run, command, tmp_path):
    out, more = tmp_path / "snn", ("--data.limit", 50, "--train.batch_size", 20, "--train.epochs", 1)
    code, _, _ = command("convert", "--finetune", ann_run.folder, "--out", out, *FAST, "--images", 200, *more)
    assert code == 0
    assert json.loads((out / "conversion.json").read_text())["calibration_images"] == 45  # the rest is held out
    before, after, trained_on = (
        load_recipe(str(Run(one).config)).data for one in (ann_run.folder, out, tmp_path / "snn-finetuned")
    )
    assert after == trained_on == replace(before, limit=50)


@pytest.mark.slow
def test_images_that_have_moved_are_found(ann_run, command, tmp_path):
    moved = Run(shutil.copytree(ann_run.folder, tmp_path / "moved"))
    moved.config.write_text(moved.config.read_text().replace("root: null", f"root: {tmp_path / 'nowhere'}"))
    options = ("--out", tmp_path / "snn", "--finetune", "--train.epochs", 1, "--train.batch_size", 20, *FAST)
    code, _, complaints = command("convert", moved.folder, *options)
    assert (code, "nowhere" in complaints, (tmp_path / "snn").exists()) == (2, True, False)
    assert command("convert", moved.folder, *options, "--data.root", "null")[0] == 0


def test_a_conversion_that_is_interrupted_can_be_used_or_made_anew(ann_run, tmp_path, monkeypatch):
    options = {"images": 32, "calibration": Calibration(correct="bias")}

    interrupt = raising(KeyboardInterrupt)

    def save(checkpoint, folder, saves=Checkpoint.save):
        return interrupt() if folder.name == "best" else saves(checkpoint, folder)

    for owner, name, does in ((Run, "begin", interrupt), (Checkpoint, "save", save)):
        monkeypatch.setattr(owner, name, does)
        with pytest.raises(KeyboardInterrupt):
            convert_run(ann_run, tmp_path / "snn", **options)
        monkeypatch.undo()
    assert onespike.load(tmp_path / "snn")(torch.rand(3, 1, 16, 16)).shape == (3, 10)


def test_an_option_that_there_is_not(ann_run, tmp_path):
    with pytest.raises(OnespikeError, match=r"did you mean 'conversion\.time_steps'"):
        convert_run(ann_run, tmp_path / "snn", images=32, time_step=2)
    assert not (tmp_path / "snn").exists()


def test_images_to_calibrate_on_are_drawn_from_all_and_normalised_as_in_training(ann_run):
    data, card = ann_run.dataset(), replace(ann_run.checkpoint("best").card, mean=(0.3,), std=(0.5,))
    chosen = np.sort(np.random.default_rng(0).permutation(len(data.train))[:20])
    raw, _ = data.train.gather(chosen)
    expected = (raw.movedim(-1, -3) / 255 - 0.3) / 0.5
    torch.testing.assert_close(_calibration_images(data, card, 20), expected)
    assert chosen[-1] > len(data.train) / 2


def test_a_place_of_the_fine_tuned_run_that_is_taken_is_refused_first(ann_run, command, tmp_path):
    (tmp_path / "snn-finetuned").mkdir()
    (tmp_path / "snn-finetuned" / "mine").write_text("")
    code, _, complaint = command("convert", ann_run.folder, "--out", tmp_path / "snn", "--finetune", *FAST)
    assert (code, "snn-finetuned is not empty" in complaint, (tmp_path / "snn").exists()) == (2, True, False)


@pytest.mark.slow
def test_conversion_is_repeatable(ann_run, command, tmp_path):
    for name in ("a", "b"):
        assert command("convert", ann_run.folder, "--out", tmp_path / name, *FAST)[0] == 0
    one, other = (Checkpoint.load(tmp_path / name / "best").weights for name in ("a", "b"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_training_on_takes_options_about_spikes(ann_run, command, tmp_path):
    options = ("--finetune", "--train.surrogate_width_end", 0.5, "--train.epochs", 1, "--train.batch_size", 20, *FAST)
    assert command("convert", ann_run.folder, "--out", tmp_path / "snn", *options)[0] == 0
    assert Run(tmp_path / "snn-finetuned").is_complete


def test_one_process_at_a_time_converts_into_a_folder(ann_run, tmp_path, monkeypatch):
    out = tmp_path / "runs" / "snn"
    with held(out), pytest.raises(OnespikeError, match="is being written by"):
        convert_run(ann_run, out, images=32)
    begun = []

    def begins_and_fails(*_, **__):
        begun.append((out / LOCK).is_file())
        raise OnespikeError("cannot be converted")

    monkeypatch.setattr("onespike.evaluation.convert.convert", begins_and_fails)
    with pytest.raises(OnespikeError, match="cannot be converted"):
        convert_run(ann_run, out, images=32)
    assert begun == [True]
    assert not out.parent.exists()


@pytest.mark.slow
def test_training_on_at_one_step_and_resuming_it(ann_run, command, tmp_path):
    out, options = tmp_path / "snn", ("--train.batch_size", 20, "--train.device", "cpu")
    assert command("convert", ann_run.folder, "--out", out, *FAST, "--finetune", "--train.epochs", 1, *options)[0] == 0
    together = Run(tmp_path / "snn-finetuned")
    config = load_recipe(str(together.config))
    chosen = config.train
    assert (chosen.optimizer, chosen.weight_decay, chosen.lr, chosen.min_lr) == ("adam", 1e-4, 1e-3, 1e-4)
    assert (config.data.image_size, config.conversion.neurons, config.conversion.time_steps) == (16, "channel", 1)
    apart = tmp_path / "apart"
    start = ("--init-from", out, "--recipe", "cifar10/finetune", "--train.epochs", 1)
    assert command("train", *start, "--out", apart, *options)[0] == 0
    first, second = together.checkpoint("last").weights, Run(apart).checkpoint("last").weights
    assert all(torch.equal(first[key], second[key]) for key in first)
    converted = Run(out).checkpoint("best").weights
    moved = [key for key in converted if not torch.equal(converted[key], first[key])]
    assert any(key.endswith("raw_threshold") for key in moved)
    rows = read_rows(apart / "metrics.csv")
    layers = [layer["layer"] for layer in json.loads((out / "conversion.json").read_text())["layers"]]
    assert layers
    assert all(0 < float(rows[-1][f"{layer}_firing_rate"]) < 1 for layer in layers)
    assert command("train", "--resume", apart, "--train.epochs", 2)[0] == 0


def test_an_artificial_run_is_resumed(ann_run, tmp_path):
    shutil.copytree(ann_run.folder, tmp_path / "longer")
    summary = train(load_recipe(str(ann_run.config), {"train.epochs": 2}), tmp_path / "longer", resume=True)
    assert (summary["epochs"], summary["model"]) == (2, "resmlp12")


def nan_run(source: Run, folder: Path) -> Run:
    shutil.copytree(source.folder, folder)
    for which in ("best", "last"):
        saved = Checkpoint.load(folder / which)
        saved.weights["stem.weight"][0] = torch.nan
        saved.save(folder / which)
    return Run(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN"], "expected two run folders: onespike convert RUN --out RUN"),
        (["nowhere", "--out", "OUT"], "nowhere is not a run"),
        (["SPIKING", "--out", "OUT"], "no activation to convert: the network has neurons already: LIF"),
        (["CONVERTED", "--out", "OUT"], "is converted already: expected a run of an artificial network"),
        (["NAN", "--out", "OUT"], "are not finite numbers: its training failed"),
        (["RUN", "--out", "OUT", "--images", "0"], "images: expected at least 1 to calibrate on, got 0"),
        (["RUN", "--out", "OUT", "--images", "1"], "are all of one class"),
        (["RUN", "--out", "OUT", "--time-steps", "0"], "time_steps: expected at least 1, got 0"),
        (["RUN", "--out", "OUT", "--population", "0"], "population: expected 1..16, got 0"),
        (["RUN", "--out", "OUT", "--population", "2", "--time-steps", "2"], "population: expected 1 where there are"),
        (["RUN", "--out", "OUT", "--neurons", "map"], "unknown --neurons 'map': known: channel, layer"),
        (["RUN", "--out", "OUT", "--calibration.percentile", "0"], "percentile: expected 0 < percentile <= 100"),
        (["RUN", "--out", "OUT", "--calibration.ridge", "0"], "ridge: expected a finite number above 0"),
        (
            ["RUN", "--out", "OUT", "--finetune", "--time-steps", "4"],
            "--finetune is for one time step",
        ),
        (["RUN", "--out", "OUT", "--finetune", "--train.optimizer", "adamm"], "did you mean 'adam"),
        (["RUN", "--out", "OUT", "--finetune", "--train.batch_size", "1000"], "train.batch_size"),
        (["RUN", "--out", "OUT", "--finetune", "--train.device", "cpu", "--train.precision", "fp16"], "fp16"),
        (["RUN", "--out", "OUT", "--finetune", "--train.epochs", "0"], "train.epochs: expected at least 1"),
        (["RUN", "--out", "OUT", "--train.epochs", "2"], "--train.* options are for --finetune"),
        (
            ["RUN", "--out", "OUT", "--calibration.ridge", "1", "--calibration.correct", "bias"],
            "ridge: it needs correct weights",
        ),
        (
            ["RUN", "--out", "OUT", "--calibration.percentile", "9", "--calibration.thresholds", "maximum"],
            "percentile: it needs thresholds error or percentile",
        ),
        (["RUN", "--out", "OUT", "--alow-real"], "unknown option '--alow-real': did you mean '--allow-real'?"),
        (
            ["RUN", "--out", "OUT", "--data.name", "cifar10", "--data.root", "NOWHERE"],
            "NOWHERE: no such file or folder",
        ),
        (["RUN", "--out", "OUT", "--data.image_size", "8"], "have 8 pixels a side, the network takes 16"),
        (["RUN", "--out", "RUN"], "is not empty"),
        (["RUN", "--out", "/"], "choose another"),
    ],
)
def test_bad_input(arguments, message, ann_run, command, tmp_path, cache):
    out, names = tmp_path / "out", {"RUN": ann_run.folder, "OUT": tmp_path / "out"}
    if "SPIKING" in arguments:
        names["SPIKING"] = tmp_path / "spiking"
        small = {"model.depths": [1], "model.channels": [4], "train.epochs": 1, "train.mixup": 0, "data.limit": 80}
        train(load_recipe("digits", {**small, "data.cache": str(cache), "train.warmup_epochs": 0}), names["SPIKING"])
    if "CONVERTED" in arguments:
        names["CONVERTED"] = tmp_path / "converted"
        command("convert", ann_run.folder, "--out", names["CONVERTED"], *FAST)
    if "NAN" in arguments:
        names["NAN"] = nan_run(ann_run, tmp_path / "nan").folder
    command("--version")  # forget what was printed so far
    before = contents(ann_run.folder)
    code, printed, complaints = command("convert", *(names.get(argument, argument) for argument in arguments))
    assert (code, printed) == (2, "")
    assert complaints.startswith("error: ")
    assert message in complaints
    assert complaints.count("\n") == 1
    assert not out.exists()
    assert not os.path.lexists(f"{out}-finetuned")
    assert contents(ann_run.folder) == before


@pytest.mark.slow
def test_batch_norm_is_kept_for_training_on_and_shortcuts_are_chosen(ann_run, command, tmp_path):
    train(load_recipe(str(ann_run.config), {"model.name": "resnet18", "data.limit": 60}), tmp_path / "ann")
    options = ("--shortcuts", "real", "--finetune", "--train.epochs", 1, "--train.batch_size", 20, *FAST)
    code, printed, _ = command("convert", tmp_path / "ann", "--out", tmp_path / "snn", *options)
    assert (code, "--finetune" in printed) == (0, False)
    for name in ("snn", "snn-finetuned"):
        config = Run(tmp_path / name).checkpoint().card.conversion
        assert (config.batch_norm, config.shortcuts) == ("kept", "real")
        assert any(isinstance(module, nn.BatchNorm2d) for module in onespike.load(tmp_path / name).modules())
    code, printed, _ = command("convert", tmp_path / "ann", "--out", tmp_path / "folded", *FAST)
    assert (code, "convert with --finetune" in printed) == (0, True)
    assert Run(tmp_path / "folded").checkpoint().card.conversion.batch_norm == "folded"
    folded, kept = onespike.load(tmp_path / "folded"), onespike.load(tmp_path / "snn")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not any(name.endswith("_shortcut") for name, _ in folded.named_modules())
    assert any(name.endswith("_shortcut") for name, _ in kept.named_modules())


@pytest.mark.slow
def test_what_cannot_be_converted_is_left_real_valued_if_asked(ann_run, command, tmp_path):
    train(load_recipe(str(ann_run.config), {"model.name": "vit12", "data.limit": 60}), tmp_path / "ann")
    code, _, complaints = command("convert", tmp_path / "ann", "--out", tmp_path / "snn", *FAST)
    assert (code, "layers.0.softmax (softmax)" in complaints) == (2, True)
    code, printed, _ = command("convert", tmp_path / "ann", "--out", tmp_path / "snn", "--allow-real", *FAST)
    assert (code, "left real-valued: layers.0.matmul" in printed) == (0, True)
    assert "layers.0.softmax" in json.loads((tmp_path / "snn" / "conversion.json").read_text())["real_valued"]
    assert onespike.load(tmp_path / "snn")(torch.rand(2, 1, 16, 16)).shape == (2, 10)


def test_a_run_that_is_not_trained_to_its_end_is_converted_with_a_warning(ann_run, command, tmp_path):
    stopped = Run(shutil.copytree(ann_run.folder, tmp_path / "stopped"))
    (stopped.folder / "summary.json").unlink()
    code, _, complaints = command("convert", stopped.folder, "--out", tmp_path / "snn", *FAST)
    assert code == 0
    assert "stopped is not trained to its end (epochs so far: 1): its best weights until now" in complaints


def test_a_converted_run_is_trained_on_not_resumed(ann_run, command, tmp_path):
    command("convert", ann_run.folder, "--out", tmp_path / "snn", *FAST)
    code, _, complaints = command("train", "--resume", tmp_path / "snn")
    assert code == 2
    assert "was converted, not trained: fine-tune it by --init-from" in complaints


def test_questions_about_blocks_are_refused(ann_run):
    with pytest.raises(OnespikeError, match="resmlp12 has no spiking blocks"):
        expect_blocks(ann_run.model(), "resmlp12")


def test_the_help_names_the_options_of_the_calibration(command) -> None:
    code, printed, _ = command("convert", "--help")
    assert code == 0
    assert all(f"--calibration.{field.name} " in printed for field in fields(Calibration))
