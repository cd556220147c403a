"""Models by name: their size, the images they take, their options, and what is wrong with the rest."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from onespike import OnespikeError, create_model
from onespike.functional import SURROGATES
from onespike.models import OnespikeConfig, model_config
from onespike.models.onespike import VARIANTS
from onespike.neurons import NeuronConfig
from onespike.training.recipe import model_from

TINY = {"depths": (1, 2), "channels": (4, 8), "image_size": 16}
AVERAGE_THEN_DILATED = ["average", "dilated"]


def kinds(network):
    return [block.window_kind for block in network.blocks()]


def multiply_accumulates(network):
    """For one image, with every convolution and linear layer counted dense, by what goes in and comes out of each."""
    count = 0

    def add(layer, _, output):
        nonlocal count
        inputs = layer.weight[0].numel()  # what one output value is made of
        count += output.numel() * inputs

    hooks = [
        layer.register_forward_hook(add) for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        network(torch.zeros(1, network.in_channels, network.image_size, network.image_size))
    for hook in hooks:
        hook.remove()
    return count


@pytest.fixture(scope="module")
def conv12():
    return create_model("conv12", num_classes=10, in_channels=3, image_size=32)


def test_conv12_has_246_992_640_dense_multiply_accumulates(conv12):
    assert multiply_accumulates(conv12) == 246_992_640


def test_conv12_is_the_papers_network_by_default(conv12):
    config = conv12.config
    assert (config.depths, config.channels) == ((2, 2, 6, 2), (48, 96, 192, 384))
    assert (config.neuron.threshold, config.neuron.decay, config.theta, config.region_threshold) == (0.5, 0.4, 0.5, 0.1)
    assert (config.encoding, config.fusion, config.neuron.reset) == ("bernoulli", "sincos", "none")
    assert (config.neuron.surrogate, config.windows, config.norm) == ("rectangle", "alternating", "none")
    assert (config.mlp_activation, config.mlp_ratio, config.dropout, config.time_steps) == ("gelu", 3, 0.1, 1)
    assert (config.neuron.learnable_threshold, config.neuron.learnable_decay) == ("none", "none")
    assert conv12.training


def test_at_32_pixels_blocks_alternate_over_the_whole_network_but_the_last_map_of_side_2_cannot_be_dilated(conv12):
    assert kinds(conv12) == AVERAGE_THEN_DILATED * 5 + ["average"] * 2
    assert [block.size for block in conv12.blocks()] == [16] * 2 + [8] * 2 + [4] * 6 + [2] * 2


@pytest.mark.parametrize(
    ("image_size", "sides", "expected"),
    [
        (64, [32, 16, 8, 4], AVERAGE_THEN_DILATED * 6),
        (80, [40, 20, 10, 5], AVERAGE_THEN_DILATED * 2 + ["average"] * 8),
        (96, [24, 12, 6, 3], AVERAGE_THEN_DILATED * 2 + ["average"] * 8),
        (128, [32, 16, 8, 4], AVERAGE_THEN_DILATED * 6),
        (224, [56, 28, 14, 7], AVERAGE_THEN_DILATED * 2 + ["average"] * 8),
        (16, [8, 4, 2, 1], AVERAGE_THEN_DILATED * 2 + ["average"] * 8),
    ],
)
def test_the_image_size_decides_the_stem_and_the_kind_of_each_block(image_size, sides, expected):
    network = create_model("conv12", channels=(4, 4, 4, 4), image_size=image_size)
    assert [block.size for block in network.blocks()] == [
        side for side, depth in zip(sides, (2, 2, 6, 2), strict=True) for _ in range(depth)
    ]
    assert kinds(network) == expected
    assert network.stem[0].stride == ((4, 4) if image_size >= 96 else (2, 2))


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ("average", ["average"] * 12),
        ("dilated", ["dilated"] * 10 + ["average"] * 2),
    ],
)
def test_one_kind_of_windows_can_be_used_throughout(windows, expected):
    assert kinds(create_model("conv12", channels=(4, 4, 4, 4), windows=windows)) == expected


def test_the_alternation_counts_blocks_over_stages_of_odd_depth():
    assert kinds(create_model("conv12", depths=(1, 3), channels=(4, 4))) == AVERAGE_THEN_DILATED * 2


@pytest.mark.parametrize(
    ("depths", "image_size"),
    [((1, 1), 12), ((1, 1, 1), 24), ((1, 1, 2, 1), 16), ((1, 1, 2, 1), 48), ((1, 1, 1, 2), 96)],
)
def test_an_odd_last_map_works(depths, image_size):
    network = create_model("conv12", depths=depths, channels=(4,) * len(depths), image_size=image_size)
    assert network.blocks()[-1].size % 2 == 1
    assert network(torch.rand(2, 3, image_size, image_size)).shape == (2, 10)


@pytest.mark.parametrize(("image_size", "multiple"), [(8, 16), (28, 16), (33, 16), (95, 16), (100, 32), (112, 32)])
def test_a_size_that_the_stages_cannot_take_is_an_error_that_names_the_multiple(image_size, multiple):
    with pytest.raises(OnespikeError, match=f"multiple of {multiple} pixels, got {image_size}"):
        create_model("conv12", image_size=image_size)


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [(0, "from 1"), (-16, "from 1"), (10**11, "to 8,192")],
)
def test_a_size_of_no_pixels_or_of_too_many_is_an_error(image_size, expected):
    with pytest.raises(OnespikeError, match=f"image_size: expected a whole number .*{expected}"):
        create_model("conv12", image_size=image_size)


@pytest.mark.parametrize("count", ["num_classes", "in_channels"])
def test_no_classes_or_no_channels_are_an_error(count):
    with pytest.raises(OnespikeError, match=f"{count}.*got .*0"):
        create_model("conv-tiny", **{count: 0})


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("conv21", {}, "unknown model 'conv21': did you mean 'conv2[04]'"),
        ("alexnet", {}, "unknown model 'alexnet': see --help"),
        ("resnet", {}, "unknown model 'resnet': did you mean 'resnet18'"),
        ("resnet18", {"preset": "paper"}, "preset: resnet18 has none, got 'paper'"),
        ("conv12", {"threshold": 0.3}, "unknown option 'model.threshold': did you mean 'model.neuron.threshold'"),
        (
            "conv12",
            {"neuron": {"treshold": 0.3}},
            "unknown option 'model.neuron.treshold': did you mean 'model.neuron.threshold'",
        ),
        ("conv12", {"neuron": "plief"}, "unknown neuron 'plief': did you mean 'plif'"),
        ("spiking-vgg11", {"time_steps": 0}, "time_steps: expected at least 1, got 0"),
        ("spiking-vgg11", {"neuron": "relu"}, "neuron relu: expected one time step, got 4"),
        ("spiking-mlp", {"neuron": {"reset": "zero"}}, "neuron.reset: .* firing always sets it to 0; .* got zero"),
        ("conv12", {"neuron": {"reset": "zero"}, "fusion": "none"}, "neuron.reset: no potential .*, got zero"),
        ("conv12", {"neuron": {"reset": "subtract"}, "windows": "none"}, "neuron.reset: no potential .*, got subtract"),
        ("spiking-resnet19", {"neuron": "relu"}, "neuron relu: expected one time step, got 4"),
        ("spiking-mlp", {"neuron": "relu", "time_steps": 2}, "neuron relu: expected one time step, got 2"),
        ("spiking-vgg11", {"image_size": 24}, "image_size: spiking-vgg11 needs a multiple of 16 pixels, got 24"),
        ("lstm21", {}, "unknown model 'lstm21': did you mean 'lstm2[04]'"),
        ("conv12", {"preset": "strickt"}, "unknown preset 'strickt': did you mean 'strict'"),
        ("lstm12", {"preset": "strict"}, "preset strict: expected the unit conv or mlp, got lstm"),
        ("conv12", {"neuron": "relu"}, "neuron relu: expected one time step and the encoding threshold"),
        ("conv12", {"preset": "ann", "time_steps": 2}, "neuron relu: expected one time step and .*, got 2"),
        ("conv12", {"neuron": "relu", "encoding": "direct"}, "expected region_threshold null"),
        (
            "conv12",
            {"neuron": "relu", "preset": "strict", "region_threshold": None},
            "preset strict: expected a neuron that spikes",
        ),
        ("conv-tiny", {"preset": "strict", "encoding": "direct"}, "preset strict: encoding direct: a layer would read"),
        ("mlp12", {"preset": "strict", "mlp_activation": "gelu"}, "preset strict: mlp_activation gelu: a layer would"),
        ("conv-tiny", {"preset": "strict", "readout": "real"}, "preset strict: readout real: .*; change it, or leave"),
        ("conv12", {"preset": "strict", "region_threshold": None}, "preset strict: region_threshold null .*below 0.25"),
        ("conv12", {"preset": "strict", "region_threshold": 0.25}, "preset strict: region_threshold 0.25 .*below 0.25"),
        ("conv12", {"thetta": 0.3}, "unknown option 'model.thetta': did you mean 'model.theta'"),
        ("conv12", {"time_step": 2}, "did you mean 'model.time_steps'"),
    ],
)
def test_an_unknown_model_or_option_is_an_error_that_names_the_nearest(name, overrides, message):
    with pytest.raises(OnespikeError, match=message) as error:
        create_model(name, **overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depths": (2, 2)}, r"one of each per stage, got \(2, 2\), \(48, 96, 192, 384\)"),
        ({"depths": (), "channels": ()}, r"one of each per stage, got \(\), \(\)"),
        ({"depths": (2, 2, 0, 2)}, "depths.* at least 1"),
        ({"depths": (2.0, 2, 2, 2)}, "depths: expected a whole number, got 2.0"),
        ({"channels": (48, 0, 192, 384)}, "channels.* at least 1"),
        ({"mlp_ratio": 0}, "mlp_ratio.* at least 1"),
        ({"time_steps": 0}, "time_steps.* at least 1"),
        ({"region_threshold": 1.0}, "region_threshold: expected 0 <= region_threshold < 1, got 1.0"),
        ({"region_threshold": -0.1}, "region_threshold: .*got -0.1"),
        ({"dropout": 1.0}, "dropout: expected 0 <= dropout < 1, got 1.0"),
        ({"dropout": -0.1}, "dropout: .*got -0.1"),
        ({"theta": 2}, "theta: .*got 2"),
        ({"neuron": {"threshold": 0}}, "threshold: .*got 0"),
        ({"neuron": {"surrogate_width": 0}}, "surrogate_width: expected 1e-6 <= surrogate_width <= 1e6, got 0"),
        ({"neuron": {"surrogate_width": float("inf")}}, "surrogate_width: .*got inf"),
        ({"neuron": {"decay": 1.5}}, "decay: .*got 1.5"),
    ],
)
def test_a_value_out_of_its_range_is_an_error_that_says_what_was_expected(overrides, message):
    with pytest.raises(OnespikeError, match=message):
        create_model("conv12", **overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"neuron": {"surrogate": "triangel"}},
        {"neuron": {"reset": "substract"}},
        {"fusion": "sincoss"},
        {"neuron": {"learnable_threshold": "chanel"}},
        {"neuron": {"learnable_decay": "chanel"}},
        {"unit": "conf"},
        {"encoding": "bernouli"},
        {"windows": "dilate"},
        {"norm": "bach"},
        {"mlp_activation": "spike"},
    ],
)
def test_a_value_that_is_no_name_of_the_option_is_an_error_when_the_network_is_built(overrides):
    (key,) = overrides.get("neuron", overrides)
    with pytest.raises(OnespikeError, match=f"{key}"):
        create_model("conv12", **TINY, **overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        *({"encoding": encoding} for encoding in ("bernoulli", "bernoulli-detached", "threshold", "direct")),
        *({"fusion": fusion} for fusion in ("sincos", "sinsum", "nested", "mean", "sum", "none")),
        *({"neuron": {"reset": reset}} for reset in ("none", "zero", "subtract")),
        *({"neuron": {"surrogate": surrogate}} for surrogate in SURROGATES),
        {"neuron": {"surrogate": "triangle", "surrogate_width": 3}},
        *({"windows": windows} for windows in ("alternating", "average", "dilated")),
        *({"neuron": {"learnable_threshold": each, "learnable_decay": each}} for each in ("layer", "channel")),
        {"neuron": {"learnable_threshold": "channel"}, "encoding": "threshold", "mlp_activation": "spiking"},
        {"neuron": {"learnable_decay": "channel"}, "fusion": "none", "time_steps": 2},
        {"neuron": {"name": "plif", "learnable_decay": "channel", "threshold": 0.1}, "fusion": "none"},
        {"norm": "batch"},
        {"norm": "before", "stem": "conv"},
        {"preset": "strict", "norm": "before"},
        {"preset": "strict", "windows": "average", "region_threshold": None},
        {"norm": "batch", "mlp_activation": "spiking", "encoding": "threshold"},
        {"mlp_activation": "spiking"},
        {"region_threshold": None},
        {"region_threshold": 0.5},
        {"dropout": 0.0},
        {"mlp_ratio": 1},
        {"time_steps": 3},
        {"in_channels": 1, "num_classes": 2},
    ],
    ids=lambda overrides: ",".join(f"{key}={value}" for key, value in overrides.items()),
)
def test_every_option_gives_a_network_whose_parameters_all_learn(overrides):
    torch.manual_seed(0)
    network = create_model("conv12", **{**TINY, "channels": (8, 16), **overrides})
    nn.init.normal_(network.head.weight)
    logits = network(torch.randn(8, network.in_channels, 16, 16))
    assert logits.shape == (8, network.num_classes)
    logits.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("nothing", [{"windows": "none"}, {"preset": "binary"}])
def test_a_run_over_time_whose_windows_hand_nothing_on_can_be_built_at_one_time_step(nothing):
    config = model_config("conv-tiny", neuron={"learnable_decay": "layer"}, time_steps=4, **nothing)
    assert replace(config, time_steps=1).neuron.learnable_decay == "layer"


def test_a_registered_model_can_be_changed_and_is_not():
    before = {name: dict(changes) for name, changes in VARIANTS.items()}
    network = create_model("conv-tiny", theta=0.9, encoding="direct")
    assert (network.config.theta, network.config.encoding, network.config.norm) == (0.9, "direct", "batch")
    assert network.config.name == "conv-tiny"
    assert before == VARIANTS
    assert OnespikeConfig() == create_model("conv12").config


def test_a_neuron_is_overridden_in_part_by_name_or_as_a_whole():
    preset = create_model("conv-tiny", preset="ann", neuron={"decay": 0.1}).config
    assert (preset.neuron.name, preset.neuron.decay) == ("relu", 0.1)
    assert create_model("conv-tiny", neuron="plif").config.neuron == NeuronConfig("plif")
    for name in ("spiking-vgg-xs", "spiking-mlp", "conv12"):
        usual = model_config(name).neuron
        assert model_config(name, neuron={"threshold": 0.3}).neuron == replace(usual, threshold=0.3)
        assert model_config(name, neuron="plif").neuron == replace(usual, name="plif")
    whole = NeuronConfig(threshold=0.3, reset="zero")
    assert create_model("conv-tiny", neuron=whole).config.neuron == whole


def test_a_config_comes_back_from_plain_values():
    named = [model_config(name) for name in ("vit12", "resnet18", "spiking-resnet19")]
    for config in (
        *named,
        model_config("conv12", "strict", neuron={"name": "adaptive", "options": {"adaptation": 0.3}}),
    ):
        assert model_from(json.loads(json.dumps(asdict(config)))) == config


def test_a_config_of_another_family_is_an_error():
    with pytest.raises(OnespikeError, match="name: vit12 is described by ViTConfig, not by OnespikeConfig"):
        OnespikeConfig(name="vit12")


def test_the_neurons_of_a_network_come_in_groups_of_blocks():
    network = create_model("conv-tiny", mlp_activation="spiking")
    groups = network.neuron_groups()
    assert list(groups) == [f"block{number:02d}" for number in range(1, 7)]
    assert groups["block03"] == [network.blocks()[2].unit.neuron1, network.blocks()[2].unit.neuron2]
