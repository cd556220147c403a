"""NIR: what is read back, by us and by others, against the network."""

from collections import OrderedDict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onespike import create_model, export
from onespike.errors import OnespikeError
from onespike.exporting.nir import _Writer, run_once
from onespike.neurons import LIF, NeuronConfig
from onespike.neurons.watch import reset_state
from tests.running import raising, thorough

nir = pytest.importorskip("nir")
Settle = Callable[[nn.Module, Tensor], nn.Module]


def normalised(images: Tensor) -> Tensor:
    return ((images / 255 - 0.5) / 0.25).movedim(-1, 1)


def written(network: nn.Module, images: Tensor, out: Path, settle: Settle, **how: Any) -> Path:
    """Export, expect that it holds and that neurons fire, and give the file."""
    channels = images.shape[-1]
    settle(network, normalised(images))
    made = export(network, out, "nir", images=images, mean=[0.5] * channels, std=[0.25] * channels, **how)
    assert made.holds, made.parity
    assert made.parity[0].spikes > 0
    assert made.parity[0].largest_logit > 0.01
    return out / "model.nir"


class Sums(nn.Module):
    """A mean, spikes and currents that are added, channels side by side, and a threshold that is reached exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.fire = nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), LIF(8)
        self.wide, self.second, self.pool = nn.Conv2d(16, 8, 3, padding=1, dilation=1), LIF(8), nn.AvgPool2d(4, 2, 1)
        self.head = nn.Linear(8 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.fire(self.norm(self.stem(x)))
        both = torch.cat([spikes, (spikes >= 1).to(x.dtype)], 1)
        currents = spikes + self.wide(both)
        return self.head(self.pool(self.second(currents) + 0.5 * spikes).flatten(1))


class Jelly(nn.Module):
    """Neurons of SpikingJelly's: they fire at the threshold itself, not above it, and one leaks."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
        self.stem, self.norm, self.first = nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), neuron.LIFNode()
        self.conv, self.second = nn.Conv2d(8, 8, 3, 2), neuron.IFNode(v_threshold=0.1)
        self.head = nn.Linear(8 * 7 * 7, classes)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.first(2 * self.norm(self.stem(x)))
        return self.head(self.second(self.conv(spikes)).flatten(1))


