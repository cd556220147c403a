"""Somebody else's networks, data and losses go through everything, from Python and from the command line."""

import json
import os
import re
import signal
import subprocess
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import onespike
from onespike.classpath import ClassPath, allowed
from onespike.errors import OnespikeError
from onespike.training import Run, load_recipe, train
from onespike.training.checkpoint import Checkpoint
from tests.running import PATIENCE, wait_until

NETS = ("ReluNet", "OurNet", "JellyNet", "TorchNet")
BUDGET = {
    "data.limit": 150,
    "train.epochs": 2,
    "train.batch_size": 16,
    "train.mixup": 0,
    "train.warmup_epochs": 0,
    "train.lr": 0.02,
    "train.monitor_every": 3,
}
HERE = Path(__file__).parent


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch):
    """The module, importable as anybody's is, and trusted by nobody yet."""
    monkeypatch.syspath_prepend(HERE)
    import othernets

    return othernets


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESPIKE_CACHE", str(cache))


def options() -> list[str]:
    return [f"--{key}={value}" for key, value in BUDGET.items()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Checkpoint.load(folder / "last").weights


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def recipe(cache: Path, **overrides: object):
    return load_recipe("digits", {**BUDGET, "data.cache": str(cache), **overrides})


def build(theirs, name: str) -> torch.nn.Module:
    torch.manual_seed(5)
    return getattr(theirs, name)()


@pytest.mark.parametrize("name", [NETS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NETS[1:])])
def test_from_python(name: str, theirs, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from onespike.audit import audit_run, read_spikes
    from onespike.evaluation import evaluate, inspect_image, inspect_sample
    from onespike.training.trainer import Trainer

    one = recipe(cache)
    straight = train(one, tmp_path / "straight", model=build(theirs, name), quiet=True)
    step, done = Trainer.step, []

    def killed(self, number, images, labels):
        done.append(number)
        if len(done) == 6:
            raise KeyboardInterrupt  # as if it were killed: nobody saves
        return step(self, number, images, labels)

    monkeypatch.setattr(Trainer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(one, tmp_path / "killed", model=build(theirs, name), quiet=True)
    monkeypatch.setattr(Trainer, "step", step)
    other = getattr(theirs, name)()  # with weights of its own, which do not matter
    again = train(one, tmp_path / "killed", resume=True, model=other, quiet=True)
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "killed"))
    assert again["test_loss"] == straight["test_loss"]
    run = Run.open(tmp_path / "killed")
    network = onespike.load(run.folder, model=getattr(theirs, name)())
    assert same(dict(network.state_dict()), run.checkpoint("best").weights)
    fresh = lambda: getattr(theirs, name)()  # noqa: E731
    found = evaluate(run, model=fresh())
    assert found.top1.mean == pytest.approx(again["test_top1"])
    audit = audit_run(run, images=32, latency=False, model=fresh())
    assert audit.operations.macs > 0
    assert audit.accuracy == again["test_top1"]
    assert len(audit.operations.neurons) == (0 if name == "ReluNet" else 2)
    readings = read_spikes(audit.operations)
    # Behind the stem everything reads spikes, but for the network of rectified linear units.
    assert all(reading.holds for reading in readings) == (name != "ReluNet")
    picture = tmp_path / "digit.png"
    _save_digit(picture)
    view = inspect_image(run, picture, model=fresh())
    assert sum(view.probabilities.tolist()) == pytest.approx(1, abs=1e-5)
    assert len(inspect_sample(run, 0, model=fresh())[0].blocks) == len(view.blocks)


def _save_digit(path: Path) -> None:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    Image.fromarray(np.uint8(load_digits().images[0] * 15)).resize((32, 32)).save(path)


@pytest.mark.slow
@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("name", NETS)
def test_from_the_command_line(name: str, command, start, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--model.class_path", f"othernets.{name}", "--model.init_args.width", "6", *options()]
    words += ["--train.epochs", "6", "--train.save_minutes", "0"]
    assert command("train", "--out", "straight", *words)[0] == 0
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    process = start("train", "--out", "killed", *words, env=environment, stdout=subprocess.DEVNULL)
    wait_until((tmp_path / "killed" / "last").is_dir, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    monkeypatch.setattr("onespike.classpath._ALLOWED", set())
    for arguments in (["train", "--resume"], ["evaluate"], ["audit"], ["check-spikes"]):
        code, _, complaint = command(*arguments, "killed")
        assert (code, complaint.count("error: ")) == (2, 1)
        assert f"othernets.{name} is not this package's" in complaint
        assert "--import othernets" in complaint
    code, _, complaint = command("train", "--resume", "killed", "--import", "othernets")
    assert (code, complaint) == (0, "")
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "killed"))
    for arguments in (
        ["evaluate", "killed"],
        ["audit", "killed", "--images", "32", "--no-latency"],
        ["inspect", "killed", "--image", "digit.png"],
    ):
        _save_digit(tmp_path / "digit.png")
        code, printed, complaint = command(*arguments, "--import", "othernets")
        unseen = (
            "warning: inspect: no layers of neurons are known" if (name, arguments[0]) == ("ReluNet", "inspect") else ""
        )
        assert (code, complaint.split(" (")[0].rstrip()) == (0, unseen), complaint
        assert printed
    code, printed, _ = command("check-spikes", "killed", "--images", "32", "--import", "othernets")
    assert code == (1 if name == "ReluNet" else 0)
    assert ("does not hold" in printed) == (name == "ReluNet")
    onespike.allow_imports("othernets")
    assert not onespike.load("killed").training


