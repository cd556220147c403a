"""`python -m benchmarks`: what is measured is what is said to be measured."""

import copy
import json
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import onespike
from benchmarks import memory, profile_step
from benchmarks.__main__ import _print, main
from benchmarks.case import CLASSES, Case
from benchmarks.compare import cases, compare, record
from benchmarks.compare_runs import minutes
from benchmarks.data import compare_data
from benchmarks.folder import folder, make_folder
from benchmarks.machine import Peak, gemm_peaks
from benchmarks.memory import Alone, alone
from benchmarks.peers import PEERS, PeerUnit, with_plain_layers
from benchmarks.scaling import Point, _varied, save_scaling, scaling
from onespike.clock import Machine, interleaved
from onespike.counting import count_operations
from onespike.errors import OnespikeError
from onespike.models import create_model
from onespike.models.strict_layers import Firing
from onespike.neurons import LIF, Incoming, NeuronConfig
from onespike.training.config import TrainConfig
from onespike.training.optim import make_optimizer
from onespike.units import ConvUnit
from onespike.units.layers import BatchNorm, Conv3x3, Layers, MaxPool
from tests.running import read_rows

PEAKS = {
    name: Peak(name, 100.0, 64, "torch._int_mm" if name == "int8" else "torch.mm") for name in ("fp32", "bf16", "int8")
}
TINY: dict[str, Any] = {"model": "conv-tiny", "image_size": 16}


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the seconds that a process of its own costs."""

    def run(case: Case, _threads: int, rounds: int = 0) -> Alone:
        return Alone(1.0, median(interleaved({"": case.build()}, rounds)[""]) if rounds else 0.0)

    monkeypatch.setattr("benchmarks.compare.alone", run)
    monkeypatch.setattr("benchmarks.scaling.alone", run)


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([*map(str, arguments)])
    return int(exit_.value.code or 0)


def test_the_papers_network_has_247_million_macs() -> None:
    assert Case("infer", "onespike", "fp32", 64).operations() == 2 * 246_992_640


@pytest.mark.parametrize("unit", ["lstm", "gru", "birnn", "mlp"])
def test_cells_are_counted_gate_by_gate(unit: str) -> None:
    channels, side = 4, 8
    overrides: dict[str, Any] = {"depths": (1,), "channels": (channels,), "mlp_ratio": 2}
    case = Case("infer", "onespike", "fp32", 64, f"{unit}12", "", image_size=16, overrides=overrides)
    directions, gates = {"lstm": (2, 4), "gru": (1, 3), "birnn": (2, 1), "mlp": (1, 1)}[unit]
    products = 2 * gates * directions * channels * channels  # of the input, and of the state or the second layer
    per_pixel = products + directions * channels * channels + 2 * 2 * channels * channels
    stem, head = side * side * channels * 3 * 4, channels * CLASSES
    assert case.operations() == 2 * (side * side * per_pixel + stem + head)


@pytest.mark.parametrize("implementation", ["onespike", "sequential"])
def test_a_case_classifies(implementation: str) -> None:
    logits = Case("infer", implementation, "bf16", 4, preset="modern", **TINY).build()()
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (4, 10)
    assert logits.isfinite().all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("implementation", ["onespike", "sequential", *PEERS])
def test_a_training_step_trains(implementation: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if implementation in PEERS:
        pytest.importorskip(implementation.split("-")[0])
    case = Case("train", implementation, dtype, 4, preset="modern", **TINY)
    seen: list[tuple[nn.Module, list[torch.Tensor]]] = []

    def noted(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
        seen.append((model, [parameter.detach().clone() for parameter in model.parameters()]))
        return make_optimizer(config, model)

    monkeypatch.setattr("benchmarks.case.make_optimizer", noted)
    case.build()()
    ((model, before),) = seen
    changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    assert sum(changed) > 0.8 * len(changed)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_recomputing_is_a_way_to_train_and_none_to_infer() -> None:
    case = Case("train", "recompute", "fp32", 2, preset="modern", **TINY)
    assert case._model().recompute
    case.build()()
    for task in ("infer", "neuron", "conv-unit"):
        with pytest.raises(OnespikeError, match=f"no recompute for the task {task}"):
            replace(case, task=task).build()


def test_library_and_plain_implementation_classify_alike() -> None:
    ours = Case("infer", "onespike", "fp32", 4, preset="modern", **TINY)
    torch.manual_seed(3)
    expected = ours.build()()
    torch.manual_seed(3)
    torch.testing.assert_close(replace(ours, implementation="sequential").build()(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # of the other libraries
@pytest.mark.parametrize("peer", list(PEERS))
def test_other_libraries_neurons_leak_and_fire(peer: str) -> None:
    library = peer.split("-")[0]
    pytest.importorskip(library)
    neurons = PEERS[peer].neurons(NeuronConfig(threshold=0.5, decay=0.4))
    # 0.4; 0.4 * 0.4 + 0.4 = 0.56 fires; SpikingJelly's neuron loses 0.5 then, and is below again
    currents = torch.full((3, 1, 1, 1, 1), 0.4, requires_grad=True)
    spikes = neurons(currents)
    assert spikes.flatten().tolist() == [0, 1, 0 if library == "spikingjelly" else 1]
    spikes.sum().backward()
    assert currents.grad is not None
    assert currents.grad.abs().sum() > 0
    assert torch.equal(neurons(currents), spikes), "nothing is kept from call to call"


@pytest.mark.filterwarnings("ignore")
def test_snntorchs_neurons_and_ours_give_the_same_spikes() -> None:
    pytest.importorskip("snntorch")
    currents = torch.randn(4, 2, 3, 5, 5)
    ours = LIF(3).charge_and_fire(currents, Incoming())[1]
    assert torch.equal(PEERS["snntorch"].neurons(NeuronConfig())(currents), ours)
    assert 0.1 < ours.mean() < 0.9


def test_a_case_stays_on_its_device() -> None:
    """The device "meta" computes nothing, but it refuses whatever lies elsewhere."""
    for task in ("infer", "neuron", "conv-unit"):
        Case(task, "onespike", "fp32", 2, preset="modern", device="meta", **TINY).build()()
    with pytest.raises(OnespikeError, match="the engine computes on a cpu"):
        Case("infer", "engine", "int8", 2, device="meta", **TINY).build()


def test_the_conv_units_operations_are_those_of_its_convolutions() -> None:
    weights, pixels = 48 * 48 * 9, 4 * 12 * 12
    assert Case("conv-unit", "onespike", "fp32", 64).operations() == 3 * 2 * 2 * weights * pixels
    assert Case("neuron", "onespike", "fp32", 64).operations() is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["neuron", "conv-unit"])
@pytest.mark.parametrize("implementation", ["onespike", "sequential", *PEERS])
def test_every_implementation_of_every_unit(task: str, implementation: str) -> None:
    if implementation in PEERS:
        pytest.importorskip(implementation.split("-")[0])
    Case(task, implementation, "fp32", 2, preset="modern", **TINY).build()()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("library", ["spikingjelly", "snntorch"])
def test_arranged_or_as_in_its_tutorials_a_library_computes_the_same(library: str) -> None:
    pytest.importorskip(library)
    torch.manual_seed(0)
    unit, windows = ConvUnit(3), (torch.rand(4, 2, 3, 5, 5) > 0.5).float()
    one, other = (PeerUnit(unit, NeuronConfig(), name)(windows).spikes for name in (library, f"{library}-arranged"))
    assert torch.equal(one, other)
    assert one.any()


def test_what_has_no_counterpart_is_refused() -> None:
    pytest.importorskip("snntorch")
    with pytest.raises(OnespikeError, match="no counterpart of the unit gru"):
        Case("infer", "snntorch", "fp32", 2, "gru12").build()


def test_the_engine_is_compared_where_it_can_run() -> None:
    assert [c.dtype for c in cases("infer", "conv12", "modern", 4, "fp32", []) if c.implementation == "engine"] == [
        "int8",
        "int16",
    ]
    assert {c.implementation for c in cases("infer", "conv12", "ann", 4, "fp32", [])} == {"onespike"}


def test_rates_and_shares_follow_from_the_times() -> None:
    case = Case("train", "onespike", "fp32", 8, preset="modern", **TINY)
    one = record(case, [0.5, 0.1, 0.2], PEAKS, 12.0)
    assert (one.images_per_second, one.slowest, one.fastest) == (40.0, 16.0, 80.0)
    operations = 3 * 2 * count_operations(case.network(), [torch.zeros(1, 3, 16, 16)]).macs
    assert one.operations == operations
    assert one.gflops == pytest.approx(operations * 40 / 1e9)
    assert one.share_of_gemm == pytest.approx(operations * 40 / 100e9)


@pytest.mark.parametrize(("dtype", "share"), [("fp32", 0.4), ("bf16", 0.2), ("int8", 0.1), ("int16", 0.1)])
def test_a_share_is_of_the_product_in_the_same_arithmetic(dtype: str, share: float, monkeypatch) -> None:
    monkeypatch.setattr(Case, "operations", lambda _: 10**9)
    peaks = {
        name: replace(PEAKS[name], gflops=gflops) for name, gflops in (("fp32", 100), ("bf16", 200), ("int8", 400))
    }
    assert record(Case("infer", "engine", dtype, 8), [0.2], peaks, 12.0).share_of_gemm == pytest.approx(share)


def test_ratios_are_how_many_times_as_fast_the_library_is(capsys: pytest.CaptureFixture) -> None:
    ours = record(Case("neuron", "onespike", "fp32", 8), [0.2], {}, None)
    other = record(Case("neuron", "sequential", "fp32", 8), [0.4], {}, None)
    _print([ours, other], Console(width=200))
    [line] = [line for line in capsys.readouterr().out.splitlines() if "sequential" in line]
    assert "20.0" in line
    assert "2.00x" in line


def test_peaks_are_measured_in_three_types() -> None:
    peaks = gemm_peaks((64, 128), rounds=1)
    assert set(peaks) == {"fp32", "bf16", "int8"}
    assert all(peak.gflops > 0 and peak.side in (64, 128) for peak in peaks.values())


def test_of_the_products_the_fastest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def timed(products: dict[str, Callable[[], torch.Tensor]], _: int) -> dict[str, list[float]]:
        asked.append(len(products[""]()))
        return {"": {8: [1.0, 9.0, 2.0], 16: [8.0], 32: [200.0]}[asked[-1]]}

    monkeypatch.setattr("benchmarks.machine.interleaved", timed)
    peaks = gemm_peaks((8, 16, 32), rounds=3)
    assert set(asked) == {8, 16, 32}
    assert {(peak.side, round(1e9 * peak.gflops)) for peak in peaks.values()} == {(16, 1024)}  # 2 x 16^3 / 8
    assert peaks["fp32"].measured([4.0, 1.0, 2.0]).gflops == pytest.approx(4096e-9)


@pytest.mark.parametrize(
    ("model", "implementation", "last"),
    [
        ("conv-tiny", "onespike", True),
        ("conv-tiny", "sequential", False),
        ("spiking-vgg-xs", "sequential", True),
        *(("conv-tiny", name, name.endswith("-arranged")) for name in PEERS),
    ],
)
def test_maps_lie_as_each_implementation_has_them(
    model: str, implementation: str, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONESPIKE_KERNELS", "0")  # nothing is compiled
    if implementation in PEERS:
        pytest.importorskip(implementation.split("-")[0])
    case = Case("train", implementation, "fp32", 2, model, "", overrides={"width": 4} if "vgg" in model else {})
    weights = [one for one in case._model().parameters() if one.ndim == 4 and min(one.shape[1:3]) > 1]
    for values in (case._images(2), *weights):
        assert values.is_contiguous(memory_format=torch.channels_last) == last
        assert values.is_contiguous() != last


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own() -> None:
    """This process holds more than the case needs, which must not be counted; the case's maps must."""
    held = torch.ones(100_000_000)
    case = Case("train", "onespike", "fp32", 256, **TINY)
    outcome = alone(case, threads=1, rounds=1)
    maps = 4 * 256 * 16 * 8 * 8  # bytes of one map of the first stage; dozens are kept for the backward pass
    assert 20 * maps / 1e6 < outcome.peak_mb < held.nbytes / 1e6
    assert outcome.seconds > 0


