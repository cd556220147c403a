"""What the page is made of, and the command around it; no browser is needed."""

import base64
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from http.client import InvalidURL
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from torch import nn

from onespike import create_model
from onespike.counting import CONVENTIONS, EnergyTable, count_operations
from onespike.data import DataConfig, open_dataset
from onespike.demo import Demo, build, server
from onespike.demo import runtime as fetching
from onespike.demo.build import DESCRIPTION, _neurons
from onespike.demo.counts import Counted, described
from onespike.errors import OnespikeError
from onespike.exporting import Contract, Parity
from onespike.exporting.export import CONTRACT, PARITY, expect_free
from onespike.exporting.network import Exported
from onespike.models import model_config
from onespike.neurons import LIF
from onespike.neurons.integrate_fire import IntegrateFire
from onespike.neurons.watch import answer_and_calls
from onespike.training.checkpoint import Checkpoint, ModelCard
from onespike.training.config import TrainConfig
from onespike.training.recipe import Recipe
from onespike.training.run import Run
from tests.running import raising
from tests.unit.data.recordings import events


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("conv-tiny", {"channels": (6,), "depths": (2,)}),
        ("spiking-resnet-xs", {"width": 4}),
        ("lstm12", {"channels": (8,), "depths": (1,), "preset": "modern"}),
        ("vit12", {}),
    ],
)
def test_prices_of_a_spike_and_of_an_operation_make_up_the_audits_energy(name: str, overrides: dict) -> None:
    torch.manual_seed(0)
    network, images = (
        create_model(name, num_classes=5, image_size=16, in_channels=1, **overrides),
        torch.rand(4, 1, 16, 16),
    )
    operations, table = count_operations(network.eval(), [images]), EnergyTable.load()
    counted = Counted(network, operations, images)
    outputs = {path: [f"arriving {path}"] for path in counted.calls}
    costs = json.loads(json.dumps(described(operations, table, counted, outputs)))
    for convention in CONVENTIONS:
        found = costs["rest"][convention]
        for one in costs["products"]:
            price, mean = one["energy"][convention], one["mean"]
            found += price["constant"] + price["spike"] * mean["spikes"] + price["operation"] * mean["operations"]
        assert found == pytest.approx(table.network(operations, convention).total, rel=1e-9)
    spiking = [one for one in costs["products"] if one["arrives"] != "real"]
    assert all("counted" in one for one in spiking if one["name"].startswith(("conv", "linear")))
    assert not any("counted" in one for one in costs["products"] if one["arrives"] == "real")


