"""Exports of runs, gathered in one table."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from onespike.data.config import DataConfig
from onespike.models import model_config
from onespike.training.run import Run
from reproduce import exports
from tests.unit.written_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of a network with maximum pooling of real values, which NIR cannot say."""
    config = model_config("spiking-resnet-xs", width=4)
    return write_run(tmp_path / "small", config, DataConfig(name="digits"), tuple("0123456789"))


@pytest.mark.slow
def test_proofs_and_refusals(
    run: Run, tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("nir")
    monkeypatch.setattr(exports, "WRITTEN", {"pt2": ("pt2", "fp32"), "nir": ("nir", "fp32")})
    out, work = tmp_path / "out", tmp_path / "work"
    options = ["--runs", run.folder, "--images", 20, "--out", out, "--work", work]
    code, printed, _ = command("exports", *options)
    assert code == 0
    assert f"the table is {out / 'export.md'}\n" in printed
    table = (out / "export.md").read_text()
    assert "| small | pt2 | pt2 | 20 |" in table
    assert "- small, nir: nir: it cannot say max pooling of real values in stem.0.2" in table
    found = json.loads((out / "export-small.json").read_text())["exports"]
    assert found["pt2"]["targets"][0]["images"] == 20
    assert found["pt2"]["targets"][0]["holds"]
    assert found["pt2"]["bytes"] == {"model.pt2": (work / "small" / "pt2" / "model.pt2").stat().st_size}
    assert set(found["nir"]) == {"refused"}
    assert not (work / "small" / "nir").exists()

    before = (work / "small" / "pt2" / "model.pt2").stat().st_mtime_ns
    monkeypatch.setattr(exports, "WRITTEN", {"pt2": ("pt2", "fp32")})
    assert command("exports", *options)[0] == 0
    assert (work / "small" / "pt2" / "model.pt2").stat().st_mtime_ns == before
    assert "Not written" not in (out / "export.md").read_text()


def test_a_row_says_of_each_target_what_its_proof_says() -> None:
    shares = {"top1": 90.0, "target_top1": 89.5, "same_class": 99.0}
    counts = {"images": 200, "differing": 3, "spikes": 1000, "logit_error": 0.25, "largest_logit": 8.0}
    proof = {"target": "onnxruntime", "holds": True} | shares | counts
    rows = [*exports._rows("run", "onnx-fp32", {"targets": [proof, proof | {"holds": False}]})]
    expected = ["run", "onnx-fp32", "onnxruntime", 200, 90.0, 89.5, 99.0, 3, 1000, 0.25, 8.0]
    assert rows == [[*expected, "holds"], [*expected, "DOES NOT HOLD"]]
    assert [*exports.COLUMNS][3:11] == [
        *("images", "top-1 %", "target's", "same class %"),
        *("spikes that differ", "of", "error of a logit", "largest logit"),
    ]


@pytest.mark.parametrize("missing", ["images", "weights"])
def test_what_is_not_there_is_no_refusal_of_a_format(
    missing: str,
    run: Run,
    tmp_path: Path,
    command: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("nir")
    monkeypatch.setattr(exports, "_proved", lambda *_: pytest.fail("something was exported"))
    data = DataConfig(name="folder", root=str(tmp_path / "moved")) if missing == "images" else DataConfig(name="digits")
    folder = tmp_path / "second"
    other = write_run(folder, model_config("spiking-resnet-xs", width=4), data, tuple("0123456789"))
    if missing == "weights":
        shutil.rmtree(other.best)
    code, _, complaint = command("exports", "--runs", run.folder, folder, "--out", tmp_path / "out")
    assert (code, complaint.count("\n")) == (2, 1)
    assert (str(tmp_path / "moved") if missing == "images" else "no usable checkpoint") in complaint
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("change", ["weights", "images", "damage", "no list", "version"])
def test_a_proof_of_something_else_is_made_anew(
    change: str, run: Run, tmp_path: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("nir")
    monkeypatch.setattr(exports, "WRITTEN", {"pt2": ("pt2", "fp32")})
    out, work, images = tmp_path / "out", tmp_path / "work", 3
    proof = work / "small" / "pt2" / "parity.json"
    assert command("exports", "--runs", run.folder, "--images", images, "--out", out, "--work", work)[0] == 0
    before = json.loads(proof.read_text())
    if change == "images":
        images = 4
    elif change == "weights":
        trained = run.checkpoint("best")
        trained.weights["head.weight"] += 1
        trained.save(run.best)
    else:
        texts = {"damage": "{", "no list": "[1]", "version": json.dumps(before | {"onespike": "0.1"})}
        proof.write_text(texts[change])
    assert command("exports", "--runs", run.folder, "--images", images, "--out", out, "--work", work)[0] == 0
    found = json.loads(proof.read_text())
    assert found["targets"][0]["images"] == images
    assert found["onespike"] == before["onespike"]
    assert (found["network"] == before["network"]) == (change != "weights")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "exports: expected run folders: --runs RUN RUN"),
        (["--runs", "nowhere/x"], "nowhere/x is not a run"),
        (["--runs", "nowhere/x", "--images", "0"], "images: expected at least 1, got 0"),
        (["--runs", "a/x", "b/x"], "runs: expected a name for each, got 2 called x"),
    ],
)
def test_what_is_no_run_is_refused(
    arguments: list[str], message: str, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, complaint = command("exports", "--out", tmp_path, *arguments)
    assert code == 2
    assert message in complaint