def test_the_input_path_is_timed_beside_the_step() -> None:
    (path, step), _ = compare_data(Case("train", "onespike", "fp32", 8, **TINY), PEAKS, rounds=3, images=20)
    assert (path.task, path.share_of_gemm, path.rounds) == ("data", None, 3)
    assert (step.task, step.rounds) == ("train", 3)
    assert path.images_per_second > 0
    assert step.images_per_second > 0
    assert path.device == step.device == "cpu"


@pytest.mark.slow
@pytest.mark.parametrize("busy", [None, "others used 1.0 cores"])
def test_what_was_timed_beside_something_else_is_marked(busy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(cpu=1.0, others=1.0 if busy else 0.0)
    for name in ("compare", "memory", "profile_step"):
        monkeypatch.setattr(f"benchmarks.{name}.watch_machine", lambda *_: nullcontext(machine))
    for name in ("memory", "profile_step"):
        monkeypatch.setattr(f"benchmarks.{name}.LEAST", 0.0)
    case = Case("infer", "onespike", "fp32", 2, **TINY)
    monkeypatch.setattr("benchmarks.compare.alone", lambda *_: Alone(1.0, 0.0))
    [one], _ = compare([case], PEAKS, 1)
    (path, step), _ = compare_data(replace(case, task="train"), PEAKS, rounds=1, images=4)
    assert [one.busy, path.busy, step.busy] == 3 * [busy]
    assert memory._run(case, torch.get_num_threads(), 1).busy == busy
    found, why = profile_step.shares(case)
    assert why == busy
    assert sum(share for kind, share in found.items() if kind not in profile_step.RATES) == pytest.approx(100)
    assert found["images a second"] == pytest.approx(1000 * case.batch / found["milliseconds"])


@pytest.mark.usefixtures("in_this_process")
def test_scaling_leaves_a_table_and_a_picture(tmp_path: Path) -> None:
    base = Case("train", "onespike", "fp32", 2, **TINY)
    points = scaling(base, 1, 1, {"width": (8,), "threads": (1,)}, quiet=True)
    save_scaling(points, "title", tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "scaling.csv")
    assert [(row["task"], row["axis"], row["value"]) for row in rows] == [
        ("train", "width", "8"),
        ("infer", "width", "8"),
        ("train", "threads", "1"),
        ("infer", "threads", "1"),
    ]
    assert [(row["model"], row["batch"], row["threads"]) for row in rows] == 4 * [("conv-tiny", "2", "1")]
    assert all(row["commit"] and row["processor"] and row["torch"] == torch.__version__ for row in rows)
    assert all(row["device"] == "cpu" and "busy" in row for row in rows)
    assert {row["memory_mb_per_image"] for row in rows} == {"0.5"}
    assert (tmp_path / "out" / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_the_command_writes_records(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "records.json"
    options = ["--model", "conv-tiny", "--batch", "2", "--rounds", "1", "--precision", "fp32", "--gemm", "[64]"]
    assert command("infer", "--vs", "sequential", *options, "--json", file) == 0
    assert "onespike is" in capsys.readouterr().out
    records = json.loads(file.read_text())
    assert [(one["implementation"], one["dtype"]) for one in records] == [
        ("onespike", "fp32"),
        ("sequential", "fp32"),
        ("engine", "int8"),
        ("engine", "int16"),
    ]
    for one in records:
        assert one["task"] == "infer"
        assert one["images_per_second"] > 0
        assert one["peak_memory_mb"] > 0
        assert one["share_of_gemm"] > 0
        assert set(one["gemm_gflops"]) == {"fp32", "bf16", "int8"}
        assert (one["onespike"], one["torch"]) == (onespike.__version__, torch.__version__)
        assert {"commit", "processor", "threads", "snntorch", "spikingjelly", "busy"} <= one.keys()
        assert one["device"] == "cpu"


def test_names_are_printed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    found = Point("train", "width", 8, "conv-tiny", "", "fp32", 2, 1, 1.0, 1.0)
    monkeypatch.setattr("benchmarks.__main__.scaling", lambda *_, **__: [found])
    monkeypatch.chdir(tmp_path)
    assert command("scaling", "--model", "conv-tiny", "--out", ":smile:\x1b[31m") == 0
    assert "scaling.csv and scaling.png are in :smile:\\x1b[31m\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean 'train'"),
        ([], "expected TASK"),
        (["infer", "--vs", "snntorsh"], "did you mean 'snntorch'"),
        (["infer", "--rounds", "0"], "--rounds: expected at least 1"),
        (["infer", "--preset", "moden"], "did you mean 'modern'"),
        (["infer", "--model", "conv13"], "did you mean 'conv12'"),
        (["infer", "--vs", "recompute"], "no recompute for the task infer"),
        (["train", "--threads", "0"], "--threads: expected at least 1"),
        (["train", "--batch", "many"], "--batch: expected a whole number, got many"),
        (["train", "--json", "/"], "cannot write /: it is a folder"),
        (["scaling", "--out", __file__], f"cannot write {__file__}: {__file__} is no folder"),
        (["data", "--vs", "sequential"], "--vs: data does not take it"),
        (["train", "--time-steps", "4", "--vs", "snntorch"], "snntorch stands in at one time step only"),
        (["unit", "--precision", "bf16"], "--precision: unit does not take it"),
        (["data", "--time-steps", "4"], "--time-steps: data does not take it"),
        (["engine", "x", "--time-steps", "4"], "--time-steps: engine does not take it, only --images, --out"),
    ],
)
def test_wrong_command_lines(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert command(*arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["spiking-vgg-xs", "spiking-resnet-xs"])
@pytest.mark.parametrize(
    ("peer", "steps"), [("sequential", 1), ("sequential", 3), ("snntorch", 1), ("spikingjelly", 1)]
)
def test_a_strict_network_of_other_layers_computes_the_same(family, peer, steps) -> None:
    if peer in PEERS:
        pytest.importorskip(peer)
    torch.manual_seed(0)
    network = create_model(family, width=8, time_steps=steps).double()
    images = torch.randn(6, 3, 32, 32).double().contiguous(memory_format=torch.channels_last)
    plain = with_plain_layers(copy.deepcopy(network), peer)
    assert not any(isinstance(module, Firing | Conv3x3 | BatchNorm | MaxPool | Layers) for module in plain.modules())
    torch.testing.assert_close(plain(images), network(images), rtol=1e-9, atol=1e-9)


def test_windows_have_no_counterpart_among_a_peers_layers() -> None:
    network = create_model("spiking-vgg-xs", preset="windows")
    with pytest.raises(OnespikeError, match="snntorch has no counterpart of windows alternating"):
        with_plain_layers(network, "snntorch")


def test_a_strict_network_is_scaled_by_its_width() -> None:
    base = Case("train", "onespike", "fp32", 2, "spiking-vgg-xs", "")
    assert _varied(base, "width", 8).overrides == {"width": 8}
    assert _varied(replace(base, model="conv-tiny", preset="paper"), "width", 8).overrides == {"channels": (8, 16, 32)}


def test_a_folder_has_different_images_of_every_class_a_tenth_of_them_for_the_test(tmp_path: Path) -> None:
    make_folder(tmp_path, 60, 3, 8)
    found = [path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*.jpg")]
    classes = [f"class-{number:04}" for number in range(3)]
    assert Counter(found) == {
        (part, one): 18 if part == "train" else 2 for part in ("train", "test") for one in classes
    }
    assert len({path.read_bytes() for path in tmp_path.rglob("*.jpg")}) == 60


def test_a_folder_without_classes_is_one_line() -> None:
    with pytest.raises(OnespikeError, match=r"^--classes: expected at least 1, got 0$"):
        folder(classes=0)


def test_epochs_on_small_images_take_fewer_minutes(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("epoch,pflop,epoch_seconds\n1,1,10\n2,2,9\n3,6,60\n")
    assert minutes(tmp_path) == pytest.approx([9 / 60, 18 / 60, 54 / 60])
    for first, second in (("", ""), ("0.5", ""), ("0.0", "0.0")):
        metrics.write_text(f"epoch,pflop,epoch_seconds\n1,{first},10\n2,{second},9\n")
        assert minutes(tmp_path) == pytest.approx([9 / 60, 18 / 60]), "not all operations were counted"
