"""What every registered model promises: torch.export and ONNX say it, and compute what it does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from onespike import create_model, export
from onespike.models import MODELS, model_config
from onespike.models.spiking import OverTimeConfig

#: What makes a model small, and deterministic; the image size by the family's need.
SMALL: list[tuple[str, dict[str, Any]]] = [
    ("channels", {"channels": (8,), "depths": (2,), "preset": "modern"}),
    ("width", {"width": 4}),
]
#: One depth of each unit, and one size of each family, stand for the others: they have the same operations.
NAMES = [name for name in MODELS if not name.endswith(("20", "24", "36", "-s", "-l", "-xl", "-m"))]


def small(name: str) -> nn.Module:
    fields = vars(model_config(name))
    overrides: dict[str, Any] = next((values for field, values in SMALL if field in fields), {})
    if isinstance(model_config(name), OverTimeConfig):
        overrides = {**overrides, "time_steps": 2}
    torch.manual_seed(0)
    network = create_model(name, num_classes=5, image_size=16, **overrides)
    nn.init.normal_(getattr(network, "head", getattr(network, "fc", None)).weight)
    with torch.no_grad():
        network.train()(torch.randn(16, 3, 16, 16))
    return network


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_onnx_and_pt2_compute_what_the_network_does(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    made = export(small(name), tmp_path / "out", ("pt2", "onnx"), images=images)
    assert made.holds, made.parity
    assert all(proof.largest_logit > 0 for proof in made.parity)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_onnx_in_integers_computes_what_the_network_of_8_bits_does(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    made = export(small(name), tmp_path / "out", "onnx", images=images, weights="int8")
    assert made.holds, made.parity
    assert all(proof.largest_logit > 0 for proof in made.parity)


@pytest.mark.parametrize("name", ["spiking-vgg-xs", "spiking-mlp"])
def test_networks_over_time_are_traced_for_any_number_of_images(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model(name, num_classes=5, image_size=16, time_steps=2)
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert export(network, tmp_path / "out", "pt2", images=images).holds
    loaded = torch.export.load(tmp_path / "out" / "model.pt2").module()
    logits, *_ = loaded(images[:4])
    assert logits.shape == (4, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv12", "spiking-vgg-xs"])
def test_pt2_of_both_kinds_of_strict_networks(name: str, tmp_path: Path) -> None:
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    made = export(small(name), tmp_path / "out", "pt2", images=images)
    assert made.holds, made.parity
    assert made.parity[0].spikes > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["conv12", "spiking-resnet-xs"])
def test_inductor_compiles_it_to_the_same_logits(name: str) -> None:
    network, images = small(name).eval(), torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    torch.compiler.reset()
    with torch.no_grad():
        expected, found = network(images), torch.compile(network)(images)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