@pytest.mark.slow
@pytest.mark.usefixtures("theirs")
def test_a_network_of_relus_is_converted(command, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = ["--model.class_path", "othernets.ReluNet", "--out", "ann", *options()]
    assert command("train", *start)[0] == 0
    code, printed, complaint = command("convert", "ann", "--out", "snn", "--images", "64", "--import", "othernets")
    assert (code, complaint) == (0, "")
    assert "2 layers of neurons" in printed
    assert command("evaluate", "snn")[0] == 0
    budget = ["--train.epochs", "1", "--train.batch_size", "16"]
    assert command("train", "--init-from", "snn", "--recipe", "cifar10/finetune", "--out", "tuned", *budget)[0] == 0
    assert Run.open("tuned").recipe.conversion.time_steps == 1


def test_a_converted_network_from_python_is_fine_tuned_and_resumed(theirs, cache: Path, tmp_path: Path):
    from onespike.evaluation.convert import convert_run

    one = recipe(cache, **{"train.epochs": 1})
    train(one, tmp_path / "ann", model=theirs.ReluNet(), quiet=True)
    convert_run(Run.open(tmp_path / "ann"), tmp_path / "snn", images=64, model=theirs.ReluNet())
    tuning = replace(Run.open(tmp_path / "snn").recipe, train=one.train)
    train(tuning, tmp_path / "tuned", init_from=tmp_path / "snn", model=theirs.ReluNet(), quiet=True)
    more = replace(tuning, train=replace(tuning.train, epochs=2))
    train(more, tmp_path / "tuned", resume=True, model=theirs.ReluNet(), quiet=True)
    assert Run.open(tmp_path / "tuned").recipe.conversion == tuning.conversion
    train(tuning, tmp_path / "other", model=theirs.OurNet(), quiet=True)
    assert Run.open(tmp_path / "other").recipe.conversion is None


def test_a_data_set_and_a_loss_from_python(theirs, cache: Path, tmp_path: Path):
    from onespike.evaluation import evaluate, inspect_sample

    one = recipe(cache, **{"data.limit": 0, "data.crop_padding": 0, "data.flip": 0})
    stripes = theirs.Stripes(), theirs.Stripes(train=False)
    net = theirs.OurNet(num_classes=4)
    summary = train(one, tmp_path / "run", model=net, data=stripes, loss=theirs.Margin(), quiet=True)
    assert summary["test_images"] == 48
    run = Run.open(tmp_path / "run")
    assert run.checkpoint().card.classes == theirs.Stripes.classes
    found = evaluate(run, stripes, model=theirs.OurNet(num_classes=4))
    assert found.top1.mean == pytest.approx(summary["test_top1"])
    assert inspect_sample(run, 3, model=theirs.OurNet(num_classes=4), data=stripes)[1].shape == (32, 32, 1)
    for task in (evaluate, partial(inspect_sample, number=0)):
        with pytest.raises(OnespikeError, match=r"passed from Python.*data="):
            task(run, model=theirs.OurNet(num_classes=4))


@pytest.mark.slow
def test_a_data_set_of_hugging_face(theirs, cache: Path, tmp_path: Path):
    import datasets
    from PIL import Image

    from onespike.audit import audit_run
    from onespike.evaluation import evaluate

    def part(train: bool) -> datasets.Dataset:
        rows = [theirs.Stripes(train)[index] for index in range(48)]
        features = datasets.Features(
            {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=list(theirs.Stripes.classes))}
        )
        images = [Image.fromarray(image[0].numpy()) for image, _ in rows]
        return datasets.Dataset.from_dict({"picture": images, "kind": [label for _, label in rows]}, features)

    both = datasets.DatasetDict({"train": part(True), "test": part(False)})
    one = recipe(cache, **{"data.limit": 0})
    summary = train(one, tmp_path / "run", data=both, quiet=True)
    run = Run.open(tmp_path / "run")
    assert evaluate(run, both).top1.mean == pytest.approx(summary["test_top1"])
    assert audit_run(run, both, images=16, latency=False).operations.images == 16


