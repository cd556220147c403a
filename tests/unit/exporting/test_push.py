"""Pretrained networks: folders, the Hub (faked), timm."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import onespike
from onespike.audit import CONVENTIONS
from onespike.errors import OnespikeError
from onespike.exporting.model_card import interval
from onespike.functional import to_integers
from onespike.models import model_config
from onespike.training.checkpoint import ModelCard
from onespike.training.run import Run
from tests.running import raising
from tests.unit.exporting.conftest import SUMMARY

CLASSES = tuple("0123456789")


def answers(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network.eval()(torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("held_out", [91.0, None])
def test_a_folder_gives_the_same_network(held_out: float | None, run: Run, tmp_path: Path) -> None:
    run.finish(SUMMARY | {"valid_top1": held_out})
    folder = onespike.save_pretrained(run, tmp_path / "out")
    names = ["README.md", "config.json", "config.yaml", "model.json", "model.safetensors", "summary.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    expected = answers(run.model())
    assert torch.equal(answers(onespike.from_pretrained(folder)), expected)
    assert torch.equal(answers(Run.open(folder).model()), expected)
    assert str(tmp_path) not in "".join(path.read_text("utf-8", "replace") for path in folder.iterdir())
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: onespike\n")
    low, high = interval(90.0, 360)
    assert f"90.00% of 360 test images (95% interval {low:.2f} to {high:.2f}%" in card
    assert "one seed (0)" in card
    assert "name: spiking-vgg-xs" in card
    onespike.save_pretrained(run, folder)  # an earlier one is replaced
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(OnespikeError, match=r"holds notes.txt, which is of no earlier saved network"):
        onespike.save_pretrained(run, folder)


def test_the_interval_is_wilsons() -> None:
    low, high = interval(50.0, 100)
    assert (round(low, 2), round(high, 2)) == (40.38, 59.62)
    assert interval(100.0, 360)[1] == 100.0
    assert interval(100.0, 360)[0] < 99.0


def test_8_bits_are_those_of_training(run: Run, tmp_path: Path) -> None:
    folder = onespike.save_pretrained(run, tmp_path / "out", weights="int8")
    assert not (folder / "config.json").exists(), "timm reads floats alone"
    stored = load_file(folder / "model.safetensors")
    layers = [name for name, one in run.model().named_modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    assert {name for name, one in stored.items() if one.dtype == torch.int8} == {f"{name}.weight" for name in layers}
    loaded = onespike.load(folder).state_dict()
    for name, weight in run.model().state_dict().items():
        if name.removesuffix(".weight") in layers:
            integers, scale = to_integers(weight.double())
            torch.testing.assert_close(loaded[name].double(), integers * scale, rtol=1e-6, atol=0)
            assert torch.equal(to_integers(loaded[name].double())[0], integers)
        else:
            assert torch.equal(loaded[name], weight)
    assert "test_top1" not in Run.open(folder).summary
    run.begin(replace(run.recipe, train=replace(run.recipe.train, int8_weights=True)))
    run.finish(SUMMARY)  # of rounded weights
    assert Run.open(onespike.save_pretrained(run, folder, weights="int8")).summary["test_top1"] == 90.0


@pytest.mark.parametrize("how", [{"weights": "int8"}, {"which": "last"}])
def test_what_was_measured_of_other_weights_is_not_said(how: dict[str, Any], run: Run, tmp_path: Path) -> None:
    replace(run.checkpoint("best"), state={"progress": {"epoch": 2, "history": []}}).save(run.last)
    folder = onespike.save_pretrained(run, tmp_path / "out", **how)
    assert "## Accuracy" not in (folder / "README.md").read_text()
    assert "test_top1" not in Run.open(folder).summary
    measured = onespike.save_pretrained(
        run, tmp_path / "measured", results={"test_top1": 89.0, "test_images": 9}, **how
    )
    again = onespike.save_pretrained(measured, tmp_path / "again", weights=how.get("weights", "fp32"))
    assert Run.open(again).summary["test_top1"] == 89.0


def test_a_network_that_is_no_run_needs_a_card(tmp_path: Path) -> None:
    network = onespike.create_model("spiking-vgg-xs", width=4, in_channels=1)
    with pytest.raises(OnespikeError, match="expected a ModelCard"):
        onespike.save_pretrained(network, tmp_path / "out")
    card = ModelCard(model_config("spiking-vgg-xs", width=4), CLASSES, 1, 32, (0.3,), (0.35,), "digits")
    measured = {"test_top1": 89.0, "test_images": 9}
    folder = onespike.save_pretrained(network, tmp_path / "out", card=card, results=measured)
    assert torch.equal(answers(onespike.load(folder)), answers(network))
    assert "of the images alone), weights in float32." in " ".join((folder / "README.md").read_text().split())


def test_the_hub_is_asked_for_data_alone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = onespike.save_pretrained(run, tmp_path / "fetched"), list[Any]()

    def download(repository: str, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(answers(onespike.load("user/repo")), answers(run.model()))
    assert Run.open("hub:user/repo").recipe.model == run.recipe.model
    assert [repository for repository, _ in asked] == ["user/repo"] * 2
    assert not any(pattern.endswith((".py", "*")) for _, patterns in asked for pattern in patterns)


class ConnectError(Exception):
    """Of an HTTP library, no OSError."""


@pytest.mark.parametrize("kind", [huggingface_hub.errors.LocalEntryNotFoundError, ConnectError])
def test_a_repository_that_cannot_be_reached_is_one_line(
    kind: type[Exception], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreachable = raising(kind("no network\n\n here"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", unreachable)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OnespikeError, match=r"'hub:user/repo': expected a folder, or a repository .*: no network here"):
        onespike.load("user/repo")
    with pytest.raises(OnespikeError, match=r"^'hub:': expected a folder, or a repository"):
        Run.open("hub:")
    with pytest.raises(OnespikeError, match=r"user/repo: the Hub refuses, or cannot be reached: no network here; hf"):
        onespike.push_to_hub(run, "user/repo")


def test_push_uploads_what_is_saved(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str, str]]
) -> None:
    seen: dict[str, Any] = {}

    class Api:
        def create_repo(self, name: str, private: bool, exist_ok: bool) -> None:
            seen["repo"] = name, private, exist_ok

        def upload_folder(self, repo_id: str, folder_path: Path, delete_patterns: list[str]) -> str:
            seen["deleted"] = sorted(delete_patterns)
            seen["files"] = sorted(path.name for path in folder_path.iterdir())
            seen["bias"] = load_file(folder_path / "model.safetensors")["head.bias"]
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert onespike.push_to_hub(run, "user/repo", private=True) == "https://hub/user/repo"
    assert seen["repo"] == ("user/repo", True, True)
    assert seen["deleted"] == seen["files"], "nothing of an earlier push stays"
    assert "model.safetensors" in seen["files"]
    assert not any(name.endswith((".pt", ".bin", ".pkl")) for name in seen["files"])

    monkeypatch.setattr("onespike.cli.push._measured", lambda *_: {"test_top1": 50.0, "test_images": 10})
    last = run.checkpoint("best")
    last.weights["head.bias"] += 1
    last.save(run.last)
    for options, private, checkpoint in (((), False, "best"), (("--private", "--checkpoint", "last"), True, "last")):
        code, printed, said = command("push", run.folder, "--repo", "user/own", *options)
        assert (code, "weights fp32: https://hub/user/own" in printed) == (0, True), said
        assert seen["repo"] == ("user/own", private, True)
        assert torch.equal(seen["bias"], run.checkpoint(checkpoint).weights["head.bias"])


@pytest.mark.parametrize("place", ["FOLDER", "hub:user/repo", "pretrained:FOLDER"])
def test_what_travels_is_not_trained_over(
    place: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str, str]]
) -> None:
    folder = onespike.save_pretrained(run, tmp_path / "package" / "pushed")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("onespike.models.pretrained.FOLDER", folder.parent)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    place = place.replace("FOLDER", folder.name if ":" in place else str(folder))
    code, _, complaint = command("train", "--resume", place, "--train.epochs", 1)
    assert (code, len(complaint.splitlines())) == (2, 1)
    assert f"start a new run from them by --init-from {folder}" in complaint
    with pytest.raises(OnespikeError, match="holds a pretrained network"):
        onespike.train(run.recipe, place, resume=True)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "is damaged"),
        (lambda folder: (folder / "model.json").write_text("{"), "cannot be read as JSON"),
        (lambda folder: (folder / "summary.json").unlink(), "no summary.json"),
        (lambda folder: (folder / "model.json").write_text('{"model": {"class_path": "os.system"}}'), "model.json"),
    ],
)
def test_damaged_folders_are_refused(change: Callable[[Path], object], message: str, run: Run, tmp_path: Path) -> None:
    folder = onespike.save_pretrained(run, tmp_path / "out")
    change(folder)
    with pytest.raises(OnespikeError, match=message):
        onespike.load(folder)


@pytest.mark.slow
def test_the_model_card_has_proofs_of_the_network_that_it_is_of(run: Run, tmp_path: Path) -> None:
    made = onespike.export(run, run.folder / "exported", "pt2", count=4)
    spikes = made.parity[0].spikes
    card = onespike.save_pretrained(run, tmp_path / "out") / "README.md"
    assert f"Exported to pt2: 100.00% of 4 images in the same class, 0 of {spikes:,} spikes differ." in card.read_text()
    trained = run.checkpoint("best")
    trained.weights["head.weight"] += 1
    trained.save(run.best)
    onespike.save_pretrained(run, tmp_path / "out")
    assert "Exported" not in card.read_text()


def test_timm_builds_registered_models_and_reads_folders(run: Run, tmp_path: Path) -> None:
    import timm

    assert "onespike_spiking_resnet_m" in onespike.register_timm()
    onespike.register_timm()  # again does no harm
    with pytest.raises(OnespikeError, match=r"widht"):
        timm.create_model("onespike_spiking_resnet_xs", img_size=32, widht=4)
    always = {"drop_rate": 0.0, "drop_path_rate": None, "global_pool": "avg"}  # as timm's training script passes them
    assert timm.create_model("onespike_spiking_resnet_xs", num_classes=7, img_size=32, width=4, **always)
    with pytest.raises(OnespikeError, match=r"drop_path_rate"):
        timm.create_model("onespike_spiking_resnet_xs", img_size=32, drop_path_rate=0.1)
    network = timm.create_model("onespike_spiking_resnet_xs", num_classes=7, in_chans=1, img_size=32, width=4)
    assert answers(network).shape == (4, network.num_classes) == (4, 7)
    folder = onespike.save_pretrained(run, tmp_path / "out")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(answers(loaded), answers(run.model()))
    said = {"mean": [0.3], "std": [0.35], "input_size": [1, 32, 32], "num_classes": 10, "label_names": list(CLASSES)}
    assert (
        json.loads((folder / "config.json").read_text())["pretrained_cfg"].items() >= (said | {"crop_pct": 1}).items()
    )


def test_push_measures_what_it_writes(
    run: Run, tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, found = tmp_path / "pushed", dict[str, Any]()

    def noted(place: str, name: str) -> None:
        module = import_module(place)
        measure = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **named: found.setdefault(name, measure(*given, **named)))

    noted("onespike.evaluation.evaluate", "evaluate")
    noted("onespike.audit", "audit_run")
    code, printed, _ = command("push", run.folder, "--out", out, "--weights", "int8", "--images", 8)
    assert code == 0
    summary = json.loads((out / "summary.json").read_text())
    evaluated, audited = found["evaluate"], found["audit_run"]
    tops = [summary[f"test_{name}"] for name in ("top1", "top5", "loss", "set")]
    assert tops == [evaluated.top1.mean, evaluated.top5.mean, evaluated.loss.mean, evaluated.test_set]
    assert summary["audit"] == {
        **{
            key: getattr(audited.operations, key) for key in ("images", "weights", "synaptic_operations", "firing_rate")
        },
        "macs": {"dense": audited.operations.macs},
        "joules": {name: audited.energy(name).total for name in CONVENTIONS},
    }
    assert f"{summary['test_top1']:.2f}% of 360 test images, weights int8" in printed
    assert summary["test_top1"] != 90.0, "it is what was measured at the end of training"
    assert summary["audit"]["images"] == 8
    assert summary["audit"]["synaptic_operations"] > 0
    assert "synaptic operations" in (out / "README.md").read_text()
    assert "test images of digits (95%" in (out / "README.md").read_text()
    assert "weights in 8 bits." in (out / "README.md").read_text()
    (out / "notes.txt").write_text("mine")
    other = tmp_path / "other"
    for words, message in (
        (["--out", out], "holds notes.txt"),
        (["--out", other, "--images", 0], "--images: expected at least 1, got 0"),
        (["--repo", "name"], "name: expected a repository of the Hub, user/name"),
    ):
        with monkeypatch.context() as patch:  # before the work
            patch.setattr("onespike.cli.push._measured", lambda *_: pytest.fail("it measured first"))
            code, _, complaint = command("push", run.folder, *words)
        assert (code, message in complaint) == (2, True), complaint

    def train_on(*_: Any) -> dict[str, Any]:
        checkpoint = run.checkpoint("best")
        checkpoint.weights["head.weight"] += 1
        checkpoint.save(run.best)
        return {}

    with monkeypatch.context() as patch:
        patch.setattr("onespike.cli.push._measured", train_on)
        code, _, complaint = command("push", run.folder, "--out", other)
    assert (code, "was trained on while it was measured: push it again" in complaint) == (2, True), complaint
    assert not other.exists()
    assert "--train.int8_weights true|false" in " ".join(command("train", "--help")[1].split())
    code, _, complaint = command("push", run.folder)
    assert code == 2
    assert "expected one place to write" in complaint
    code, _, complaint = command("push", run.folder, "--out", out, "--private")
    assert code == 2
    assert "--private is for a repository of the Hub" in complaint
