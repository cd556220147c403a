"""Engines side by side on a trained network."""

import json
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import benchmarks.folder
import benchmarks.norm_fire
import benchmarks.others
import benchmarks.small_maps
from benchmarks.__main__ import run as bench
from onespike.data.config import DataConfig
from onespike.errors import OnespikeError
from onespike.inference.compare import Comparison, Measured
from onespike.models import model_config
from onespike.training import Run
from tests.unit.written_run import write_run

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_all_engines_classify_and_are_timed(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    config = model_config("conv-tiny", depths=(1,), channels=(8,))
    data = DataConfig(name="digits", cache=str(tmp_path / "cache"))
    run = write_run(tmp_path / "run", config, data, tuple("0123456789"))
    out, numbers = tmp_path / "engine.md", tmp_path / "engine-run.json"
    options = ["--rounds", "1", "--images", "20", "--out", str(out)]
    # In a process of its own, as a user's: each runtime sets up the processor's matrix tiles for itself.
    command = [sys.executable, "-m", "benchmarks", "engine", str(run.folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    engines = {one["engine"]: one for one in json.loads(numbers.read_text())["engines"]}
    assert {"PyTorch fp32", "onespike int8", "ONNX Runtime fp32", "ONNX Runtime int8"} <= engines.keys()
    for one in engines.values():
        assert list(one["milliseconds"]) == ["1", "8", "64"]
        assert all(time > 0 for time in one["milliseconds"].values())
    assert set(engines["PyTorch fp32"]["ratio"].values()) == {1.0}
    assert engines["ONNX Runtime fp32"]["same_class"] == 100.0
    assert engines["ONNX Runtime fp32"]["spikes_differ"] < 1e-3
    assert all(
        part in out.read_text()
        for part in ("## run", "| ONNX Runtime int8 |", "- Command: `python -m benchmarks engine")
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "--gemm", "[99999999999]"), "--gemm: expected sides of at most"),
        (("infer", "--threads", "1000000000"), "--threads: expected at most"),
        (("infer", "--model", "resnet18"), "resnet18: expected a network of spiking blocks"),
        (("engine", "x", "--device", "cuda"), "--device: engine does not take it, only --images, --out"),
        (("engine", "x", "--gemm", "[64]"), "--gemm: engine does not take it, only --images, --out"),
        (("scaling", "--gemm", "[64]"), "--gemm: scaling does not take it"),
        (("engine",), "expected a run folder: python -m benchmarks engine RUN"),
        (("engine", ","), "expected a run folder: python -m benchmarks engine RUN"),
        (("engine", "a/x,b/y,b/x"), "expected a name for each, got 2 called x: rename their folders"),
        (("engine", "x", "--out", "/"), "cannot write /: it is a folder"),
        (("infer", "somewhere"), "unexpected 'somewhere': infer times no run, engine does"),
    ],
)
def test_what_cannot_be_timed_is_refused(arguments, message):
    with pytest.raises(OnespikeError, match=message):
        bench(arguments)


@pytest.mark.parametrize(
    ("script", "argument"),
    [
        ("calibration", "nowhere"),
        ("compare_runs", "nowhere"),
        ("conversion_vs_spikingjelly", "nowhere"),
        ("profile_step", "conv12"),
    ],
)
def test_scripts_refuse_in_one_line(
    script: str, argument: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", [script, argument])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "benchmarks" / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert re.fullmatch(rf"error: .*{argument}.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("profile_step", "conv12:1 --threads 0", "--threads: expected at least 1, got 0"),
        ("profile_step", "conv12:1 --threads 1000000000", "--threads: expected at most"),
        ("profile_step", "conv12:1 resnet18:8", "resnet18: expected a network of spiking blocks"),
        ("profile_step", "conv12:1 --out /", "cannot write /: it is a folder"),
        ("calibration", f"RUN --out {__file__}", "is no folder"),
        (
            "conversion_vs_spikingjelly",
            "RUN --images 1",
            "--images: expected at least 2, which an interval takes, got 1",
        ),
        ("conversion_vs_spikingjelly", "RUN --csv /", "cannot write /: it is a folder"),
        ("compare_runs", f"RUN --out {__file__}", "is no folder"),
        ("compare_runs", f"RUN --add-to {__file__}", "expected a table that this script wrote"),
        ("compare_runs", "RUN --add-to absent.csv", "expected a table that this script wrote"),
        ("profile_step", "conv12:0", "expected MODEL:BATCH, such as conv12:128, got conv12:0"),
        ("calibration", "RUN --images 0", "--images: expected at least 1, got 0"),
        ("calibration", "RUN --calibration-images 0", "--calibration-images: expected at least 1, got 0"),
        ("conversion_vs_spikingjelly", "RUN --images -1", "--images: expected at least 1, got -1"),
        ("conversion_vs_spikingjelly", "RUN --calibration-images 0", "--calibration-images: expected at least 1"),
        ("conversion_vs_spikingjelly", "RUN --steps 4 0", "--steps: expected at least 1, got 0"),
    ],
)
def test_scripts_need_something_to_count(script: str, arguments: str, message: str) -> None:
    with pytest.raises(OnespikeError, match=message):
        import_module(f"benchmarks.{script}").main(arguments.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--side", "0"], "--side: expected at least 1, got 0"), (["--json", "/"], "cannot write /: it is a folder")],
)
def test_a_folder_of_nothing_and_an_answer_that_has_no_place_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(OnespikeError, match=message):
        benchmarks.folder.main(arguments)


