"""What travels with weights: the model card, the recipe, the results; and whose folder it replaces."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import onespike
from onespike.classpath import ClassPath
from onespike.errors import OnespikeError
from onespike.exporting.model_card import model_card
from onespike.models import model_config
from onespike.models.pretrained import WEIGHTS
from onespike.neurons import LIF
from onespike.training.checkpoint import ModelCard
from onespike.training.run import Run

CLASSES = tuple("0123456789")
LINEAR = ClassPath("torch.nn.Linear", {"in_features": 2, "out_features": 2})
CARD = ModelCard(LINEAR, ("a", "b"), 1, 8, (0.5,), (0.5,), "digits")


@pytest.mark.parametrize("described", ["", "{}", '{"model": "bert", "image_size": 224}'])
def test_a_folder_of_somebody_else_stays(
    described: str, run: Run, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    """Transformers and timm have files of the same names."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    files = dict.fromkeys(("README.md", "config.json", "model.safetensors"), "mine")
    files |= {"model.json": described} if described else {}
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(OnespikeError, match=r"holds README\.md, which is of no earlier saved network"):
        onespike.save_pretrained(run, folder)
    code, _, complaint = command("push", run.folder, "--out", folder)
    assert (code, "of no earlier saved network" in complaint) == (2, True)
    assert {path.name: path.read_text() for path in folder.iterdir()} == files


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ("/home/me/runs/big", "big"),
        ("twin", "twin"),
        ("timm:resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("torchvision:resnet18", "torchvision:resnet18"),
        ("hub:owner/net", "hub:owner/net"),
        ("", ""),
    ],
)
def test_a_teachers_place_is_nobody_elses_business(teacher: str, said: str, run: Run, tmp_path: Path) -> None:
    run.begin(replace(run.recipe, train=replace(run.recipe.train, teacher=teacher)))
    folder = onespike.save_pretrained(run, tmp_path / "out")
    assert Run.open(folder).recipe.train.teacher == said
    assert "/home/me" not in "".join((folder / name).read_text() for name in ("config.yaml", "README.md"))


@pytest.mark.parametrize(
    ("name", "root", "said"),
    [
        ("hub", "uoft-cs/cifar10", "uoft-cs/cifar10"),
        ("hub", "owner/name:plain_text", "owner/name:plain_text"),
        ("hub", "mine/images", None),
        ("hub", "/home/me/images", None),
        ("folder", "owner/name", None),
    ],
)
def test_a_data_set_of_the_hub_is_named(
    name: str, root: str, said: str | None, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    run.begin(replace(run.recipe, data=replace(run.recipe.data, name=name, root=root)))
    assert Run.open(onespike.save_pretrained(run, tmp_path / "out")).recipe.data.root == said


def test_paths_among_the_arguments_of_a_users_classes_stay_at_home(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "train").mkdir(parents=True)
    places = {"root": str(tmp_path), "home": "~/images", "near": "mine/train"}
    given = {"split": "mine", "empty": "", "parts": [str(tmp_path), {"rate": 0.5, **places}], "ratio": "1/2", **places}
    said = {"split": "mine", "empty": "", "parts": [{"rate": 0.5}], "ratio": "1/2"}
    data = replace(run.recipe.data, class_path="mine.Data", init_args=given)
    run.begin(replace(run.recipe, data=data, loss=ClassPath("mine.Loss", given)))
    folder = onespike.save_pretrained(run, tmp_path / "out")
    recipe = Run.open(folder).recipe
    assert recipe.loss is not None
    assert (recipe.data.init_args, recipe.loss.init_args) == (said, said)
    assert str(tmp_path) not in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("network", "mean", "std", "said"),
    [
        (nn.Linear(2, 2), 0.5, 0.25, ("A network,", "(pixel / 255 - mean) / std with mean 0.5 and std 0.25")),
        (LIF(1), 0.0, 1.0, ("A spiking network,", "floats as the data set gives them, or pixel / 255")),
    ],
)
def test_the_card_says_no_more_than_is_known(
    network: nn.Module, mean: float, std: float, said: tuple[str, str], tmp_path: Path
) -> None:
    card = replace(CARD, mean=(mean,), std=(std,))
    text = (onespike.save_pretrained(network, tmp_path / "out", card=card) / "README.md").read_text()
    assert f"{said[0]} written by onespike" in text
    assert f" 1 channel, {said[1]}." in text
    assert ("- spiking-neural-network" in text) == (said[0] == "A spiking network,")


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (model_config("conv-tiny"), 'import onespike\n\nnetwork = onespike.load("FOLDER or user/repo")\n'),
        (ClassPath("pkg.nets.Net", {}), '\n\nonespike.allow_imports("pkg.nets")  # the module of Net\nnetwork = '),
        (ClassPath.of(LIF(1)), 'network = onespike.load("FOLDER or user/repo", model=…)  # a LIF like the one'),
    ],
)
def test_the_card_says_how_to_load_the_network(model: Any, code: str) -> None:
    assert code in model_card(replace(CARD, model=model), True, {}, (), "")


