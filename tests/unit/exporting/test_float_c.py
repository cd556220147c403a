"""Float C, for networks whose layers read real values: as close as floats are."""

import math
import random
import re
import shutil
import struct
from collections.abc import Callable
from ctypes import c_float
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike import convert, create_model, export
from onespike.errors import OnespikeError
from onespike.exporting.c.text import literal
from onespike.models import artificial
from tests.unit.exporting.program import SANITIZERS, answers

if shutil.which("cc") is None:
    pytest.skip("there is no C compiler", allow_module_level=True)

Settle = Callable[[nn.Module, Tensor], nn.Module]
NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("conv-tiny", {"depths": (1, 1), "channels": (8, 12)}),
    ("conv12", {"depths": (2,), "channels": (8,), "preset": "modern"}),
    ("spiking-vgg11", {"width": 4, "time_steps": 2}),
    ("spiking-vgg-xs", {"width": 4, "preset": "ann"}),
    ("spiking-resnet-xs", {"width": 4, "attention": 2, "stream": "rprelu"}),
    ("spiking-resnet-xs", {"width": 4, "stem": "rectified"}),
    ("spiking-vgg-xs", {"width": 4, "stem": "spiking"}),
    ("resmlp12", {"activation": "qcfs", "levels": 2}),
    ("vit12", {"activation": "silu"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "overrides"), NETWORKS, ids=str)
