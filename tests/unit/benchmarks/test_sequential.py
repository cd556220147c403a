"""The library against its plain second implementation: logits and gradients, in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from onespike.functional import SURROGATES
from onespike.models import Network, create_model
from tests.reference.sequential import SequentialNetwork

UNITS = ("conv", "lstm", "lstm-forward", "gru", "bigru", "rnn", "birnn", "mlp")
TINY = {"depths": (2, 2), "channels": (6, 8), "dropout": 0.0, "region_threshold": 0.1}


def make(unit: str = "conv", image_size: int = 16, **overrides: Any) -> Network:
    """A network whose neurons fire now and then, all of whose parameters and buffers matter."""
    torch.manual_seed(0)
    network = create_model(f"{unit}12", num_classes=3, image_size=image_size, **{**TINY, **overrides}).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "raw_" in name:
                parameter.add_(torch.empty_like(parameter).uniform_(-0.3, 0.3))
            elif "norm" not in name and parameter.ndim > 1:
                parameter.mul_(1.5)
            else:
                parameter.add_(torch.empty_like(parameter).uniform_(0, 0.4))
        for name, buffer in network.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.empty_like(buffer).uniform_(-0.2, 0.2))
        network.head.weight.normal_()
    return network.train(network.config.norm == "none")


def run(network: torch.nn.Module, images: torch.Tensor, draws: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(7)  # of the dropout masks
    images = images.clone().requires_grad_()
    logits = network(images, draws)
    F.cross_entropy(logits, torch.tensor([0, 2])).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return logits.detach(), gradients | {"images": images.grad}


def check_equal(network: Network) -> None:
    plain = SequentialNetwork(network)
    assert plain.state_dict().keys() == network.state_dict().keys()
    images = torch.randn(2, 3, network.image_size, network.image_size, dtype=torch.float64)
    draws = network.draw(2) if network.config.encoding.startswith("bernoulli") else None
    logits, gradients = run(network, images, draws)
    expected, plain_gradients = run(plain, images, draws)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    inner = [gradient for name, gradient in gradients.items() if ".unit." in name]
    assert any(gradient.abs().max() > 1e-6 for gradient in inner), "the comparison would say little of silent units"


@pytest.mark.parametrize("time_steps", [1, 2])
@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_equals_the_plain_implementation(unit: str, time_steps: int) -> None:
    check_equal(make(unit, time_steps=time_steps))


@pytest.mark.parametrize("windows", ["average", "dilated", "none"])
@pytest.mark.parametrize("unit", ["conv", "gru"])
def test_every_kind_of_window(unit: str, windows: str) -> None:
    check_equal(make(unit, windows=windows))


@pytest.mark.parametrize("unit", ["conv", "mlp"])
def test_an_odd_map_is_padded(unit: str) -> None:
    check_equal(make(unit, image_size=12))


@pytest.mark.parametrize("encoding", ["bernoulli-detached", "threshold", "direct"])
def test_every_encoding(encoding: str) -> None:
    check_equal(make(encoding=encoding, time_steps=3))


@pytest.mark.parametrize("unit", ["conv", "lstm", "mlp"])
def test_batch_norm_in_evaluation(unit: str) -> None:
    check_equal(make(unit, norm="batch", encoding="threshold"))


@pytest.mark.parametrize("preset", ["improved", "strict"])
@pytest.mark.parametrize("unit", ["conv", "mlp"])
def test_batch_norm_before_thresholds_and_a_convolution_in_the_stem(unit: str, preset: str) -> None:
    check_equal(make(unit, preset=preset, norm="before", stem="conv"))


def test_a_stem_of_two_convolutions_quarters_large_images() -> None:
    network = make(preset="improved", image_size=96)
    assert network.blocks()[0].size == 24
    check_equal(network)


@pytest.mark.parametrize("fusion", ["sinsum", "nested", "mean", "sum", "none"])
@pytest.mark.parametrize("unit", ["conv", "rnn"])
def test_every_fusion(unit: str, fusion: str) -> None:
    check_equal(make(unit, fusion=fusion))


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize(("surrogate", "width"), [*((name, 1.0) for name in SURROGATES), ("triangle", 2.5)])
def test_every_surrogate_and_reset(reset: str, surrogate: str, width: float) -> None:
    check_equal(
        make(
            neuron={
                "reset": reset,
                "surrogate": surrogate,
                "surrogate_width": width,
                "learnable_threshold": "channel",
                "learnable_decay": "layer",
            }
        )
    )


@pytest.mark.parametrize("region_threshold", [None, 0.3])
def test_fractions_of_spikes(region_threshold: float | None) -> None:
    check_equal(make(region_threshold=region_threshold, windows="dilated"))


def test_the_dropout_masks_are_the_same() -> None:
    check_equal(make(dropout=0.3))


@pytest.mark.parametrize("preset", ["strict", "ann", "binary"])
@pytest.mark.parametrize("unit", ["conv", "mlp"])
def test_every_preset(preset: str, unit: str) -> None:
    check_equal(make(unit, preset=preset, **({"region_threshold": None} if preset == "ann" else {})))


def test_on_convolutional_networks_the_logits_are_equal_to_the_bit() -> None:
    network = make().eval()
    images, draws = torch.randn(2, 3, 16, 16, dtype=torch.float64), network.draw(2)
    assert torch.equal(network(images, draws), SequentialNetwork(network)(images, draws))
