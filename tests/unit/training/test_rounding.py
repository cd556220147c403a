import math

import pytest
import torch
from torch import nn

from onespike.errors import OnespikeError
from onespike.functional import to_integers
from onespike.inference import Engine
from onespike.inference.optimise import compare_spikes
from onespike.training import Run, load, train
from onespike.training.callbacks import Int8Weights
from onespike.training.set_up import set_up

PLAIN = {"model__encoding": "threshold", "model__dropout": 0.0, "train__mixup": 0.0, "train__precision": "fp64"}


def weight_layers(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def rounded(weight: torch.Tensor) -> torch.Tensor:
    integers, scale = to_integers(weight)
    return integers * scale


def test_the_gradient_at_the_rounded_weights_moves_the_exact_ones(small):
    settings = {"train__clip_grad": 0.0, "train__weight_decay": 0.0, "train__warmup_epochs": 0, "train__lr": 0.5}
    recipe = small(**PLAIN, **settings, train__int8_weights=True)
    trainer = set_up(recipe)
    network = trainer.network
    nn.init.normal_(network.head.weight)
    exact = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    images, labels = next(iter(trainer.batches.epoch(0)))
    trainer.step(0, images, labels)
    after = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}

    network.load_state_dict(exact, strict=False)
    for layer in weight_layers(network):
        layer.weight.data = rounded(layer.weight.data)
    trainer.loss(network(images), labels).backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(after[name], exact[name] - 0.5 * parameter.grad, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_what_is_saved_and_tested_is_rounded_and_an_engine_computes_the_same(small, tmp_path):
    recipe = small(model__preset="strict", model__encoding="threshold", model__dropout=0.0, train__int8_weights=True)
    summary = train(recipe, tmp_path / "run")
    network = load(tmp_path / "run")
    for layer in weight_layers(network):
        torch.testing.assert_close(layer.weight, rounded(layer.weight), rtol=1e-6, atol=0)
    raw = Run.open(tmp_path / "run").checkpoint("last").training["raw.head.weight"]
    assert not torch.allclose(raw, rounded(raw), rtol=1e-3)
    assert summary["test_images"] > 0

    engine, images = Engine(network, "int8"), torch.randn(64, 1, 32, 32)
    assert [block.flipped for block in compare_spikes(network, engine, [images])] == [0.0, 0.0]
    with torch.no_grad():
        torch.testing.assert_close(engine(images), network(images), rtol=1e-4, atol=1e-4)


def test_convolutions_of_one_and_of_three_dimensions_are_rounded_too():
    layers = nn.ModuleList([nn.Conv1d(4, 6, 3, groups=2), nn.Conv3d(2, 4, 3, dilation=2), nn.ConvTranspose2d(2, 4, 3)])
    exact = [layer.weight.detach().clone() for layer in layers]
    with Int8Weights(layers).weights():
        for layer, weight in zip(layers[:2], exact, strict=False):
            assert torch.equal(layer.weight, rounded(weight))
            assert not torch.equal(layer.weight, weight)
        assert torch.equal(layers[2].weight, exact[2])  # its output channels do not lie along the first axis
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers, exact, strict=True))


def test_not_together_with_a_moving_average(small):
    with pytest.raises(OnespikeError, match=r"train.int8_weights and train.ema: .* set only one of them"):
        small(train__int8_weights=True, train__ema=0.9)


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_weights_that_are_not_finite_show_in_the_loss(small, odd):
    trainer = set_up(small(**PLAIN, train__int8_weights=True))
    trainer.network.head.weight.data[0, 0] = odd
    loss, _ = trainer.step(0, *next(iter(trainer.batches.epoch(0))))
    assert not math.isfinite(loss)  # the loop says that the training failed
