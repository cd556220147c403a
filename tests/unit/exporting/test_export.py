"""Exports of networks and of runs: what is written, what proves it, what is refused."""

import importlib.util
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import onespike
from onespike import create_model, export, save_pretrained
from onespike.classpath import ClassPath
from onespike.data.config import PASSED, DataConfig
from onespike.errors import OnespikeError
from onespike.exporting import FORMATS, Contract
from onespike.exporting.parity import FAR
from onespike.models import model_config
from onespike.neurons import LIF
from onespike.neurons.watch import neuron_layers
from onespike.training.checkpoint import ModelCard
from onespike.training.run import Run
from tests.running import raising, thorough
from tests.unit.written_run import write_run

CLASSES = tuple("0123456789")


@pytest.fixture
def run(tmp_path: Path, digits: Tensor, settled: Callable[[nn.Module, Tensor], nn.Module]) -> Run:
    """A run of a strict network with random weights, on digits."""
    config = model_config("spiking-vgg-xs", width=6)
    data = DataConfig(name="digits", cache=str(tmp_path / "cache"), image_size=32)
    images = (digits.float() / 255 - 0.3).movedim(-1, 1) / 0.35
    return write_run(tmp_path / "run", config, data, CLASSES, settle=lambda network: settled(network, images))


@pytest.mark.slow
def test_outputs_have_their_names_whatever_torch_calls_them(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    write = torch.onnx.export
    unnamed = {"output_names": None}
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: write(*args, **options | unnamed))
    (proof, *_) = export(run, tmp_path / "out", "onnx", count=20).parity
    assert proof.holds
    assert proof.spikes > 0


SIGNALLED = """
import os, signal
from onnx import TensorProto, helper
from onespike.exporting.onnx import openvino_model
images, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("images", "logits"))
graph = helper.make_graph([helper.make_node("Relu", ["images"], ["logits"])], "relu", [images], [logits])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
first, second = openvino_model(model), openvino_model(model)
del first
del second
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.slow
def test_signals_after_openvino_are_handled() -> None:
    pytest.importorskip("openvino")
    program = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, timeout=120)
    assert (program.returncode, program.stdout) == (0, "handled\n"), program.stderr


@pytest.mark.slow
def test_the_command_writes_all_formats_and_their_proofs(
    run: Run, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    pytest.importorskip("onnxruntime")
    out = tmp_path / "out"
    code, printed, _ = command("export", run.folder, "--to", "onnx,pt2,c", "--out", out, "--images", 60)
    assert code == 0
    targets = 3 + (importlib.util.find_spec("openvino") is not None)
    assert printed.count("parity holds on 60 images: same class 100.00%") == targets
    assert printed.count("differs, in 6 calls") == targets
    files = ["contract.json", "model.c", "model.h", "model.onnx", "model.pt2", "parity.json"]
    assert sorted(path.name for path in out.iterdir()) == files
    contract = json.loads((out / "contract.json").read_text())["formats"]
    assert {name: one["weights"] for name, one in contract.items()} == {"onnx": "fp32", "pt2": "fp32", "c": "int8"}
    assert contract["onnx"]["classes"] == list(CLASSES)
    assert (contract["c"]["pixels"], contract["c"]["mean"], contract["c"]["image_size"]) == (True, [0.3], 32)
    proofs = json.loads((out / "parity.json").read_text())["targets"]
    assert [proof["images"] for proof in proofs] == [60] * targets
    assert all(proof["top1"] == proof["target_top1"] for proof in proofs)

    network, images = onespike.load(run.folder), torch.randn(3, 1, 32, 32)
    with torch.no_grad():
        expected = network(images)
    beside = {"contract.json": ""}
    loaded = torch.export.load(out / "model.pt2", extra_files=beside).module()(images)[0]
    torch.testing.assert_close(loaded, expected)
    assert json.loads(beside["contract.json"])["classes"] == list(CLASSES)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [one.name for one in (*session.get_inputs(), *session.get_outputs())] == ["images", "logits"]
    assert [one.shape for one in (*session.get_inputs(), *session.get_outputs())] == [
        ["batch", 1, 32, 32],
        ["batch", 10],
    ]
    assert json.loads(session.get_modelmeta().custom_metadata_map["contract"])["classes"] == list(CLASSES)
    for batch in (1, 3):  # the batch is free
        found = torch.from_numpy(session.run(None, {"images": images[:batch].numpy()})[0])
        torch.testing.assert_close(found, expected[:batch], rtol=1e-4, atol=1e-4)

    code, _, _ = command("export", run.folder, "--to", "c", "--out", out, "--images", 10)
    assert code == 0
    assert sorted(path.name for path in out.iterdir()) == ["contract.json", "model.c", "model.h", "parity.json"]


class Partly(nn.Module):
    """A network with a part whose gradients are always recorded: a graph of its own inside the traced one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fire, self.head = nn.Conv2d(1, 4, 3, 4), LIF(4), nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            spikes = self.fire(4 * self.stem(x))
        return self.head(spikes.flatten(1))