@pytest.mark.slow
@pytest.mark.usefixtures("theirs")
def test_a_data_set_and_a_loss_on_the_command_line(command, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ["--data.class_path", "othernets.Stripes", "--data.init_args.count", "64"]
    loss = ["--loss.class_path", "othernets.Margin", "--loss.init_args.margin", "0.5"]
    budget = ["--train.epochs", "1", "--train.batch_size", "16", "--train.mixup", "0"]
    code, _, complaint = command("train", *data, *loss, *budget, "--out", "run")
    assert (code, complaint) == (0, "")
    monkeypatch.setattr("onespike.classpath._ALLOWED", set())
    code, _, complaint = command("evaluate", "run")
    assert code == 2
    assert "--import othernets" in complaint
    assert command("evaluate", "run", "--import", "othernets")[0] == 0
    assert command("audit", "run", "--import", "othernets", "--images", "8", "--no-latency")[0] == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test_images"] == 32


def test_temporal_efficient_training_takes_each_step(theirs, cache: Path, tmp_path: Path):
    from onespike.training.losses import LOSSES

    logits, labels = torch.randn(3, 5, 10, dtype=torch.float64), torch.arange(5)
    base = torch.nn.functional.cross_entropy
    each = torch.stack([base(step, labels) for step in logits]).mean()
    assert LOSSES["tet"](base, logits, labels).item() == pytest.approx(each.item(), abs=1e-12)
    assert LOSSES["mean"](base, logits, labels).item() == pytest.approx(base(logits.mean(0), labels).item(), abs=1e-12)
    for loss in LOSSES:
        one = recipe(cache, **{"train.loss": loss, "train.epochs": 1})
        train(one, tmp_path / loss, model=build(theirs, "JellyNet"), quiet=True)
    assert not same(weights(tmp_path / "mean"), weights(tmp_path / "tet"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--model.class_path", "nowhere.Net"], ["model.class_path", "nowhere.Net"]),
        (["--model.class_path", "othernets.Absent"], ["model.class_path", "othernets.Absent"]),
        (["--model.class_path", "othernets.NoNet"], ["torch.nn.Module", "NoNet"]),
        (["--model.class_path", "Net"], ["model.class_path", "pkg.Net"]),
        (
            ["--model.class_path", "othernets.ReluNet", "--model.init_args.breadth", "3"],
            ["model.init_args", "breadth", "width"],
        ),
        (["--model.class_path", "othernets.ReluNet", "--model.init_args.width", "-1"], ["model.init_args", "width"]),
        (["--model.class_path", "othernets.WrongNet"], ["(2, 7)", "(B, 10)", "the images of digits"]),
        (["--data.class_path", "othernets.Unlabelled"], ["Unlabelled", "label"]),
        (["--loss.class_path", "othernets.Absent"], ["loss.class_path"]),
        (["--train.loss", "tett"], ["train.loss", "'tet'"]),
        (["--train.track", "[tensorbord]"], ["train.track", "'tensorboard'"]),
        (["--import", "nowhere"], ["--import nowhere"]),
    ],
)
@pytest.mark.usefixtures("theirs")
def test_bad_input_is_one_line_and_exit_code_2(arguments, parts, command, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, complaint = command("train", "--out", "run", *arguments)
    assert (code, complaint.count("\n")) == (2, 1), complaint
    for part in parts:
        assert part in complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("theirs")
def test_what_cannot_be_imported_is_not_trusted_either(command):
    whole = "expected a module's whole name, such as pkg.nets"
    for name, reason in {
        "": whole,
        "../x": whole,
        ".x": whole,
        "nowhere": "No module",
        "othernets..Net": "No mod",
    }.items():
        with pytest.raises(OnespikeError, match=f"--import {re.escape(name)}: cannot be imported: {reason}"):
            onespike.allow_imports(name)
    onespike.allow_imports("othernets")
    for path in ("Net", "nowhere.Net"):
        assert command("train", "--model.class_path", path)[0] == 2
    assert allowed() == ["othernets"]  # all of which a search's worker imports


@pytest.mark.usefixtures("theirs")
def test_opening_a_run_imports_nothing(command, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command("train", "--model.class_path", "othernets.ReluNet", "--out", "run", *options(), "--train.epochs=1")
    (tmp_path / "trap.py").write_text(
        "__import__('pathlib').Path('sprung').touch()\nfrom othernets import ReluNet as Net\n"
    )
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("othernets.ReluNet", "trap.Net"))
    for which in ("best", "last"):
        saved = Checkpoint.load(tmp_path / "run" / which)
        replace(saved, card=replace(saved.card, model=ClassPath("trap.Net"))).save(tmp_path / "run" / which)
    code, _, complaint = command("evaluate", "run")
    assert code == 2
    assert "--import trap" in complaint
    assert not (tmp_path / "sprung").exists()
    assert command("evaluate", "run", "--import", "trap")[0] == 0
    assert (tmp_path / "sprung").exists()