def test_a_layer_that_reads_otherwise_than_it_multiplies_is_left_to_the_mean() -> None:
    class Twice(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(torch.cat([x, x], 1))

    network, images = nn.Sequential(nn.Flatten(), Twice(8, 3)), (torch.rand(4, 1, 2, 2) > 0.5).float()
    operations = count_operations(network, [images])
    assert operations.products[0].arrives == "binary"
    assert Counted(network, operations, images).products == {}


def test_a_layer_that_makes_its_own_spikes_is_left_to_the_mean() -> None:
    class Firing(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward((x > 0.5).float())

    network, images = nn.Sequential(Firing(1, 2, 3), nn.Flatten(), nn.Linear(32, 3)), torch.rand(4, 1, 6, 6)
    operations = count_operations(network, [images])
    assert operations.products[0].arrives == "binary"
    assert Counted(network, operations, images).products == {}


def test_spikes_of_minus_one_are_counted() -> None:
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), -torch.rand(4, 1, 6, 6).round()
    assert [*Counted(network, count_operations(network, [images]), images).products] == ["1"]


def test_a_convolution_of_maps_of_two_sizes_is_left_to_the_mean() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.other = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            small = self.conv(input=x[..., :3, :3])  # by its name
            return self.conv(x).sum((2, 3)) + small.sum((2, 3)) + self.other(input=x).sum((2, 3))

    network, images = Both().eval(), (torch.rand(4, 1, 6, 6) > 0.5).float()
    counted = Counted(network, count_operations(network, [images]), images)
    assert [*counted.products] == counted.calls == ["other"]
    contract = Contract("both", "", ("a", "b"), 1, 6, (0.5,), (0.5,), "fp32", False)
    assert torch.equal(Exported(network, contract, counted.calls)(images)[-1], images)


@pytest.mark.parametrize("mine", ["page", "export"])
def test_a_page_and_an_export_leave_each_other_alone(mine: str, tmp_path: Path) -> None:
    marks = {"page": DESCRIPTION, "export": PARITY}
    for name in (CONTRACT, marks[mine]):
        (tmp_path / name).write_text(json.dumps({"files": [CONTRACT, marks[mine]]}))
    for what, mark in marks.items():
        with nullcontext() if what == mine else pytest.raises(OnespikeError, match=f"of no earlier {what}: choose"):
            expect_free(tmp_path, mark, what)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A package like the runtime's, small, and a cache of its own."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in fetching.NEEDED.values():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
    digest = base64.b64encode(hashlib.sha512(content.getvalue()).digest()).decode()
    monkeypatch.setattr(fetching, "INTEGRITY", digest)
    monkeypatch.setenv("ONESPIKE_CACHE", str(tmp_path / "cache"))
    return content.getvalue()


def test_the_runtime_is_fetched_once_and_verified(
    package: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = list[str]()

    def fetch(url: str, timeout: float) -> io.BytesIO:
        assert timeout > 0
        fetched.append(url)
        return io.BytesIO(package)

    monkeypatch.setattr(fetching, "urlopen", fetch)
    expected = {name: theirs.encode() for name, theirs in fetching.NEEDED.items()}
    assert fetching.runtime() == expected
    assert fetching.runtime() == expected
    assert fetched == [fetching.URL]
    (tmp_path / "cache" / fetching.FILE).write_bytes(package[:-1])  # damaged: again
    assert fetching.runtime() == expected
    assert len(fetched) == 2
    monkeypatch.setattr(fetching, "urlopen", lambda *_, **__: io.BytesIO(b"another"))
    (tmp_path / "cache" / fetching.FILE).unlink()
    with pytest.raises(OnespikeError, match="expected the package whose SHA-512 is"):
        fetching.runtime()
    assert not (tmp_path / "cache" / fetching.FILE).exists()


@pytest.mark.parametrize("kind", [URLError, InvalidURL, ValueError])  # of a proxy, too
def test_without_a_network_one_line_says_what_to_do(
    kind: type[Exception], package: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "urlopen", raising(kind("no route to host")))
    with pytest.raises(OnespikeError) as error:
        fetching.runtime()
    kept = tmp_path / "cache" / fetching.FILE
    assert f"(no route to host): where there is a network, run npm pack onnxruntime-web@{fetching.VERSION}" in str(
        error.value
    )
    assert f"put the file to {kept}" in str(error.value)
    kept.parent.mkdir()
    kept.write_bytes(package)
    assert set(fetching.runtime()) == set(fetching.NEEDED)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--model", "RUN"], "expected one run folder: onespike demo RUN"),
        (["RUN", "--no-serve"], "expected a folder to write"),
        (["RUN", "--no-serve", "--out", "x", "--port", "8000"], "--port 8000: with --no-serve nothing is served"),
        (["RUN", "--port", "70000"], "--port: expected 0 (a free one) to 65535, got 70000"),
        (["RUN", "--no-serve", "--out", "RUN"], "which is of no earlier page: choose another folder"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    arguments: list[str], message: str, make_run: Callable, command: Callable
) -> None:
    run = make_run("spiking-vgg-xs", width=4)
    code, _, complaint = command("demo", *(run.folder if one == "RUN" else one for one in arguments))
    assert code == 2
    assert complaint.count("\n") == 1
    assert message in complaint


@pytest.fixture
def nothing_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(build.__globals__, "runtime", dict)


@pytest.mark.usefixtures("nothing_fetched")
@pytest.mark.slow
def test_the_accuracy_is_that_of_the_weights(
    make_run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onespike.training.run.Run.summary", {"test_top1": 90.0})
    run = make_run("spiking-vgg-xs", width=4)
    shutil.copytree(run.best, run.last)
    for which, top1 in (("best", 90.0), ("last", None)):
        build(run, tmp_path / which, which, images=2)
        assert json.loads((tmp_path / which / "demo.json").read_text())["top1"] == top1
    monkeypatch.setattr("onespike.training.run.Run.summary", {"test_top1": 90.0, "test_set": "of other images"})
    build(run, tmp_path / "best", images=2)
    assert json.loads((tmp_path / "best" / "demo.json").read_text())["top1"] is None


@pytest.mark.usefixtures("nothing_fetched")
@pytest.mark.parametrize(
    ("steps", "preset", "said"),
    [
        (1, "", "a spiking network that answers in one time step"),
        pytest.param(4, "", "a spiking network that answers in 4 time steps", marks=pytest.mark.slow),
        pytest.param(1, "ann", "a network that answers in one time step", marks=pytest.mark.slow),
    ],
)
def test_the_page_says_in_how_many_time_steps_the_network_answers(
    steps: int, preset: str, said: str, make_run: Callable, tmp_path: Path
) -> None:
    run = make_run("spiking-resnet-xs", preset=preset, width=4, time_steps=steps)
    made = build(run, tmp_path / "page", images=2).folder
    description = json.loads((made / "demo.json").read_text())
    names = [one["name"] for one in description["layers"]]
    assert len(set(names)) == len(names)
    assert description["title"] == f"spiking-resnet-xs: {said}"
    assert 'at("name").textContent = about.title;' in (made / "demo.js").read_text()
    assert "one time step" not in "".join((made / name).read_text().lower() for name in ("index.html", "demo.js"))


@pytest.mark.parametrize(
    ("name", "overrides", "aheads"),
    [
        ("spiking-vgg-xs", {"width": 4, "population": 3}, set()),
        ("spiking-vgg-xs", {"width": 4, "time_steps": 2}, set()),
        ("conv-tiny", {"channels": (6,), "depths": (2,)}, {"windows"}),
    ],
)
def test_axes_before_the_images_have_names(name: str, overrides: dict, aheads: set[str]) -> None:
    network = create_model(name, num_classes=5, image_size=16, in_channels=1, **overrides).eval()
    images, steps = torch.rand(3, 1, 16, 16), overrides.get("time_steps", 1)
    layers, calls = _neurons(network, images, steps), answer_and_calls(network, images)[1]
    sizes = [call.spikes.shape[: call.batch_axis + 1] for call in calls]
    several = {one["ahead"] for one, size in zip(layers, sizes, strict=True) if size.numel() != len(images)}
    assert several == aheads


def test_a_layer_that_is_called_again_and_a_population_are_named() -> None:
    neuron = IntegrateFire(None, 1, 1, "sigmoid", population=3)
    images = torch.rand(2, 4, 6, 6)
    named = [(one["name"], one["ahead"]) for one in _neurons(nn.Sequential(neuron, neuron), images, 1)]
    assert named == [(f"0.firing, call {n}", "neurons of a population") for n in (1, 2)]
    steps = _neurons(nn.Sequential(neuron, neuron), images, 2)
    assert [one["name"] for one in steps] == ["0.firing, step 1", "0.firing, step 2"]
    assert {one["path"] for one in steps} == {"0.firing"}

    class Several(LIF):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    several = nn.Sequential(nn.Unflatten(0, (3, 1)), Several(4))
    said = [_neurons(several, torch.rand(3, 4, 6, 6), steps)[0] for steps in (1, 3)]
    assert [(one["name"], one["ahead"]) for one in said] == [("1", "windows"), ("1", "time steps")]


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_fetched")
def test_test_images_of_all_classes_are_offered(
    make_run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, labels = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1).expand(50, 32, 32, 1), torch.arange(50) // 5
    monkeypatch.setitem(build.__globals__, "some_test_images", lambda *_: (raw, labels))
    folder = build(make_run("spiking-vgg-xs", width=4), tmp_path / "page").folder
    offered = json.loads((folder / "demo.json").read_text())["offered"]
    assert len(offered) == 24
    assert {one["label"] for one in offered} == set(range(10))
    assert all(base64.b64decode(one["pixels"])[0] // 5 == one["label"] for one in offered)


@pytest.mark.usefixtures("nothing_fetched")
def test_recordings_of_several_frames_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("left", "right"):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            np.save(tmp_path / "data" / part / label / "0.npy", events(side=16))
    places = {"root": str(tmp_path / "data"), "cache": str(tmp_path / "cache"), "workers": 0}
    data = DataConfig(name="events-folder", sensor=(16, 16), frames=2, holdout=0, **places)
    made = Recipe(data, model_config("spiking-vgg-xs", width=4, stages=(1,), time_steps=2), TrainConfig(device="cpu"))
    run, card = Run(tmp_path / "run"), ModelCard.of(made, open_dataset(data))
    run.begin(made)
    Checkpoint(card, card.build().state_dict(), {}, {"progress": {"epoch": 1}}).save(run.best)
    with pytest.raises(OnespikeError, match="demo: its recordings have 2 frames; expected one"):
        build(run, tmp_path / "page", images=2)
    assert not (tmp_path / "page").exists()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with (
        server(tmp_path) as taken,
        pytest.raises(OnespikeError, match=r"cannot serve on 127\.0\.0\.1:\d+.*another --port"),
    ):
        server(tmp_path, taken.server_port)


def test_browsers_that_go_away_are_no_news(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with server(tmp_path) as serving:
        for error, is_told in ((BrokenPipeError(), False), (ConnectionResetError(), False), (ValueError(), True)):
            try:
                raise error
            except Exception:
                serving.handle_error(None, ("127.0.0.1", 1))  # type: ignore[arg-type]
            assert bool(capsys.readouterr().err) is is_told


HELD = Parity("onnx", 60, 90.0, 90.0, 100.0, 0.0, 1.0, 1, 1, 0, None, None, exact=False, holds=True)


def test_the_page_is_served_while_a_browser_of_the_terminal_is_open(
    make_run: Callable, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, came = list[int](), threading.Event()

    def build(_run: Run, folder: Path, *_: Any) -> Demo:
        folder.mkdir()
        return Demo(folder, (), HELD)

    def visit(url: str) -> None:
        with urlopen(url, timeout=10) as answer:
            answers.append(answer.status)
        came.set()

    def until_visited(_server: Any) -> None:
        if came.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr("onespike.demo.build", build)
    monkeypatch.setattr("webbrowser.open", visit)
    monkeypatch.setattr("http.server.ThreadingHTTPServer.service_actions", until_visited)
    assert command("demo", make_run("spiking-vgg-xs", width=4).folder)[0] == 0
    assert answers == [200]


def test_the_command_serves_until_ctrl_c(
    make_run: Callable, command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs, built, shown, opened = [HELD, replace(HELD, holds=False), HELD], list[Path](), list[str](), list[Path]()
    came = threading.Event()

    def show(url: str) -> None:
        shown.append(url)
        came.set()

    def build(chosen: Run, folder: Path, *_: Any) -> Demo:
        opened.append(chosen.folder)
        built.append(folder)
        return Demo(folder, (), proofs[len(built) - 1])

    def interrupted(_server: Any) -> None:
        came.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr("onespike.demo.build", build)
    monkeypatch.setattr("webbrowser.open", show)
    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupted)
    run = make_run("spiking-vgg-xs", width=4)
    code, printed, complaint = command("demo", run.folder)
    assert (code, complaint) == (0, "")
    assert "parity holds on 60 test images: same class 100.00%" in printed
    assert f"the page is at {shown[0]}; Ctrl-C ends it" in printed
    assert printed.endswith("\nended\n")
    assert not built[0].parent.exists()
    code, printed, _ = command("demo", "--model", run.folder, "--no-open", "--out", tmp_path / "page")
    assert (code, built[1], len(shown)) == (1, tmp_path / "page", 1)
    assert opened == [run.folder, run.folder]
    assert "parity DOES NOT HOLD" in printed
    command("demo")
    assert opened[2].name == "digits-spiking-vgg-xs"  # the package's own