def test_networks_that_read_real_values(
    name: str,
    overrides: dict[str, Any],
    digits: Tensor,
    tmp_path: Path,
    settled: Settle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(artificial, "LAYERS", ("48", "F-48"))  # of the twelve
    torch.manual_seed(0)
    images = digits[:12, ::2, ::2].contiguous()
    network = create_model(name, in_channels=1, image_size=16, **overrides)
    settled(network, ((images / 255 - 0.3) / 0.35).movedim(-1, 1))
    made = export(network, tmp_path / "out", "c", images=images, mean=[0.3], std=[0.35], weights="fp32")
    (proof,) = made.parity
    assert made.holds, proof
    assert not proof.exact
    assert proof.largest_logit > 0.01
    header = (tmp_path / "out" / "model.h").read_text()
    assert "int model_run(const uint8_t *image, float *scores);" in header
    assert "MODEL_SCORE_BITS" not in header
    assert int(re.findall(r"RAM +([\d,]+)", header)[0].replace(",", "")) > 0


def test_choices_clamps_and_matrices(digits: Tensor, tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 6, 4, 4), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            rows = self.conv(x).flatten(2).movedim(1, -1)  # (B, 16, 6)
            rows = torch.where(rows > 0.1, torch.tanh(rows), rows.clamp(-0.2, 3.0))
            mixed = F.softmax(rows @ rows.transpose(1, 2), -1) @ F.hardtanh(rows)
            return self.head((mixed / (1 + rows.exp())).sum(1))

    torch.manual_seed(0)
    images = digits[:12, ::2, ::2].contiguous()
    made = export(Odd(), tmp_path / "out", "c", images=images, weights="fp32")
    assert made.holds, made.parity


def test_attention_sums_by_einstein_maxima_and_larger_maps(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.mix, self.head = nn.Conv2d(1, 6, 4, 4), nn.Parameter(torch.randn(6, 4)), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.conv(x)
            rows = F.interpolate(maps, scale_factor=1.5).flatten(2).mT  # (B, 36, 6)
            rows = rows - rows.max(-1, keepdim=True).values
            rows = F.scaled_dot_product_attention(rows, maps.flatten(2).mT, maps.flatten(2).mT).clamp(-1e6, 1e6)
            mixed = torch.einsum("oc,bno->bnc", self.mix, rows), torch.einsum("bno,oc->bnc", rows, self.mix)
            return self.head(torch.cat([mixed[0].max(1)[0], mixed[1].clamp_max(0.1).amax(1)], 1))

    torch.manual_seed(0)
    images = torch.randint(0, 256, (6, 16, 16, 1), dtype=torch.uint8)
    made = export(Odd(), tmp_path / "out", "c", images=images, weights="fp32")
    assert made.holds, made.parity
    assert made.parity[0].logit_error < 1e-6 * made.parity[0].largest_logit


@pytest.mark.parametrize("product", [lambda x, v: x.mT @ v, lambda x, v: v @ x], ids=["behind", "before"])
def test_products_with_a_vector(product: Callable[[Tensor, Tensor], Tensor], tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.vector, self.head = nn.Conv2d(1, 6, 4, 4), nn.Parameter(torch.randn(6)), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(product(self.conv(x).flatten(2), self.vector))

    torch.manual_seed(0)
    images = torch.randint(0, 256, (6, 16, 16, 1), dtype=torch.uint8)
    made = export(Mixed(), tmp_path / "out", "c", images=images, weights="fp32")
    assert made.holds, made.parity
    assert made.parity[0].logit_error < 1e-6 * made.parity[0].largest_logit


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (lambda x: x.max(1)[1].float(), "indices of maxima"),
        (lambda x: torch.max(x, 2 * x), "the larger of two tensors"),
        (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True), "attention with a mask"),
        (lambda x: torch.einsum("bchw,chd->bcwd", x, torch.ones(3, 4, 2)), "constants for each of several matrices"),
    ],
)
def test_operations_that_it_cannot_say_are_named(odd: Callable[[Tensor], Tensor], said: str, tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return odd(self.conv(x)).flatten(1)

    images = torch.zeros(2, 4, 4, 1, dtype=torch.uint8)
    with pytest.raises(OnespikeError, match=rf"^c: it cannot say {said}.*; onnx and pt2 can$"):
        export(Odd(), tmp_path / "out", "c", images=images, weights="fp32")


def test_spikes_of_linear_layers_over_time(tmp_path: Path) -> None:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.fire, self.head = nn.Linear(16, 8), neuron.IFNode(step_mode="m"), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.fire(4 * self.first(x.flatten(1)).expand(3, -1, -1)))

    torch.manual_seed(0)
    images = torch.randint(0, 256, (5, 4, 4, 1), dtype=torch.uint8)
    made = export(Steps(), tmp_path / "out", "c", images=images, weights="fp32")
    assert made.holds, made.parity
    assert made.parity[0].spikes == 3 * 5 * 8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_a_converted_resnet_on_photographs_without_undefined_behaviour(shared_data: Path, tmp_path: Path) -> None:
    import timm

    from onespike.data.config import DataConfig
    from onespike.data.dataset import open_dataset

    config = DataConfig(name="cifar10", root=str(shared_data / "cifar10"), cache=str(tmp_path / "cache"))
    images = open_dataset(config).test.gather(torch.arange(100).numpy())[0]
    normalised = ((images / 255 - 0.5) / 0.25).movedim(-1, 1)
    torch.manual_seed(0)
    artificial = timm.create_model("resnet18", num_classes=10, channels=(8, 8, 16, 16))
    with torch.no_grad():
        for part in normalised.split(25):
            artificial.train()(part)
    network = convert(artificial.eval(), normalised[:50]).network
    made = export(network, tmp_path / "out", "c", images=images, mean=[0.5] * 3, std=[0.25] * 3, weights="fp32")
    assert made.holds, made.parity
    assert made.parity[0].spikes > 0
    rows = torch.tensor(answers(tmp_path / "out", images[:5], "float", SANITIZERS))
    with torch.no_grad():
        expected = network(normalised[:5])
    torch.testing.assert_close(rows[:, 1:], expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    assert torch.equal(rows[:, 0].long(), expected.argmax(1))


def test_every_float_is_written_whole() -> None:
    draw = random.Random(0)
    for (value,) in (struct.unpack("f", draw.randbytes(4)) for _ in range(200)):
        if math.isfinite(value):
            assert c_float(float(literal(value, "float").removesuffix("f"))).value == value


def test_what_floats_cannot_say_is_named(tmp_path: Path) -> None:
    network = create_model("lstm12", in_channels=1, image_size=16, depths=(1,), channels=(8,), preset="modern")
    images = torch.zeros(2, 16, 16, 1, dtype=torch.uint8)
    with pytest.raises(OnespikeError, match=r"c: it cannot say lstm.* of layers\.0.*onnx and pt2 can"):
        export(network, tmp_path / "out", "c", images=images, weights="fp32")
    assert not (tmp_path / "out").exists()
