"""What every registered model promises: all of them that they run, one depth of each unit all the rest.

Channels are few, so that this stays fast; the images are so large that every stage but the last can dilate.
"""

import copy
from dataclasses import asdict

import pytest
import torch
from torch import nn

from onespike import create_model
from onespike.models import MODELS, OnespikeConfig, model_config
from onespike.models.artificial import ArtificialConfig
from onespike.models.onespike import PRESETS, VARIANTS
from onespike.models.strict import StrictConfig
from onespike.neurons import NeuronConfig
from onespike.training.recipe import model_from
from onespike.units import UNITS
from tests.running import thorough
from tests.unit.metered import expect_meter_equals_audit

IMAGE_SIZE, CLASSES = 64, 7
CHANNELS = (8, 12, 16, 24)
#: What makes a model small.
FEW_CHANNELS: dict[str, dict] = {name: {"channels": CHANNELS} for name in VARIANTS if name != "conv-tiny"}
FEW_CHANNELS["spiking-resnet19"] = {"width": 16}
#: Other tests register models of their own.
OURS = {name: one for name, one in MODELS.items() if one.builder.__module__.startswith("onespike.")}
STRICT = [name for name, ours in OURS.items() if issubclass(ours.config, StrictConfig)]
FEW_CHANNELS |= {name: {"width": 8} for name in STRICT}
every_model = pytest.mark.parametrize("name", list(OURS))
every_unit = pytest.mark.parametrize("name", ["conv-tiny", *(f"{unit}12" for unit in UNITS)])
#: The first model of each family.
FAMILIES = list({ours.config: name for name, ours in reversed(OURS.items())}.values())
every_family = pytest.mark.parametrize("name", FAMILIES)


def make(name, seed=0, **overrides):
    """The model with fresh weights, and a head that tells its inputs apart."""
    torch.manual_seed(seed)
    network = create_model(
        name, num_classes=CLASSES, in_channels=3, image_size=IMAGE_SIZE, **FEW_CHANNELS.get(name, {}), **overrides
    )
    nn.init.normal_(getattr(network, "head", getattr(network, "fc", None)).weight)
    return network


def images(batch=2):
    return torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


def seeded():
    return torch.Generator().manual_seed(2)


@every_model
@pytest.mark.parametrize("training", thorough([True, False], 1))
def test_images_go_in_and_finite_logits_come_out_and_of_no_images_none(name, training):
    network = make(name).train(training)
    logits = network(images())
    assert logits.shape == (2, CLASSES)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    network.eval()
    assert network(images(0)).shape == (0, CLASSES)
    if hasattr(network, "over_time"):
        with pytest.raises(ValueError, match="time steps: expected one at least"):
            network.over_time(images()[None][:0])


@every_family
def test_a_network_of_every_family_learns_is_copied_and_comes_back_from_its_config(name):
    network = make(name)
    config = model_config(name, **FEW_CHANNELS.get(name, {}))
    torch.manual_seed(2)
    nn.functional.cross_entropy(network(images(8)), torch.arange(8) % CLASSES).backward()
    for label, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, label
            assert parameter.grad.isfinite().all(), label
    assert config == model_from(asdict(config))
    twin, again = copy.deepcopy(network), config.build(CLASSES, 3, IMAGE_SIZE)
    again.load_state_dict(network.state_dict())
    found = []
    for one in (network, twin, again):
        torch.manual_seed(3)
        with torch.no_grad():
            found.append(one.eval()(images()))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", [name for name in FAMILIES if name in STRICT])
def test_the_gradient_reaches_every_weight_of_the_strict_families(name):
    network = make(name)
    nn.functional.cross_entropy(network(images(8)), torch.arange(8) % CLASSES).backward()
    weights = {label: one for label, one in network.named_parameters() if one.requires_grad and one.ndim > 1}
    assert len(weights) > 3
    assert [label for label, one in weights.items() if not one.grad.any()] == []


@pytest.mark.parametrize("name", [name for name in FAMILIES if not issubclass(OURS[name].config, ArtificialConfig)])
def test_training_for_cost_counts_what_the_audit_counts(name):
    network = make(name)
    network(images(4))  # batch norm learns what it reads
    expect_meter_equals_audit(network.eval(), images())


@every_unit
def test_the_gradient_reaches_every_parameter(name):
    # A fresh LSTM's outputs are small: at 0.5 its first block is silent.
    network = make(name, neuron={"threshold": 0.1})
    nn.functional.cross_entropy(network(images(8), generator=seeded()), torch.arange(8) % CLASSES).backward()
    for label, parameter in network.named_parameters():
        assert parameter.grad is not None, label
        assert parameter.grad.isfinite().all(), label
        assert parameter.grad.any(), label


