"""What every registered model promises: torch.export and ONNX say it, and compute what it does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from onespike import create_model, export
from onespike.models import MODELS, model_config
from onespike.models.standard import OverTimeConfig
from onespike.units import UNITS
from tests.running import thorough

#: What makes a model small, and deterministic; the image size by the family's need.
SMALL: list[tuple[str, dict[str, Any]]] = [
    ("channels", {"channels": (8,), "depths": (1,), "preset": "modern"}),
    ("width", {"width": 4}),
]
#: Whose blocks follow one another, in windows of two kinds: with all units that takes minutes.
DEEPER = ("conv12", "lstm12")
#: In integers those above stand for the other units, and the shallower networks for the deepest.
OTHER_UNITS = {f"{unit}12" for unit in UNITS}.difference(DEEPER)
FLOATS_ALONE = OTHER_UNITS | {"spiking-resnet19"}
#: A layer of each kind, and a second one that mixes, whose windows are shifted, in place of all twelve.
LAYERS = ("48", "F-48", "PM-96", "96", "F-96")
#: One depth of each unit, and one size of each family, stand for the others: they have the same operations.
NAMES = [name for name in MODELS if not name.endswith(("20", "24", "36", "-s", "-l", "-xl", "-m"))]


@pytest.fixture(autouse=True)
def few_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onespike.models.artificial.LAYERS", LAYERS)


def side(name: str) -> int:
    """Pixels of the images: most of these units are traced token by token, and windows of 2x2 do what 4x4 do."""
    return 8 if name in OTHER_UNITS else 16


def small(name: str) -> nn.Module:
    fields = vars(model_config(name))
    overrides: dict[str, Any] = next((values for field, values in SMALL if field in fields), {})
    if name in DEEPER:
        overrides = {**overrides, "depths": (2,)}
    if isinstance(model_config(name), OverTimeConfig):
        overrides = {**overrides, "time_steps": 2}
    torch.manual_seed(0)
    network = create_model(name, num_classes=5, image_size=side(name), **overrides)
    nn.init.normal_(getattr(network, "head", getattr(network, "fc", None)).weight)
    with torch.no_grad():
        network.train()(torch.randn(16, 3, side(name), side(name)))
    return network


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "to", "options"),
    [
        *(pytest.param(name, ("pt2", "onnx"), {}, id=f"{name}-floats") for name in NAMES),
        *(
            pytest.param(name, "onnx", {"weights": "int8"}, id=f"{name}-integers")
            for name in NAMES
            if name not in FLOATS_ALONE
        ),
    ],
)
def test_files_compute_what_the_network_does(
    name: str, to: str | tuple[str, ...], options: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    images = torch.randn(6, 3, side(name), side(name), generator=torch.Generator().manual_seed(1))
    made = export(small(name), tmp_path / "out", to, images=images, **options)
    assert made.holds, made.parity
    assert all(proof.largest_logit > 0 for proof in made.parity)
    if name in ("conv12", "spiking-vgg-xs"):
        assert all(proof.spikes > 0 for proof in made.parity)


@pytest.mark.parametrize("name", thorough(["spiking-mlp", "spiking-vgg-xs"], 1))
def test_networks_over_time_are_traced_for_any_number_of_images(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_model(name, num_classes=5, image_size=16, time_steps=2)
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert export(network, tmp_path / "out", "pt2", images=images).holds
    loaded = torch.export.load(tmp_path / "out" / "model.pt2").module()
    logits, *_ = loaded(images[:4])
    assert logits.shape == (4, 5)


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
