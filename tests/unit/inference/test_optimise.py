"""`onespike optimise`, from a run to an engine on the disk."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from onespike.cli.main import main
from onespike.clock import interleaved
from onespike.data.config import DataConfig
from onespike.data.dataset import open_dataset
from onespike.data.loader import EvalLoader, derive_seed
from onespike.durable import read_whole
from onespike.errors import OnespikeError
from onespike.exporting import export
from onespike.exporting.network import rounded
from onespike.inference import Engine, load_engine
from onespike.inference.compare import Candidate, Comparison, Measured, compare
from onespike.inference.optimise import Eager, _suited, compare_spikes, optimise
from onespike.inference.runtimes import WATCHED, Runtime, _differing, _spikes
from onespike.inference.storage import save_engine
from onespike.models import ModelConfig, create_model, model_config
from onespike.neurons import LIF
from onespike.training import train
from onespike.training.checkpoint import ModelCard
from onespike.training.recipe import load_recipe
from onespike.training.run import Run, load
from tests.unit.evaluation.noise import write_images
from tests.unit.written_run import write_run

CLASSES = ("ant", "bee")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed, part in enumerate(("train", "test")):
        write_images(folder / part, dict.fromkeys(CLASSES, 6), seed, channels=3)
    return folder


@pytest.fixture(params=["modern", "strict", "paper"])
def run(request: pytest.FixtureRequest, images: Path, tmp_path: Path) -> Run:
    """A run of the paper's network with random weights, the head's included."""
    return run_of(model_config("conv-tiny", preset=request.param, channels=(8, 8, 16)), images, tmp_path)


def run_of(config: ModelConfig, images: Path, tmp_path: Path) -> Run:
    data = DataConfig(name="folder", root=str(images), cache=str(tmp_path / "cache"), holdout=0.5)
    return write_run(tmp_path / "run", config, data, CLASSES, 3, 16)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["optimise", *map(str, arguments)])
    return int(exit_.value.code or 0)


#: What an engine in a folder makes of pictures, and its classes.
ANSWERS = """
import sys, torch
from onespike.inference import Engine, load_engine
engine = load_engine(sys.argv[1])
torch.save((engine(torch.load(sys.argv[2])), engine.card.classes), sys.argv[3])
"""


def in_a_process(*arguments: object) -> None:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_leaves_an_engine_and_a_report(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out, last = tmp_path / "engine", run.checkpoint("best")
    last.weights["head.bias"] += 1
    last.save(run.last)
    assert command(run.folder, "--out", out, "--precision", "int16", "--rounds", 1, "--checkpoint", "last") == 0
    printed = capsys.readouterr().out
    assert "the engine, onespike int16, and report.json are in" in printed
    assert re.search(r"\| PyTorch fp32 \| [\d.]+ \| 100\.00 \| - \|", printed), "it is not compared with itself"
    assert sorted(path.name for path in out.iterdir()) == ["engine.json", "engine.safetensors", "report.json"]
    report = json.loads((out / "report.json").read_text())
    assert (report["images"], report["model"], report["rounds"]) == (12, "conv-tiny", 1)
    assert {"commit", "processor", "packages", "onespike"} == report["environment"].keys()
    assert (report["engine"], len(report["blocks"])) == ("onespike int16", 6)
    eager, ours = report["engines"]
    assert (eager["engine"], ours["engine"]) == ("PyTorch fp32", "onespike int16")
    for batch in ("1", "8", "64"):
        assert eager["milliseconds"][batch] > 0
        assert ours["ratio"][batch] == pytest.approx(ours["milliseconds"][batch] / eager["milliseconds"][batch])

    engine, direct = load_engine(out), Engine(last.network(), "int16")
    assert engine.card is not None
    assert engine.card.classes == CLASSES
    pictures = torch.randn(8, 3, 16, 16)
    torch.manual_seed(1)
    found = engine(pictures)
    torch.manual_seed(1)
    torch.testing.assert_close(found, direct(pictures), rtol=1e-4, atol=1e-4)
    smaller = (out / "engine.safetensors").stat().st_size / (run.best / "model.safetensors").stat().st_size
    assert smaller < 0.9


@pytest.mark.slow
def test_the_answers_that_are_compared_are_those_of_both(run: Run, tmp_path: Path) -> None:
    """Accuracy and agreement as counted here, image by image."""
    out = tmp_path / "engine"
    assert command(run.folder, "--out", out, "--rounds", 1, "--images", 9) == 0
    report = json.loads((out / "report.json").read_text())
    test = open_dataset(load_recipe(str(run.config)).data).test
    chosen = np.linspace(0, 11, 9).round().astype(np.int64)
    card = run.checkpoint("best").card
    images, labels = next(iter(EvalLoader(test.select(chosen), card.mean, card.std, 9)))
    answers = []
    for model in (load(run.folder), load_engine(out)):
        torch.manual_seed(derive_seed(0, 0))
        with torch.no_grad():
            answers.append(model(images).argmax(1))
    network, engine = answers
    counts = (network == labels).sum(), (engine == labels).sum(), (network == engine).sum()
    first, second = report["engines"]
    shares = first["top1"], second["top1"], second["same_class"]
    assert shares == pytest.approx([100 * count.item() / 9 for count in counts], abs=1e-3)


def test_images_that_moved_are_found_at_their_new_place(images: Path, tmp_path: Path, capsys) -> None:
    run = run_of(model_config("conv-tiny", preset="modern", channels=(8, 8, 16)), tmp_path / "gone", tmp_path)
    assert command(run.folder, "--rounds", 1) == 2
    assert "correct --data.root" in capsys.readouterr().err
    assert command(run.folder, "--data.root", images, "--data.image_size", 8) == 2
    assert "8 pixels a side, the network takes 16" in capsys.readouterr().err
    assert command(run.folder, "--rounds", 1, "--data.root", images) == 0


@pytest.mark.parametrize("names", [["model.onnx"], ["engine.json"], ["engine.json", "model.onnx"], ["notes.txt"]])
def test_what_is_no_earlier_engine_stays(names: list[str], run: Run, tmp_path: Path, capsys) -> None:
    out = tmp_path / "engine"
    out.mkdir()
    for name in names:
        (out / name).write_text("{}")
    assert command(run.folder, "--out", out) == 2
    assert f"{out} holds {names[0]}, which is of no earlier engine" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(names, "{}")
    with pytest.raises(OnespikeError, match="it lies in a checkpoint"):
        optimise(run, run.best)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "weights"), [("", "int8"), ("ann", "fp32")])
def test_other_networks_are_run_by_others(preset: str, weights: str, images: Path, tmp_path: Path) -> None:
    """A strict one in integers; of another one, whose layers read real values, the class is the network's."""
    pytest.importorskip("onnxruntime")
    run = run_of(model_config("spiking-vgg-xs", preset=preset, width=4), images, tmp_path)
    # In processes of their own, as a user's: each runtime sets up the processor's matrix tiles for itself.
    in_a_process("-m", "onespike", "optimise", run.folder, "--rounds", 1)
    folder = run.folder / "engine"
    assert sorted(path.name for path in folder.iterdir()) == ["engine.json", "model.onnx", "report.json"]
    report, described = (json.loads((folder / f"{name}.json").read_text()) for name in ("report", "engine"))
    assert report["engine"] == f"{described['engine']} {weights}"
    times = {one["engine"]: np.prod(list(one["ratio"].values())) for one in report["engines"][1:]}
    assert report["engine"] == min(times, key=times.__getitem__)
    assert all(name.endswith(weights) for name in times)

    pictures, answers = torch.randn(5, 3, 16, 16), tmp_path / "answers.pt"
    torch.save(pictures, tmp_path / "pictures.pt")
    in_a_process("-c", ANSWERS, folder, tmp_path / "pictures.pt", answers)
    found, classes = torch.load(answers)
    assert classes == CLASSES
    network = load(run.folder)
    with torch.no_grad():
        expected = (network if weights == "fp32" else rounded(network, torch.float32))(pictures)
    assert found.shape == (5, 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-100])
    with pytest.raises(OnespikeError, match=r"cannot be read: model\.onnx and engine\.json are not what was written"):
        load_engine(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ONNX Runtime", "OpenVINO"])
def test_engines_of_others_take_normalised_images_alone(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime" if name == "ONNX Runtime" else "openvino")
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    raw = torch.randint(0, 256, (4, 2, 2, 3), dtype=torch.uint8)
    export(network, tmp_path / "out", "onnx", images=raw, mean=[0.5] * 3, std=[0.25] * 3)
    engine, pixels = Runtime(tmp_path / "out" / "model.onnx", name), torch.randn(4, 3, 2, 2, requires_grad=True)
    torch.testing.assert_close(engine(pixels), network(pixels).detach())
    for wrong in (raw.movedim(-1, 1), pixels.double(), pixels[0], pixels.to("meta")):
        with pytest.raises(ValueError, match=r"^images: expected \(B, C, H, W\), torch.float32, on the CPU, got \("):
            engine(wrong)


@pytest.mark.slow
def test_a_network_that_was_passed_from_python_is_passed_again(tmp_path: Path) -> None:
    small = {"data.image_size": 16, "data.limit": 40, "data.cache": str(tmp_path / "cache"), "train.device": "cpu"}
    recipe = load_recipe("digits", small | {"train.epochs": 1, "train.batch_size": 20, "train.warmup_epochs": 0})
    network = lambda: create_model("conv-tiny", in_channels=1, image_size=16, channels=(4, 4, 4))  # noqa: E731
    data = open_dataset(recipe.data)
    summary = train(recipe, tmp_path / "run", model=network(), data=data, quiet=True)
    with pytest.raises(OnespikeError, match=r"passed from Python.*data="):
        optimise(tmp_path / "run", tmp_path / "other", model=network())
    report = optimise(tmp_path / "run", tmp_path / "engine", rounds=1, model=network(), data=data)
    assert report.compared.engines[0].top1 == pytest.approx(summary["test_top1"])
    assert (report.engine, report.compared.model) == ("onespike int8", "conv-tiny")
    assert load_engine(tmp_path / "engine")(torch.rand(2, 1, 16, 16)).shape == (2, 10)


def test_an_engine_is_read_whole_while_another_takes_its_place(tmp_path: Path, monkeypatch) -> None:
    card = ModelCard(model_config("conv-tiny", channels=(4, 4, 4)), CLASSES, 1, 16, (0.5,), (0.5,), "mine")
    torch.manual_seed(0)
    one, two = (Engine(card.build(), precision) for precision in ("int8", "int16"))
    save_engine(one, card, "run", tmp_path / "engine")
    swaps = []

    def read_after_a_swap(path: Path, *most: int) -> bytes:
        if path.name == "engine.safetensors" and not swaps:
            swaps.append(path)
            save_engine(two, card, "run", tmp_path / "engine")
        return read_whole(path, *most)

    monkeypatch.setattr("onespike.inference.storage.read_whole", read_after_a_swap)
    engine = load_engine(tmp_path / "engine")
    assert isinstance(engine, Engine)
    assert (len(swaps), engine.precision) == (1, "int16")


def test_a_folder_without_an_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OnespikeError, match="holds no engine"):
        load_engine(tmp_path)


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--images", "-1"]])
def test_values_out_of_their_range_are_refused(run: Run, arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert command(run.folder, *arguments) == 2
    assert capsys.readouterr().err.startswith("error: optimise: expected")


def test_a_precision_that_the_engine_has_not_is_refused(run: Run, capsys: pytest.CaptureFixture) -> None:
    assert command(run.folder, "--precision", "fp32") == 2
    assert "precision: expected auto, int8 or int16 for conv-tiny, got fp32" in capsys.readouterr().err
    assert not (run.folder / "engine").exists()


def test_pytorch_answers_every_batch_anew_and_with_means_over_time() -> None:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    network, images = nn.Sequential(nn.Linear(4, 8), neuron.IFNode(), nn.Linear(8, 3)).eval(), torch.randn(5, 4)
    eager = Eager(network)
    assert torch.equal(eager(images), eager(images))
    assert eager(images[:2]).shape == (2, 3)
    assert torch.equal(Eager(nn.Identity())(torch.ones(2, 5, 3)), torch.ones(5, 3))


def test_what_cannot_be_counted_is_run_in_floats(capsys: pytest.CaptureFixture) -> None:
    class Odd(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(images[:, 0])

    assert _suited(Odd(), torch.randn(2, 3, 4, 4)) == "fp32"
    assert "warning: optimise: what layers read is not known, so weights stay in fp32: " in capsys.readouterr().err


def test_your_random_numbers_go_on_as_if_nothing_had_been_compared() -> None:
    network = create_model("conv-tiny", image_size=16, channels=(4, 4, 4), preset="paper").eval()
    batches = [(torch.randn(2, 3, 16, 16), torch.zeros(2).long())]
    engine, before = Engine(network, "int8"), torch.get_rng_state()
    compare_spikes(network, engine, [batches[0][0]])
    assert torch.equal(torch.get_rng_state(), before)
    compare("conv-tiny", {"a": Candidate(network), "b": Candidate(engine)}, batches, 1, sizes=(1,))
    assert torch.equal(torch.get_rng_state(), before)


def test_engines_are_timed_on_whole_batches_in_milliseconds() -> None:
    sizes = list[int]()

    def engine(seconds: float) -> Candidate:
        def run(images: torch.Tensor) -> torch.Tensor:
            time.sleep(seconds)
            sizes.append(len(images))
            return torch.zeros(len(images), 2)

        return Candidate(run)

    engines, images = {"eager": engine(0), "slow": engine(0.02), "fast": engine(0.001)}, torch.zeros(3, 1, 2, 2)
    batches = [(images, torch.tensor([0, 1, 0])), (images[:1], torch.tensor([1]))]
    found = compare("net", engines, batches, 1, sizes=(1, 8))
    assert sorted(set(sizes)) == [1, 3, 8]
    assert all(0.02 <= seconds / 1000 < 20 for seconds in found.engines[1].milliseconds.values())
    assert (found.best, found.images, found.engines[1].top1) == ("fast", 4, 50.0)
    with pytest.raises(OnespikeError, match="numbers that are not finite"):
        compare("net", {"broken": Candidate(lambda images: images.flatten(1) / 0)}, batches, 1, sizes=(1,))


@pytest.mark.parametrize(("right", "best"), [(98.9, "slow"), (99.1, "fast")])
def test_the_best_engine_is_the_fastest_that_is_not_wrong(right: float, best: str) -> None:
    eager, slow, fast = (
        Measured(name, 90.0, same, None, {1: time}, {1: time})
        for name, same, time in (("eager", 100.0, 1.0), ("slow", 100.0, 0.9), ("fast", right, 0.1))
    )
    assert Comparison("net", 1000, 1, 1, None, (eager, slow, fast)).best == best


def test_spikes_that_differ_are_counted_over_all_images() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), LIF(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    images = torch.randn(WATCHED + 3, 1, 2, 2)

    def target(part: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        spikes = network[:2](part)
        spikes[0, 0, 0] = 1 - spikes[0, 0, 0]  # two of the first image of each part
        return network(part), [spikes]

    expected = [_spikes(network, part) for part in images.split(WATCHED)]
    assert _differing(target, images, expected) == 4 / images.numel()
    assert _differing(lambda part: (network(part), [None]), images, expected) is None


def test_timings_take_turns() -> None:
    calls: list[str] = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls[-6:] == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}