def test_norm_and_fire_are_held_against_eight_passes_over_the_currents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESPIKE_KERNELS", "1")
    monkeypatch.setattr(benchmarks.norm_fire, "has_kernels", lambda _: True)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    taken = lambda cases, _: {name: [9.0, 0.002 if name == "copy" else 0.012, 0.001] for name in cases}  # noqa: E731
    monkeypatch.setattr(benchmarks.norm_fire, "interleaved", taken)
    found = benchmarks.norm_fire.measure("cpu", 2, 3)
    moved = 2 * 2 * 2 * 64 * 32 * 32  # two bytes a value, read and written
    assert found["copy_gb_per_second"] == pytest.approx(1e-9 * moved / 0.002)
    assert found["least_ms"] == pytest.approx(8.0)
    assert found["cases"]["kernels"] == pytest.approx({"ms": 12.0, "of_bytes": 1.5})


def test_no_images_are_none_to_norm_and_fire() -> None:
    with pytest.raises(OnespikeError, match="--images, --rounds: expected at least 1, got 0 and 15"):
        benchmarks.norm_fire.main(["--images", "0"])


def test_small_maps_are_timed_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = lambda cases, _: {name: [9.0, 0.004 if name == "conv2d" else 0.002, 0.001] for name in cases}  # noqa: E731
    monkeypatch.setattr(benchmarks.small_maps, "interleaved", taken)
    found = benchmarks.small_maps.measure(2, 4, 3, 3)
    assert (found["conv2d_ms"], found["side_by_side_ms"], found["times_as_fast"]) == pytest.approx((4.0, 2.0, 2.0))
    file = tmp_path / "found.json"
    assert benchmarks.small_maps.main(["--images", "1", "--json", str(file)]) == 0
    cases = json.loads(file.read_text())["cases"]
    sizes = {(one["channels"], one["side"]) for one in cases}
    assert len(cases) == len(sizes) == len(benchmarks.small_maps.CHANNELS) * len(benchmarks.small_maps.SIDES)
    with pytest.raises(OnespikeError, match="--images: expected at least 1, got 0"):
        benchmarks.small_maps.main(["--images", "0"])


def test_networks_of_others_are_timed_with_both_kinds_of_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.others, "NETWORKS", {"a VGG": (benchmarks.others.vgg, 16)})
    met = {"theirs": set[type](), "ours": set[type]()}

    def taken(ways, _rounds):
        for way, take in ways.items():
            network = take.args[0]
            hook = network.register_forward_pre_hook(
                lambda one, _given, way=way: met[way].update(type(layer) for layer in one if "forward" in vars(layer))
            )
            take()
            hook.remove()
        return {way: [9.0, 0.004 if way == "theirs" else 0.002, 0.001] for way in ways}

    monkeypatch.setattr(benchmarks.others, "interleaved", taken)
    file = tmp_path / "found.json"
    assert benchmarks.others.main(["--images", "2", "--json", str(file)]) == 0
    cases = json.loads(file.read_text())["cases"]
    assert [one["precision"] for one in cases] == ["bf16", "fp32"]
    for one in cases:
        assert (one["theirs_ms"], one["ours_ms"], one["times_as_fast"]) == pytest.approx((4.0, 2.0, 2.0))
    assert met == {"theirs": set(), "ours": {torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.MaxPool2d}}
    with pytest.raises(OnespikeError, match="--rounds: expected at least 1, got 0"):
        benchmarks.others.main(["--rounds", "0"])


def test_all_runs_are_opened_before_the_first_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(
        tmp_path / "run", model_config("conv-tiny", depths=(1,), channels=(8,)), DataConfig("digits"), ("0",)
    )
    monkeypatch.setattr("benchmarks.__main__.compare_engines", lambda *_: pytest.fail("it measures"))
    with pytest.raises(OnespikeError, match="absent"):
        bench(["engine", f"{run.folder},{tmp_path / 'absent'}", "--out", str(tmp_path / "engine.md")])


def test_the_table_of_an_engine_keeps_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """What a run calls its network is printed as it is, and does nothing to the terminal."""
    times = {1: 2.0}
    found = Comparison(":smile:\x1b[31m", 1, 1, 1, None, (Measured("PyTorch fp32", 50.0, 100.0, None, times, times),))
    monkeypatch.setattr("benchmarks.__main__.compare_engines", lambda *_: found)
    monkeypatch.setattr("benchmarks.__main__.Run.open", Run)
    assert bench(["engine", "run", "--out", str(tmp_path / "engine.md")]) == 0
    first, _, head, _, row = capsys.readouterr().out.splitlines()[1:6]
    assert first.startswith(":smile:\\x1b[31m: 1 test images")
    assert head.startswith("| engine | top-1 % |")
    assert row.startswith("| PyTorch fp32 | 50.00 |")