def test_a_layer_of_two_names_is_rounded_under_both(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    network = nn.ModuleDict({"first": layer, "second": layer})
    stored = load_file(onespike.save_pretrained(network, tmp_path / "out", card=CARD, weights="int8") / WEIGHTS)
    assert {name for name, one in stored.items() if one.dtype == torch.int8} == {"first.weight", "second.weight"}


def test_a_file_that_comes_while_the_card_is_written_stays(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: Any) -> str:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes.txt").write_text("mine")
        return ""

    monkeypatch.setattr("onespike.exporting.hub.model_card", write)
    with pytest.raises(OnespikeError, match=r"holds notes.txt, which is of no earlier saved network"):
        onespike.save_pretrained(run, tmp_path / "out")


@pytest.mark.slow
def test_the_card_says_what_a_proof_says(run: Run, tmp_path: Path) -> None:
    shown = {"same_class": 100.0, "images": 20, "spikes": 5000, "layers": 6, "differing": 0, "holds": True}
    targets = [
        {"target": "onnx", "weights": "fp32"} | shown | {"differing": 2},
        {"target": "c", "weights": "int8"} | shown,
        {"target": "pt2"} | shown | {"holds": False},  # of an earlier version
    ]
    (run.folder / "exported").mkdir()
    proofs = {"network": run.checkpoint("best").digest, "targets": targets}
    (run.folder / "exported" / "parity.json").write_text(json.dumps(proofs))

    def said(weights: Any) -> list[str]:
        card = (onespike.save_pretrained(run, tmp_path / "out", weights=weights) / "README.md").read_text()
        return [line for line in card.splitlines() if line.startswith("Exported to ")]

    same = "100.00% of 20 images in the same class"
    old = f"Exported to pt2: {same}, 0 of 5,000 spikes differ; parity does not hold."
    assert said("fp32") == [f"Exported to onnx: {same}, 2 of 5,000 spikes differ in the first layer where any do.", old]
    assert said("int8") == [f"Exported to c: {same}, 0 of 5,000 spikes differ.", old]
    (run.folder / "exported" / "parity.json").unlink()
    made = onespike.export(run, run.folder / "exported", "pt2", count=4, weights="int8")
    assert made.parity[0].weights == "int8"
    assert (len(said("fp32")), len(said("int8"))) == (0, 1)


def test_results_are_those_of_the_epoch_whose_weights_are_written(run: Run, tmp_path: Path) -> None:
    best = run.checkpoint("best")
    replace(best, state={"progress": {"epoch": 5, "history": []}}).save(run.last)

    def results(which: str) -> tuple[Any, ...]:
        summary = Run.open(onespike.save_pretrained(run, tmp_path / "out", which=which)).summary
        assert summary is not None
        return summary["best_epoch"], summary.get("test_top1"), summary.get("valid_top1")

    assert results("best") == (1, 90.0, 91.0)
    assert results("last") == (5, None, None)
    (run.best / "model.safetensors").write_bytes(b"")
    assert results("best") == (5, None, None), "the best weights are lost"
    best.save(run.last)
    assert results("last") == (1, 90.0, 91.0)


def test_other_test_images_than_the_runs_are_named(run: Run, tmp_path: Path) -> None:
    results = {"test_top1": 50.0, "test_images": 10, "test_data": "mine"}
    folder = onespike.save_pretrained(run, tmp_path / "out", results=results)
    assert "50.00% of 10 test images of mine (95% interval" in (folder / "README.md").read_text()


def test_a_card_beside_a_run_would_be_ignored(run: Run, tmp_path: Path) -> None:
    with pytest.raises(OnespikeError, match="card: with a run it would be ignored: leave it out"):
        onespike.save_pretrained(run, tmp_path / "out", card=CARD)


@pytest.mark.parametrize("change", [{"width": 8}, {"num_classes": 7}, {"in_channels": 3}, {"head": "mean", "depth": 3}])
def test_a_network_that_is_another_than_its_card_says_replaces_nothing(change: dict[str, Any], tmp_path: Path) -> None:
    card = ModelCard(model_config("spiking-vgg-xs", width=4), CLASSES, 1, 32, (0.5,), (0.5,), "digits")
    folder = onespike.save_pretrained(card.build(), tmp_path / "out", card=card)
    with pytest.raises(OnespikeError, match="is not a run: it was saved from Python, without a recipe: onespike"):
        onespike.save_pretrained(folder, tmp_path / "again")
    before = (folder / "model.safetensors").read_bytes()
    other = onespike.create_model("spiking-vgg-xs", **{"width": 4, "in_channels": 1, **change})
    with pytest.raises(OnespikeError, match=r"^the network is another than its card says, spiking-vgg-xs: .* instead"):
        onespike.save_pretrained(other, folder, card=card)
    assert (folder / "model.safetensors").read_bytes() == before


def test_so_it_is_if_no_tensor_tells(tmp_path: Path) -> None:
    card = ModelCard(model_config("spiking-vgg-xs", width=4), CLASSES, 1, 32, (0.5,), (0.5,), "digits")
    for change in ({"neuron": {"threshold": 0.1}}, {"time_steps": 4}):
        other = onespike.create_model("spiking-vgg-xs", width=4, in_channels=1, **change)
        with pytest.raises(OnespikeError, match=r"^the network is another than its card says, spiking-vgg-xs: it has"):
            onespike.save_pretrained(other, tmp_path / "out", card=card)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_a_compiled_network_is_saved_by_its_own_names(weights: Any, tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    compiled = torch.compile(network, backend="eager")
    folder = onespike.save_pretrained(compiled, tmp_path / "out", card=CARD, weights=weights)
    loaded = onespike.load(folder, model=nn.Linear(2, 2))
    torch.testing.assert_close(loaded.weight, network.weight, atol=0.01, rtol=0)


def test_of_8_bits_nothing_is_said_where_nothing_is_rounded(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    card = replace(CARD, model=ClassPath.of(LIF(1)))
    with pytest.raises(OnespikeError, match=r"^weights: int8 would be ignored: .*, and the network has none"):
        onespike.save_pretrained(nn.GRU(2, 2), tmp_path / "out", card=card, weights="int8")
    assert not (tmp_path / "out").exists()
    onespike.save_pretrained(nn.Sequential(nn.Linear(2, 2), nn.GRU(2, 2)), tmp_path / "out", card=card, weights="int8")
    assert "not rounded to 8 bits: 1.weight_ih_l0, 1.weight_hh_l0" in capsys.readouterr().err


def test_whole_numbers_of_a_network_come_back(tmp_path: Path) -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("shifts", torch.tensor([1, -2], dtype=torch.int8))

    network, other = Counting(), Counting()
    other.shifts.zero_()
    for weights in ("fp32", "int8"):
        folder = onespike.save_pretrained(network, tmp_path / "out", card=CARD, weights=weights)
        assert torch.equal(onespike.load(folder, model=other).shifts, network.shifts)