@every_unit
def test_channels_last_images_and_weights_give_the_same_logits(name):
    network = make(name).eval()
    with torch.no_grad():
        plain = network.double()(images().double(), generator=seeded())
        network.to(memory_format=torch.channels_last)
        last = network(images().double().contiguous(memory_format=torch.channels_last), generator=seeded())
    torch.testing.assert_close(last, plain, rtol=1e-10, atol=1e-10)


@every_unit
def test_bf16_autocast_gives_finite_logits_and_gradients(name):
    network = make(name)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(images(), generator=seeded())
    assert logits.isfinite().all()
    logits.float().square().sum().backward()
    for label, parameter in network.named_parameters():
        assert parameter.grad.dtype == torch.float32, label
        assert parameter.grad.isfinite().all(), label


@every_unit
def test_an_image_knows_nothing_of_the_others_in_its_batch_in_evaluation(name):
    network = make(name).eval().double()
    with torch.no_grad():
        draws = network.draw(3, seeded())
        together = network(images(3).double(), draws)
        alone = network(images(3).double()[1:2], [draw[:, 1:2] for draw in draws])
    torch.testing.assert_close(alone, together[1:2], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("preset", thorough(sorted(PRESETS, key=["paper", "improved", *PRESETS].index), 2))
def test_every_preset_trains_every_unit_it_suits(preset):
    for unit in ("conv", "mlp") if preset == "strict" else UNITS:
        network = make(f"{unit}12", preset=preset)
        nn.functional.cross_entropy(network(images(8), generator=seeded()), torch.arange(8) % CLASSES).backward()
        for label, parameter in network.named_parameters():
            assert parameter.grad is not None, (unit, label)
            assert parameter.grad.isfinite().all(), (unit, label)


CHOICES = ("encoding", "fusion", "region_threshold", "norm", "dropout", "mlp_activation", "readout")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("paper", ("bernoulli", "sincos", 0.1, "none", 0.1, "gelu", "real")),
        ("released-cifar10", ("bernoulli-detached", "nested", None, "none", 0.1, "gelu", "real")),
        ("released-cifar100", ("bernoulli-detached", "mean", 0.2, "none", 0.1, "gelu", "real")),
        ("modern", ("threshold", "sincos", 0.1, "none", 0.0, "gelu", "real")),
        ("improved", ("threshold", "sincos", 0.1, "before", 0.0, "gelu", "real")),
        ("strict", ("threshold", "sincos", 0.1, "batch", 0.0, "spiking", "spiking")),
        ("ann", ("threshold", "none", None, "none", 0.1, "gelu", "real")),
        ("binary", ("bernoulli", "none", 0.1, "none", 0.1, "gelu", "real")),
    ],
)
def test_what_a_preset_chooses_does_not_drift(preset, expected):
    config = model_config("conv12", preset)
    assert tuple(getattr(config, name) for name in CHOICES) == expected
    improved = NeuronConfig(surrogate="triangle", surrogate_width=2.0, learnable_threshold="channel")
    assert config.neuron == {"ann": NeuronConfig("relu"), "improved": improved}.get(preset, NeuronConfig())
    assert config.stem == ("conv" if preset == "improved" else "patch")
    apart = (*CHOICES, "preset", "neuron", "stem")
    others = {name: value for name, value in asdict(config).items() if name not in apart}
    assert others == {name: value for name, value in asdict(OnespikeConfig()).items() if name in others}


@pytest.mark.parametrize("preset", ["paper", "ann", "binary"])
@pytest.mark.parametrize("unit", ["conv", "lstm"])
def test_only_what_hands_potentials_on_lets_windows_see_each_other(preset, unit):
    block = make(f"{unit}12", preset=preset, encoding="threshold", dropout=0.0, neuron={"threshold": 0.05}).blocks()[0]
    side = block.size
    x = 0.3 * torch.randn(1, CHANNELS[0], side, side, generator=torch.Generator().manual_seed(1))
    above = torch.full((1, block.unit.out_channels, side, side), 0.2)
    found = []
    for shift in (0, 0.3):  # the first window of four, and the potentials above it
        maps = [one.clone() for one in (x, above)]
        for one in maps:
            one[..., : side // 2, : side // 2] += shift
        out = block(maps[0], maps[1] if block.unit.travels else None, None)[0]
        found.append(torch.cat([out[..., side // 2 :, :].flatten(), out[..., : side // 2, side // 2 :].flatten()]))
    assert torch.equal(*found) == (preset != "paper")
