"""The trained networks in the package are what their summaries say."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import onespike
from onespike.data.config import DataConfig
from onespike.errors import OnespikeError
from onespike.evaluation import evaluate
from onespike.functional import to_integers
from onespike.models.pretrained import FOLDER, in_integers, pretrained_names, pretrained_summary, read_weights
from onespike.training.run import Run


def test_together_they_are_small_and_nothing_but_data() -> None:
    files = [path for name in pretrained_names() for path in (FOLDER / name).iterdir()]
    assert files
    assert sum(path.stat().st_size for path in files) <= 3 * 10**6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".yaml", ".md"}


@pytest.mark.parametrize("name", pretrained_names())
def test_accuracy_is_what_the_summary_says(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    run = Run.open(f"pretrained:{name}")
    data = run.recipe.data.name
    if data == "digits":
        root = None
    else:
        root = str(request.getfixturevalue("shared_data") / data)
        if not run_slow(request):
            pytest.skip("thousands of images: with the slow tests")
    config = DataConfig(name=data, root=root, cache=str(tmp_path), image_size=run.recipe.data.image_size)
    found, summary = evaluate(run, config, precision="fp32", device="cpu"), pretrained_summary(name)
    assert found.images == summary["test_images"]
    assert found.top1.mean == pytest.approx(summary["test_top1"], abs=0.05)


def run_slow(request: pytest.FixtureRequest) -> bool:
    return "not slow" not in str(request.config.getoption("-m"))


def test_what_starts_from_one_knows_what_was_spent_on_it(tmp_path: Path) -> None:
    run = Run.open("pretrained:digits-spiking-vgg-xs")
    summary = pretrained_summary("digits-spiking-vgg-xs")
    assert (run.epochs(), run.flops()) == (20, round(1e15 * summary["pflop"]))
    shutil.copytree(run.folder, tmp_path / "own")
    path = tmp_path / "own" / "summary.json"
    for changed, epochs, flops in (
        ({"best_epoch": 7, "epochs_before": 3, "pflop_before": 2e-15}, 23, round(1e15 * summary["pflop"]) + 2),
        ({"epochs": None, "pflop": None}, 20, None),
    ):
        path.write_text(json.dumps(summary | changed))
        assert (Run(path.parent).epochs(), Run(path.parent).flops()) == (epochs, flops)
    for key, value in (("best_epoch", -1), ("epochs_before", -3), ("epochs", "20"), ("pflop", 1e300)):
        path.write_text(json.dumps(summary | {key: value}))
        with pytest.raises(OnespikeError, match=rf"summary\.json: {key}: expected"):
            Run(path.parent).epochs()


def test_weights_of_8_bits_come_back_and_others_are_as_they_were(tmp_path: Path) -> None:
    weight, path = torch.randn(3, 4, 2, 2), tmp_path / "weights"
    others = {"affine.scale": torch.randn(3), "own": torch.arange(3, dtype=torch.int8), "b.weight": torch.randn(2, 2)}
    save_file(in_integers({"a.weight": weight} | others, {"a.weight"}), path)
    integers, scale = to_integers(weight.double())
    expected = others | {"a.weight": (integers * scale.float().double()).float()}
    found = read_weights(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(one, expected[name]) for name, one in found.items())
    for odd in (torch.ones(2), torch.ones(3, dtype=torch.int64)):
        save_file({"a": torch.ones(3, 2, dtype=torch.int8), "a.scale": odd}, path)
        with pytest.raises(OnespikeError, match=r"^a, \(3, 2\): expected a.scale, a float for each channel"):
            read_weights(path)


def test_create_model_takes_the_weights() -> None:
    network = onespike.create_model("spiking-vgg-xs", pretrained="digits")
    assert not network.training
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(images), onespike.load("pretrained:digits-spiking-vgg-xs")(images))
    with pytest.raises(OnespikeError, match="num_classes: the weights digits-spiking-vgg-xs are for 10, got 7"):
        onespike.create_model("spiking-vgg-xs", pretrained="digits", num_classes=7)
    with pytest.raises(OnespikeError, match="width: weights that are trained have their own"):
        onespike.create_model("spiking-vgg-xs", pretrained="digits", width=8)
    with pytest.raises(OnespikeError, match="unknown pretrained network 'imagenet-spiking-vgg-xs'"):
        onespike.create_model("spiking-vgg-xs", pretrained="imagenet")


@pytest.mark.slow
def test_commands_list_and_run_them(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONESPIKE_CACHE", str(tmp_path / "cache"))
    code, printed, _ = command("models")
    summary = pretrained_summary("digits-spiking-vgg-xs")
    assert code == 0
    assert "digits-spiking-vgg-xs" in printed
    assert f"{summary['test_top1']:.2f}%" in printed
    code, printed, _ = command("evaluate", "pretrained:digits-spiking-vgg-xs", "--precision", "fp32")
    assert code == 0
    assert f"top-1 {summary['test_top1']:.2f}%" in printed
    code, _, complaint = command("inspect", "--sample", 0, "pretrained:digits-spiking-vgg-xs")
    assert code == 0, complaint
    # In a process of its own: runtimes set up the processor for themselves.
    words = ("-m", "onespike", "optimise", "--images", "10", "--rounds", "1", "pretrained:digits-spiking-vgg-xs")
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "pretrained-digits-spiking-vgg-xs"]
    made = sorted(path.name for path in (tmp_path / "pretrained-digits-spiking-vgg-xs").iterdir())
    assert made == ["engine", "evaluation", "inspection"]
    for verb in (["evaluate"], ["inspect", "--sample", 0], ["export", "--to", "c", "--out", "x.c"]):
        code, _, complaint = command(*verb, "pretrained:digits-spiking-vgg-xs", "--checkpoint", "last")
        assert code == 2
        assert "holds its best weights alone: leave out --checkpoint last" in complaint
    code, _, complaint = command("evaluate", "pretrained:digits-spiking-vgg")
    assert code == 2
    assert "did you mean 'digits-spiking-vgg-xs'?" in complaint