class Again(nn.Module):
    """A layer that is called twice, and in between one whose name is that of its second call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv_2, self.fires = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), nn.ModuleList(map(LIF, (1, 1, 1)))
        self.head = nn.Linear(1024, 5)

    def forward(self, x: Tensor) -> Tensor:
        for layer, fire in zip((self.conv, self.conv_2, self.conv), self.fires, strict=True):
            x = fire(2 * layer(x))
        return self.head(x.flatten(1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "spikingjelly": Jelly,
    "vgg": lambda: create_model("spiking-vgg-xs", in_channels=1, width=4, population=3),
    "mean": lambda: create_model("spiking-vgg-xs", in_channels=1, width=4, head="mean", stem="none"),
    "spiking stem": lambda: create_model("spiking-vgg-xs", in_channels=1, width=4, head="mean", stem="spiking"),
    "sums": Sums,
    "again": Again,
    "slash": lambda: nn.Sequential(
        OrderedDict({"a/b": nn.Flatten(), "a": nn.Linear(1024, 16), "c/d": LIF(16), "c/e": nn.Linear(16, 5)})
    ),
    "pooled": lambda: nn.Sequential(
        *(nn.Conv2d(1, 4, 3), LIF(4), nn.MaxPool2d(2), LIF(4), nn.Conv2d(4, 2, 3), LIF(2)),
        *(nn.Flatten(), nn.Linear(338, 5)),
    ),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(1024, 16), LIF(16), nn.Linear(16, 5)),
}


@pytest.mark.parametrize("name", thorough([*NETWORKS], 3))
def test_what_is_read_back_computes_the_same(name: str, digits: Tensor, tmp_path: Path, settled: Settle) -> None:
    torch.manual_seed(0)
    written(NETWORKS[name](), digits[:20], tmp_path / "out", settled)


@pytest.mark.slow
def test_pixels_and_8_bit_weights(digits: Tensor, tmp_path: Path, settled: Settle) -> None:
    torch.manual_seed(0)
    network = create_model("spiking-vgg-xs", in_channels=1, width=4)
    file = written(network, digits[:10], tmp_path / "out", settled, pixels=True, weights="int8")
    seen = run_once(nir.read(file), digits[:10].movedim(-1, 1).float())
    assert seen["output"].shape == (10, 10, 1, 1)


def others() -> dict[str, Callable[[Any, Tensor], Tensor]]:
    """Readers of NIR by other packages: a graph and images to logits."""

    def spikingjelly(graph: Any, images: Tensor) -> Tensor:
        from spikingjelly.activation_based.nir_exchange import import_from_nir

        return import_from_nir(graph, dt=1.0)(images)[0]

    def snntorch(graph: Any, images: Tensor) -> Tensor:
        import snntorch
        from snntorch.import_nir import import_from_nir

        network = import_from_nir(graph)
        for module in network.modules():
            if isinstance(module, snntorch.Leaky):
                module.init_hidden = True  # else it hands on its potential too, which its pooling does not take
        return network(images)[0]

    def norse(graph: Any, images: Tensor) -> Tensor:
        from norse.torch import from_nir

        return from_nir(graph, dt=1.0)(images)[0]

    return {"spikingjelly": spikingjelly, "snntorch": snntorch, "norse": norse}


def agree(file: Path, network: nn.Module, images: Tensor, reader: str) -> None:
    pytest.importorskip(reader)
    with torch.no_grad():
        found = others()[reader](nir.read(file), images).flatten(1)
        expected = network(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", ["spikingjelly", "snntorch"])
def test_others_read_a_convolutional_network(reader: str, digits: Tensor, tmp_path: Path, settled: Settle) -> None:
    torch.manual_seed(0)
    network = create_model("spiking-vgg-xs", in_channels=1, width=4)
    file = written(network, digits[:20], tmp_path / "out", settled)
    agree(file, network, normalised(digits[:20]), reader)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", ["spikingjelly", "snntorch", "norse"])
def test_others_read_neurons_of_spikingjelly(reader: str, digits: Tensor, tmp_path: Path, settled: Settle) -> None:
    torch.manual_seed(0)
    network = Jelly()
    file = written(network, digits[:20], tmp_path / "out", settled)
    reset_state(network)
    agree(file, network, normalised(digits[:20]), reader)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("reader", ["spikingjelly", "snntorch"])
def test_means_that_equal_a_threshold_are_read_alike(reader: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), LIF(4), nn.AvgPool2d(2), LIF(4, NeuronConfig(threshold=0.5))]
    network = nn.Sequential(
        *layers, nn.AvgPool2d(2), LIF(4, NeuronConfig(threshold=0.25)), nn.Flatten(), nn.Linear(64, 5)
    )
    network[0].weight.data *= 3
    images = torch.rand(20, 1, 16, 16)
    made = export(network, tmp_path / "out", "nir", images=images)
    assert made.holds
    assert made.parity[0].differing == 0
    agree(tmp_path / "out" / "model.nir", network.eval(), images, reader)


@pytest.mark.filterwarnings("ignore")
def test_norse_reads_a_network_without_pooling(digits: Tensor, tmp_path: Path, settled: Settle) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), LIF(8), nn.Conv2d(8, 8, 3, 2), LIF(8)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 49, 5))
    file = written(network, digits[:20], tmp_path / "out", settled)
    agree(file, network, normalised(digits[:20]), "norse")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_others_on_500_photographs(photographs: Tensor, tmp_path: Path, settled: Settle) -> None:
    images = photographs[:500]
    torch.manual_seed(0)
    readers = ("spikingjelly", "snntorch", "norse")
    for number, (network, accept) in enumerate([(create_model("spiking-vgg-xs"), readers[:2]), (Jelly(3), readers)]):
        file = written(network, images, tmp_path / f"out{number}", settled)
        for reader in accept:
            reset_state(network)
            agree(file, network, normalised(images), reader)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("spiking-resnet-xs", {"width": 4}, r"nir: it cannot say max pooling of real values in stem\.0\.2"),
        (
            "conv-tiny",
            {"depths": (1,), "channels": (8,)},
            r"nir: it cannot say .*; onnx and pt2 can, c \(--weights",
        ),
        (
            "spiking-vgg-xs",
            {"width": 4, "preset": "ann"},
            r"nir: it cannot say (relu|max pooling of real values) in ",
        ),
        ("spiking-vgg-xs", {"width": 4, "attention": 2}, r"nir: it cannot say .* in layers\.1"),
        ("spiking-vgg-xs", {"width": 4, "stem": "rectified"}, r"nir: it cannot say relu in stem\.1"),
    ],
)
def test_what_nir_cannot_say_is_named(name: str, overrides: dict[str, Any], message: str, tmp_path: Path) -> None:
    images = torch.rand(2, 1, 32, 32)
    with pytest.raises(OnespikeError, match=message):
        export(create_model(name, in_channels=1, **overrides).eval(), tmp_path / "out", "nir", images=images)
    assert not (tmp_path / "out").exists()


def test_what_the_package_does_not_take_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nir, "write", raising(ValueError("type mismatch:\n\nfire")))
    network, images = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), LIF(2)).eval(), torch.rand(2, 1, 4, 4)
    with pytest.raises(OnespikeError, match=r"^nir: the package does not take Sequential: type mismatch: fire;"):
        export(network, tmp_path / "out", "nir", images=images)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(_Writer, "connect", raising(ValueError("ours")))
    with pytest.raises(ValueError, match="ours"):
        export(network, tmp_path / "out", "nir", images=images)


@pytest.mark.skipif(version("nir") > "1.0.8", reason="it may take them")
def test_kernels_that_are_not_square_are_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, (1, 3)), nn.BatchNorm2d(2), LIF(2), nn.Flatten(), nn.Linear(96, 2)).eval()
    with pytest.raises(OnespikeError, match="kernels, strides and dilations have to be square"):
        export(network, tmp_path / "out", "nir", images=torch.rand(2, 1, 8, 8))