@pytest.mark.parametrize("weights", thorough(["fp32", "int8"], 1))
def test_files_hold_no_paths_and_source_lines_of_this_machine(weights: Any, digits: Tensor, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = Partly()
    before = {name: one.clone() for name, one in network.state_dict().items()}
    made = export(network, tmp_path / "out", ("onnx", "pt2"), images=digits[:20], weights=weights)
    assert made.holds
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())
    assert made.parity[0].spikes > 0
    with zipfile.ZipFile(tmp_path / "out" / "model.pt2") as archive:
        content = [archive.read(name) for name in archive.namelist()]
    for part in (*content, (tmp_path / "out" / "model.onnx").read_bytes()):
        assert b".py" not in part
        assert b"self.fire(" not in part


@pytest.mark.slow
def test_onnx_with_integers_reads_pixels_and_gives_the_same_spikes(run: Run, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    made = export(run, tmp_path / "out", "onnx", weights="int8", pixels=True, count=60)
    assert made.holds
    graph = onnx.load(tmp_path / "out" / "model.onnx").graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    kinds = [node.op_type for node in graph.node]
    layers = kinds.count("Conv") + kinds.count("Gemm") + kinds.count("MatMul")
    assert layers == 8
    stored = [one for one in graph.initializer if one.data_type == onnx.TensorProto.INT8]
    assert len(stored) == layers - 1  # the first one reads pixels that are normalised
    assert kinds.count("QuantizeLinear") == 6  # every layer behind the stem's two
    floats = sum(len(one.raw_data) for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT)
    assert floats < 0.1 * sum(len(one.raw_data) for one in stored)


@pytest.mark.slow
def test_pt2_adds_up_the_spikes_of_tied_neurons(tmp_path: Path) -> None:
    network = create_model("spiking-vgg-xs", image_size=16, tied=True, head="mean").eval()
    assert export(network, tmp_path / "out", "pt2", images=torch.randn(4, 3, 16, 16)).holds
    nodes = torch.export.load(tmp_path / "out" / "model.pt2").graph.nodes
    weights = [node.args[1].op for node in nodes if "conv2d" in str(node.target)]
    assert weights == ["placeholder"] * len(weights) != [], "no convolution has copies of its weights"


def test_a_spike_that_differs_is_found_and_exits_with_1(
    run: Run, digits: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    given = list[Tensor]()

    def wrong(traced: Any, folder: Path) -> Any:
        target = FORMATS["pt2"](traced, folder)["pt2"]

        def answer(images: Tensor) -> tuple[Tensor, list[Tensor]]:
            given.append(images)
            logits, spikes = target(images)
            spikes[2][0, 0, 0, 0] = 1 - spikes[2][0, 0, 0, 0]
            return logits, spikes

        return {"wrong": answer}

    monkeypatch.setitem(FORMATS, "wrong", wrong)
    code, printed, _ = command("export", run.folder, "--to", "wrong", "--out", tmp_path / "out", "--images", 40)
    assert code == 1
    assert torch.equal(torch.cat(given), digits[torch.linspace(0, len(digits) - 1, 40).round().long()])
    assert "parity DOES NOT HOLD on 40 images: same class 100.00%" in printed
    assert f"spikes differ first: 1 in {list(neuron_layers(run.model()))[2]}, " in printed
    assert not json.loads((tmp_path / "out" / "parity.json").read_text())["targets"][0]["holds"]
    monkeypatch.setattr("onespike.exporting.parity._distance", lambda *_: FAR)
    code, printed, _ = command("export", run.folder, "--to", "wrong", "--out", tmp_path / "out", "--images", 4)
    assert (code, "whose potentials are not known\n" in printed) == (1, True), printed


def test_a_folder_that_is_no_earlier_export_is_refused(
    run: Run, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    code, _, complaint = command("export", run.folder, "--to", "pt2", "--out", out)
    assert code == 2
    assert complaint.count("\n") == 1
    assert "holds notes.txt, which is of no earlier export: choose another folder" in complaint
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_file_that_comes_while_the_export_runs_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, network = tmp_path / "out", nn.Sequential(nn.Flatten(), nn.Linear(12, 4))

    def write(_: Any, folder: Path) -> Any:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
        (folder / "model").touch()
        return {}

    monkeypatch.setitem(FORMATS, "slow", write)
    with pytest.raises(OnespikeError, match=r"holds notes.txt, which is of no earlier export"):
        export(network, out, "slow", images=torch.zeros(2, 3, 2, 2))
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "tflite", "--out", "x"], "unknown format 'tflite'"),
        (["--to", "pt2"], "expected a folder to write"),
        (["--to", "pt2", "--out", "x", "--images", "0"], "images: expected at least 1, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    run: Run,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., tuple[int, str, str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, complaint = command("export", run.folder, *arguments)
    assert code == 2
    assert message in complaint
    assert not Path("x").exists()


def test_a_missing_package_is_named_with_its_installation(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(OnespikeError, match=r"onnxruntime is missing: pip install 'onespike\[export\]'"):
        export(run, tmp_path / "out", "onnx", count=5)
    assert not (tmp_path / "out").exists()


def test_a_network_that_draws_is_refused_with_what_to_do(tmp_path: Path) -> None:
    network = create_model("conv-tiny", encoding="bernoulli", depths=(1,), channels=(8,))
    with pytest.raises(OnespikeError, match=r"Network draws random numbers.*--model\.preset modern"):
        export(network, tmp_path / "out", "pt2", images=torch.randn(2, 3, 32, 32))

    class Noisy(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.rand_like(x))

    with pytest.raises(OnespikeError, match="draw the same: make it draw nothing in evaluation mode"):
        export(nn.Sequential(nn.Flatten(), Noisy(12, 4)), tmp_path / "out", "pt2", images=torch.randn(2, 3, 2, 2))
    assert not (tmp_path / "out").exists()


class Keeping(nn.Module):
    """Raises the next batch's potentials by its own, and never forgets them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        raised = self.level + x
        self.level = raised.mean()
        return (raised > 0.5).float()


class Drawing(nn.Module):
    """Noise from a generator of its own, which torch.export takes along."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(x.shape[1:], generator=self.generator)


def test_a_network_whose_answers_depend_on_the_batch_is_refused(tmp_path: Path) -> None:
    norm = nn.BatchNorm2d(3, track_running_stats=False)
    network = nn.Sequential(norm, nn.Flatten(), nn.Linear(12, 4))
    with pytest.raises(OnespikeError, match="answer for an image depends on the other images of the batch"):
        export(network, tmp_path / "out", "pt2", images=torch.rand(9, 3, 2, 2))
    assert not (tmp_path / "out").exists()


def test_a_network_that_changes_its_images_in_place_is_exported(tmp_path: Path) -> None:
    class InPlace(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5).flatten(1))

    assert export(InPlace(12, 4), tmp_path / "out", "pt2", images=torch.rand(9, 3, 2, 2)).holds


@pytest.mark.parametrize("part", [Keeping(), Drawing()], ids=["state", "generator"])
def test_a_network_that_answers_differently_the_second_time_is_refused(part: nn.Module, tmp_path: Path) -> None:
    network = nn.Sequential(part, nn.Flatten(), nn.Linear(12, 4))
    with pytest.raises(OnespikeError, match="answers the same images differently the second time"):
        export(network, tmp_path / "out", "pt2", images=torch.rand(9, 3, 2, 2))
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_rounded_to_8_bits_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class Functional(nn.Module):
        def __init__(self, head: nn.Module) -> None:
            super().__init__()
            self.kernel, self.head = nn.Parameter(torch.randn(4, 3, 2, 2)), head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(nn.functional.conv2d(x, self.kernel).relu().flatten(1))

    images = torch.rand(9, 3, 2, 2)
    export(Functional(nn.Linear(4, 3)), tmp_path / "out", "pt2", images=images, weights="int8")
    assert "warning: pt2: not rounded to 8 bits: kernel; only weights of nn.Conv1d" in capsys.readouterr().err
    with pytest.raises(OnespikeError, match=r"^weights: int8 would be ignored: .* and the network has none$"):
        export(Functional(nn.Flatten()), tmp_path / "none", "pt2", images=images, weights="int8")
    assert not (tmp_path / "none").exists()


def test_spikes_that_a_network_makes_float32_become_integers(tmp_path: Path) -> None:
    snntorch = pytest.importorskip("snntorch")

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fire, self.head = (
                nn.Conv2d(3, 4, 1),
                snntorch.Leaky(beta=0.9, threshold=0.1),
                nn.Linear(16, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            spikes, _ = self.fire(self.conv((x > 0.5).float()), torch.zeros(len(x), 4, 2, 2))
            return self.head((0.3 * (spikes > 0).to(torch.float32)).flatten(1))

    made = export(Steps(), tmp_path / "out", "c", images=torch.randint(0, 256, (9, 2, 2, 3), dtype=torch.uint8))
    assert made.holds
    assert made.parity[0].exact
    assert made.parity[0].spikes == 9 * 16


def test_a_network_that_cannot_be_in_float64_is_refused_in_a_line(tmp_path: Path) -> None:
    class Fixed(nn.Flatten):
        matrix = torch.ones(12, 4)  # no buffer

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) @ self.matrix

    images = torch.zeros(2, 2, 2, 3, dtype=torch.uint8)
    with pytest.raises(OnespikeError, match=r"the network does not take a batch .* the same dtype"):
        export(nn.Sequential(Fixed(), nn.Linear(4, 4)), tmp_path / "out", "c", images=images)


@pytest.mark.parametrize("delay", [True, False])
@pytest.mark.parametrize("hidden", [True, False])
def test_a_network_of_snntorch_that_was_just_trained_takes_batches_of_any_size(
    hidden: bool, delay: bool, tmp_path: Path
) -> None:
    snntorch = pytest.importorskip("snntorch")

    class OverTime(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(16, 3)
            self.fire = snntorch.Leaky(beta=0.9, threshold=0.2, init_hidden=hidden, reset_delay=delay)

        def forward(self, x: Tensor) -> Tensor:
            state, steps = [] if hidden else [self.fire.init_leaky()], []
            for _ in range(2):
                out = self.fire(self.conv(x), *state)
                spikes, *state = [out] if hidden else out
                steps.append(self.head(spikes.flatten(1)))
            return torch.stack(steps)

    network, images = OverTime(), torch.rand(7, 1, 4, 4)
    network(images).sum().backward()  # its neurons keep a graph, and the shape of this batch
    made = export(network, tmp_path / "out", "pt2", images=images[:5])
    assert made.holds
    assert made.parity[0].layers == 2
    program = torch.export.load(made.folder / "model.pt2").module()
    for batch in (1, 3):
        network.fire.reset_mem()
        torch.testing.assert_close(program(images[:batch])[0], network(images[:batch]).mean(0))


def test_a_network_of_spikingjelly_in_several_steps_at_once_takes_batches_of_any_size(tmp_path: Path) -> None:
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import functional, layer, neuron

    class Repeated(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.unsqueeze(0).repeat(2, 1, 1, 1, 1))

    parts = layer.Conv2d(1, 4, 3, padding=1), neuron.LIFNode(v_threshold=0.2), layer.MaxPool2d(2), layer.Flatten()
    network, images = Repeated(*parts, layer.Linear(36, 3)), torch.rand(5, 1, 6, 6)
    functional.set_step_mode(network, "m")
    made = export(network, tmp_path / "out", "pt2", images=images)
    assert made.holds
    program = torch.export.load(made.folder / "model.pt2").module()
    for batch in (1, 4):
        functional.reset_net(network)
        torch.testing.assert_close(program(images[:batch])[0], network(images[:batch]).mean(0))


@pytest.mark.parametrize("options", [{}, {"time_steps": 2}, {"population": 2}], ids=str)
def test_a_converted_network_takes_batches_of_any_size(options: dict[str, int], digits: Tensor, tmp_path: Path) -> None:
    artificial = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10)).eval()
    network = onespike.convert(artificial, digits.movedim(-1, 1) / 255, **options).network
    (proof,) = export(network, tmp_path / "out", "pt2", images=digits, mean=[0.0], std=[1.0]).parity
    assert proof.holds
    assert proof.images == len(digits)


def test_a_network_that_depends_on_the_number_of_images_is_refused(tmp_path: Path) -> None:
    class Depends(nn.Flatten):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(2 * x if x.shape[0] > 3 else x)

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(len(x), -1)

    with pytest.raises(OnespikeError, match="Depends cannot be traced by torch"):
        export(Depends(), tmp_path / "out", "pt2", images=torch.rand(2, 3, 2, 2))
    with pytest.raises(OnespikeError, match=r"Counted cannot be .* any number of images \(len\(x\) is one number"):
        export(Counted(), tmp_path / "out", "pt2", images=torch.rand(2, 3, 2, 2))


def test_a_network_that_depends_on_a_tensor_is_refused_without_a_print_of_its_graph(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    class Chosen(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return (super().forward(x) if self.num_batches_tracked == 0 else x).flatten(1)

    with pytest.raises(OnespikeError, match="Chosen cannot be traced by torch"):
        export(Chosen(3), tmp_path / "out", "pt2", images=torch.rand(2, 3, 2, 2))
    assert capsys.readouterr().err == ""


def test_networks_of_others_with_logits_over_time(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class OverTime(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.layer(x.flatten(1)), self.layer(2 * x.flatten(1))])

    network, images = OverTime(), torch.randn(5, 3, 2, 2)
    made = export(network, tmp_path / "out", "pt2", images=images, labels=torch.arange(5) % 4, classes="abcd")
    assert made.holds
    warning = capsys.readouterr().err
    assert warning.startswith("warning: export: no layers of neurons are known")
    assert warning.endswith(": only logits were compared\n")
    answer = torch.export.load(made.folder / "model.pt2").module()(images)
    torch.testing.assert_close(answer[0], network(images).mean(0))
    assert network.training  # it is left as it was


def test_a_run_of_data_from_python_is_proved_on_images_that_are_given(run: Run, digits: Tensor, tmp_path: Path) -> None:
    run.begin(replace(run.recipe, data=replace(run.recipe.data, name=PASSED)))
    with pytest.raises(OnespikeError, match="images were passed from Python"):
        export(run, tmp_path / "out", "pt2")
    made = export(run, tmp_path / "out", "pt2", images=digits[:5])
    assert made.parity[0].images == 5
    with pytest.raises(OnespikeError, match="labels: expected 0 to 9"):
        export(run, tmp_path / "out", "pt2", images=digits[:5], labels=torch.tensor([0, 1, 2, -1, 3]))
    with pytest.raises(OnespikeError, match="pixels a side, the network takes 32"):
        export(run, tmp_path / "out", "pt2", data=replace(run.recipe.data, name="digits", image_size=16))
    with pytest.raises(OnespikeError, match=r"expected those of the network, \(1, 32, 32\), got \(1, 16, 16\)"):
        export(run, tmp_path / "out", "pt2", images=digits[:5, ::2, ::2])


def test_a_run_of_a_network_from_python_says_how_it_is_exported(run: Run, digits: Tensor, tmp_path: Path) -> None:
    network, trained = run.model(), run.checkpoint("best")
    replace(trained, card=replace(trained.card, model=ClassPath.of(network))).save(run.best)
    run.begin(replace(run.recipe, model=ClassPath.of(network)))
    for write in (export, save_pretrained):
        with pytest.raises(OnespikeError, match=r"to export or save it, pass what Run\.model\(model=…\) gives"):
            write(run, tmp_path / "out")
    given = run.model(model=network)
    assert export(given, tmp_path / "out", "pt2", images=digits[:5]).holds
    assert save_pretrained(given, tmp_path / "saved", card=run.checkpoint("best").card).is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected test images beside a network"),
        ({"images": torch.zeros(2, 3, 4)}, r"images: expected \(N, C, H, W\)"),
        ({"images": torch.zeros(2, 0, 4, 4)}, r"images: expected \(N, C, H, W\), .*, got \(2, 0, 4, 4\)"),
        ({"images": torch.zeros(2, 3, 4, 5)}, "expected square ones, got 4x5"),
        ({"images": torch.zeros(2, 3, 2, 2), "classes": "ab"}, "classes: expected 4 names, got 2"),
        ({"images": torch.zeros(2, 3, 2, 2), "pixels": True}, "pixels: expected raw test images"),
        ({"images": torch.zeros(2, 3, 2, 2), "to": "pt2,c"}, "c: expected raw test images"),
        (
            {"images": torch.zeros(2, 3, 2, 2), "mean": [99.0] * 3, "std": [1.0] * 3},
            "0 to 1, .*; divide those of 0 to 255",
        ),
        ({"images": torch.zeros(2, 3, 2, 2), "std": [1e-300] * 3}, "std from 1e-9 on"),
        ({"images": torch.zeros(2, 3, 2, 2), "std": [255.0] * 3}, "0 to 1, std from 1e-9 on"),
    ],
)
def test_images_that_do_not_suit_are_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    with pytest.raises(OnespikeError, match=message):
        export(network, tmp_path / "out", **{"to": "pt2"} | arguments)
    assert not (tmp_path / "out").exists()


def test_labels_may_be_of_any_whole_kind(tmp_path: Path) -> None:
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.randn(3, 3, 2, 2)
    with torch.no_grad():
        labels = ((network(images).argmax(1) + torch.tensor([0, 1, 0])) % 4).to(torch.uint16)
    (proof,) = export(network, tmp_path / "out", "pt2", images=images, labels=labels, count=2).parity
    assert (proof.holds, proof.images, proof.top1, proof.target_top1) == (True, 2, 50.0, 50.0)


def test_bytes_for_a_run_of_floats_are_refused(run: Run, digits: Tensor, tmp_path: Path) -> None:
    trained = run.checkpoint("best")
    replace(trained, card=replace(trained.card, mean=(0.0,), std=(1.0,))).save(run.best)
    with pytest.raises(OnespikeError, match="images: the run does not know how bytes become its images; expected fl"):
        export(run, tmp_path / "out", "c", images=digits[:5])


@pytest.mark.parametrize("to", ["nir", "c"])
def test_logits_that_do_not_depend_on_the_image_are_refused(to: str, tmp_path: Path) -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.w.expand(len(x), 3)

    with pytest.raises(OnespikeError, match="the logits do not depend on the image"):
        export(Constant(), tmp_path / "out", to, images=torch.zeros(2, 4, 4, 1, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": [0.5]}, "mean: with a run it would be ignored"),
        ({"std": [0.5]}, "std: with a run it would be ignored"),
        ({"classes": "ab"}, "classes: with a run it would be ignored"),
        ({"labels": torch.zeros(1)}, "labels: without images it would be ignored"),
        ({"images": torch.zeros(1, 1, 32, 32), "data": ()}, "data: with images it would be ignored"),
        ({"model": nn.Flatten(), "which": "last"}, "which: with a network it would be ignored"),
        ({"model": nn.Flatten(), "data": ()}, "data: with a network it would be ignored"),
    ],
)
def test_arguments_that_would_be_ignored_are_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OnespikeError, match=message):
        export(**{"model": "pretrained:digits-spiking-vgg-xs", "out": tmp_path / "out", "to": "pt2"} | arguments)


@pytest.mark.parametrize("to", FORMATS)
def test_weights_that_are_not_finite_are_refused(to: str, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    network[1].weight.data[0, 0] = torch.nan
    with pytest.raises(OnespikeError, match=r"the weights 1\.weight are not finite numbers"):
        export(network, tmp_path / "out", to, images=torch.zeros(2, 3, 2, 2), weights="int8")


class Beside(nn.Module):
    """A branch of neurons that the logits do not need."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fire, self.branch, self.aside = nn.Conv2d(1, 4, 1), LIF(4), nn.Conv2d(4, 4, 1), LIF(4)
        self.head, self.seen = nn.Linear(64, 3), torch.zeros(())

    def forward(self, images: Tensor) -> Tensor:
        spikes = self.fire(4 * self.stem(images))
        self.seen = self.aside(8 * self.branch(spikes)).mean()
        return self.head(spikes.flatten(1))


@pytest.mark.parametrize(
    ("target", "weights", "layers"), [("onnx", "fp32", 2), ("c", "int8", 1), ("c", "fp32", 1), ("nir", "fp32", 1)]
)
def test_neurons_that_the_logits_do_not_need(target: str, weights: str, layers: int, tmp_path: Path) -> None:
    if target in ("onnx", "nir"):
        pytest.importorskip({"onnx": "onnxruntime"}.get(target, target))
    torch.manual_seed(0)
    network = Beside().eval()
    nn.init.constant_(network.branch.bias, 0.5)  # so that some of them fire
    images = torch.randint(0, 256, (6, 4, 4, 1), dtype=torch.uint8)
    proof = export(network, tmp_path / "out", target, images=images, weights=weights).parity[0]
    assert proof.holds
    assert proof.layers == layers
    network(images.movedim(-1, 1) / 255)
    assert network.seen > 0


def test_options_reach_the_export(run: Run, tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    last = run.checkpoint("best")
    last.weights["head.bias"] += 1
    last.save(run.last)
    out, options = tmp_path / "out", ("--weights", "int8", "--pixels", "--checkpoint", "last", "--images", 10)
    code, printed, said = command("export", run.folder, "--to", "pt2", "--out", out, *options, "--json", "-")
    assert code == 0, said
    (parity,) = json.loads(printed)["parity"]
    assert (parity["holds"], parity["images"]) == (True, 10)
    made = json.loads((out / "contract.json").read_text())["formats"]["pt2"]
    assert (made["weights"], made["pixels"]) == ("int8", True)
    pixels = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    shifted = torch.export.load(out / "model.pt2").module()(pixels)
    export(run, tmp_path / "best", "pt2", count=10, weights="int8", pixels=True)
    assert not torch.allclose(shifted[0], torch.export.load(tmp_path / "best" / "model.pt2").module()(pixels)[0])


def test_the_contract_says_how_images_come_as_far_as_it_is_known(tmp_path: Path) -> None:
    network, floats = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.randn(2, 3, 2, 2)
    pixels = torch.zeros(2, 2, 2, 3, dtype=torch.uint8)

    def contract(images: Tensor, **how: Any) -> tuple[str, Any]:
        out = export(network, tmp_path / "out", images=images, **{"to": "pt2,pt2"} | how).folder
        (made,) = json.loads((out / "contract.json").read_text())["formats"].values()
        assert len(json.loads((out / "parity.json").read_text())["targets"]) == 1
        return made["input"], made["mean"]

    scaled = "float32 (B, C, H, W), (pixel / 255 - mean) / std"
    assert contract(floats) == ("float32 (B, C, H, W), normalised as the test images were", None)
    with pytest.raises(OnespikeError, match="mean and std: floats are normalised already; give both"):
        contract(floats, mean=[0.5] * 3)
    assert contract(floats, mean=[0.5] * 3, std=[0.25] * 3) == (scaled, [0.5] * 3)
    assert contract(pixels) == (scaled, [0.0] * 3)
    assert contract(pixels, pixels=True) == ("uint8 (B, C, H, W)", [0.0] * 3)
    card = ModelCard(model_config("spiking-vgg-xs"), CLASSES, 1, 32, (0.0,), (1.0,), "mine")  # of a user's floats
    said = [Contract.of(card, "fp32", pixels).to_json() for pixels in (False, True)]
    assert [(one["input"], one["mean"]) for one in said] == [
        ("float32 (B, C, H, W), normalised as the test images were", None),
        ("uint8 (B, C, H, W)", (0.0,)),
    ]
    pytest.importorskip("nir")
    assert contract(pixels, pixels=True, to="nir") == ("float32 (B, C, H, W), pixels of 0 to 255", [0.0] * 3)


def test_a_graph_that_onnx_runtime_does_not_take_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = pytest.importorskip("onnxruntime")

    refusal = runtime.capi.onnxruntime_pybind11_state.NotImplemented("no kernel\nfor this")
    monkeypatch.setattr(runtime, "InferenceSession", raising(refusal))
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    with pytest.raises(OnespikeError, match=r"^onnx: ONNX Runtime does not take Sequential: .*no kernel.*; pt2 can$"):
        export(network, tmp_path / "out", "onnx", images=torch.randn(2, 3, 2, 2))
    assert not (tmp_path / "out").exists()
