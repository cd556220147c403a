"""The engine against the network: on weights that integers hold exactly, every spike and every logit must be equal."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import onespike.inference.layers as layers
from onespike.errors import OnespikeError
from onespike.functional import FUSIONS
from onespike.inference import Engine
from onespike.inference.engine import takes
from onespike.inference.layers import IntegerConv, IntegerLinear, affine
from onespike.inference.optimise import compare_spikes, flipped
from onespike.models import Network, create_model
from onespike.neurons import NEURONS, Neuron
from onespike.units import UNITS as REGISTRY
from onespike.units import ConvUnit
from onespike.units.channel import ChannelLinear
from onespike.units.tokens import TravellingUnit

UNITS = ("conv", "lstm", "gru", "birnn", "mlp")
TINY = {"depths": (2, 2), "channels": (8, 16), "mlp_ratio": 2}


def make(unit: str = "conv", preset: str = "modern", image_size: int = 16, **overrides: Any) -> Network:
    """A network whose weights are whole multiples of 1/64, at most 127 of them, with statistics of batch norm."""
    torch.manual_seed(0)
    norm = "none" if preset == "paper" else "batch"
    options = {"num_classes": 3, "image_size": image_size, "norm": norm, **TINY, **overrides}
    network = create_model(f"{unit}12", preset=preset, **options)
    network(torch.randn(16, network.in_channels, image_size, image_size))
    with torch.no_grad():
        nn.init.normal_(network.head.weight)
        for name, parameter in network.named_parameters():
            if "raw_" in name:  # learned thresholds and decays: each layer and channel its own
                parameter.add_(torch.empty_like(parameter).uniform_(-0.3, 0.3))
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.copy_((module.weight * 64 * 1.5).round().clamp(-126, 126) / 64)
                module.weight.flatten(1)[:, 0] = 127 / 64  # so that the scale is 1/64
            elif isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.7, 1.3)
                module.bias.uniform_(0, 0.5)
    return network.eval()


def check_equal(network: Network, batch: int = 5, precision: str = "int16") -> None:
    """Compare all spikes and logits; with int16, real-valued layers compute in float32."""
    engine = Engine(network, precision)
    images = torch.randn(batch, network.in_channels, network.image_size, network.image_size)
    blocks = compare_spikes(network, engine, [images])
    assert all(0.02 < block.firing_rate < 0.98 for block in blocks), "silent neurons would prove little"
    assert [block.flipped for block in blocks] == [0.0] * len(blocks)
    with torch.no_grad():
        torch.manual_seed(1)
        expected = network(images)
        torch.manual_seed(1)
        # Logits reach thousands here, and a small one is a difference of such: rounding is measured by the largest.
        assert (engine(images) - expected).abs().max() <= 5e-6 * expected.abs().max()


@pytest.mark.parametrize("preset", ["modern", "paper"])
@pytest.mark.parametrize("unit", UNITS)
def test_every_unit(unit: str, preset: str) -> None:
    check_equal(make(unit, preset, neuron={"threshold": 0.1 if unit in ("lstm", "gru") else 0.5}))


@pytest.mark.parametrize("unit", ["conv", "mlp"])
def test_strict_networks(unit: str) -> None:
    network = make(unit, "strict")
    for precision in ("int8", "int16"):
        check_equal(network, precision=precision)
    engine = Engine(network)
    assert not [m for m in engine.modules() if isinstance(m, layers.RealLinear)], "every layer reads spikes"


@pytest.mark.parametrize("unit", ["conv", "mlp"])
def test_what_eight_bits_leave_over_is_a_second_term(unit: str) -> None:
    """Weights that take 16 bits: int16 computes them exactly, int8 does not."""
    network = make(unit, "strict")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                rest = torch.randint(-127, 128, module.weight.shape)
                rest.flatten(1)[:, 0], rest.flatten(1)[:, 1] = 0, 127  # the scales are 1/64 and 1/64/256
                module.weight.add_(rest / 64 / 256)
    check_equal(network)
    with pytest.raises(AssertionError):
        check_equal(network, precision="int8")


@pytest.mark.parametrize("windows", ["average", "dilated", "none"])
@pytest.mark.parametrize("unit", ["conv", "rnn"])
def test_every_kind_of_window(unit: str, windows: str) -> None:
    check_equal(make(unit, windows=windows))


@pytest.mark.parametrize("unit", ["conv", "rnn"])
def test_an_odd_map_is_padded(unit: str) -> None:
    check_equal(make(unit, image_size=12))


@pytest.mark.parametrize("region_threshold", [None, 0.1, 0.25, 0.5])  # means of 1, 2 and 4 windows reach two of them
def test_every_region_threshold(region_threshold: float | None) -> None:
    check_equal(make(windows="dilated", region_threshold=region_threshold))


@pytest.mark.parametrize("fusion", ["sinsum", "nested", "mean", "sum", "none"])
@pytest.mark.parametrize("unit", ["conv", "gru"])
def test_every_fusion(unit: str, fusion: str) -> None:
    check_equal(make(unit, fusion=fusion))


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("fusion", ["sincos", "sum"])
def test_every_reset(reset: str, fusion: str) -> None:
    check_equal(
        make(fusion=fusion, neuron={"reset": reset, "learnable_threshold": "channel", "learnable_decay": "channel"})
    )


@pytest.mark.parametrize("in_channels", [1, 2])
def test_images_of_other_than_three_channels(in_channels: int) -> None:
    check_equal(make(in_channels=in_channels))


def test_without_the_kernels_the_results_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    if not layers.HAS_KERNELS:
        pytest.skip("this PyTorch has no oneDNN kernels for integers")
    network = make(windows="dilated", region_threshold=None, mlp_activation="spiking", readout="spiking")
    images = torch.randn(3, 3, 16, 16)
    fast = Engine(network)(images)
    monkeypatch.setattr(layers, "HAS_KERNELS", False)
    torch.testing.assert_close(Engine(network)(images), fast, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_sixteen_bits_err_less_than_eight(kind: str) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(12).eval()
    nn.init.uniform_(norm.running_var, 0.5, 2)
    layer = nn.Conv2d(8, 12, 3, padding=1) if kind == "convolution" else nn.Linear(8, 12)
    build = IntegerConv if kind == "convolution" else IntegerLinear
    spikes = (torch.rand(4, 6, 6, 8) < 0.3).to(torch.uint8)
    with torch.no_grad():
        if kind == "convolution":
            exact = norm(layer(spikes.movedim(-1, 1).float())).movedim(1, -1)
        else:
            exact = norm(layer(spikes.float()).movedim(-1, 1)).movedim(1, -1)
        errors = [(build(layer, norm, terms)(spikes) - exact).abs().max().item() for terms in (1, 2)]
    assert errors[0] < 0.02
    assert errors[1] < errors[0] / 50


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"preset": "ann"}, "neuron relu"),
        ({"encoding": "direct"}, "encoding direct"),
        ({"time_steps": 2}, "one time step, got 2"),
        ({"preset": "improved", "stem": "patch"}, "norm none or batch and stem patch, got norm before and stem patch"),
        ({"preset": "improved", "norm": "batch"}, "norm none or batch and stem patch, got norm batch and stem conv"),
    ],
)
def test_networks_that_it_cannot_run_are_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(OnespikeError, match=message):
        Engine(create_model("conv12", **{**TINY, **overrides}))


OTHERS = [
    (NEURONS, "lif", type("Mine", (Neuron,), {}), "neuron lif"),
    (REGISTRY, "conv", type("Mine", (ConvUnit,), {}), "unit conv"),
    (REGISTRY, "mine", lambda channels, *more: TravellingUnit(nn.Identity(), channels, *more), "unit mine"),
]


@pytest.mark.parametrize(("registry", "name", "other", "named"), OTHERS, ids=[named for *_, named in OTHERS])
def test_neurons_and_units_of_ones_own_are_refused(registry, name, other, named, monkeypatch) -> None:
    monkeypatch.setitem(registry, name, other)
    network = create_model("conv12", preset="modern", **TINY, **({} if registry is NEURONS else {"unit": name}))
    with pytest.raises(OnespikeError, match=f"expected the library's own neuron and unit, got a {named} of another's$"):
        Engine(network)
    assert not takes(network)


class Doubled(Network):
    def forward(self, *given: Any, **named: Any) -> torch.Tensor:
        return 2 * super().forward(*given, **named)


def grouped(channels: int, config: Any, _norm: Any) -> nn.Module:
    return ConvUnit(channels, config, lambda count: nn.GroupNorm(1, count))


def rectified(channels: int, config: Any, norm: Any) -> nn.Module:
    layers = ChannelLinear(channels, channels), norm(channels), nn.ReLU(), ChannelLinear(channels, channels)
    return TravellingUnit(nn.Sequential(*layers), channels, config, norm)


@pytest.mark.parametrize("unit", [grouped, rectified])
def test_units_of_layers_that_it_does_not_know_are_refused(unit, monkeypatch) -> None:
    monkeypatch.setitem(REGISTRY, "mine", unit)
    network = create_model("conv12", preset="modern", **TINY, unit="mine")
    assert not takes(network)
    with pytest.raises(OnespikeError, match="expected the library's own neuron and unit, got a unit mine of another's"):
        Engine(network)


def test_a_network_with_a_forward_of_its_own_is_refused() -> None:
    network = Doubled(make().config, 3, 3, 16)
    assert not takes(network)
    with pytest.raises(OnespikeError, match="expected the library's own network, got a Doubled"):
        Engine(network)


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 8), nn.BatchNorm2d(8, affine=False), nn.InstanceNorm2d(8)])
def test_a_norm_that_is_no_gain_and_shift_is_refused(norm: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"norm: expected nn\.Identity, or nn\.BatchNorm2d"):
        IntegerLinear(nn.Linear(8, 8), norm, 1)


def test_a_norm_may_lack_a_shift() -> None:
    norm = nn.BatchNorm2d(3).eval()
    for name in ("weight", "running_mean", "running_var"):
        nn.init.uniform_(getattr(norm, name), 0.5, 1.5)
    norm.bias = None
    (gain, shift), x = affine(norm), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(x * gain[:, None, None] + shift[:, None, None], norm(x))


@pytest.mark.parametrize("unit", ["conv", "gru"])
def test_an_engine_shares_nothing_with_its_network(unit: str) -> None:
    network = make(unit, "paper").train()
    engine, images = Engine(network, "int16"), torch.randn(2, 3, 16, 16)
    assert all(module.training for module in network.modules())
    torch.manual_seed(1)
    before = engine(images)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    torch.manual_seed(1)
    assert torch.equal(engine(images), before)


def test_the_spikes_of_all_blocks_count_alike() -> None:
    network = make()
    engine = Engine(network, "int16")
    engine.blocks()[0].unit.neuron2.threshold.fill_(1e9)
    blocks = compare_spikes(network, engine, [torch.randn(4, 3, 16, 16)])
    # Windows of both layers: 4 images; 8 channels of 8x8 pixels, once or dilated, then 16 channels of 4x4.
    assert [block.neurons for block in blocks] == [4 * 2 * n for n in (512, 1152, 256, 576)]
    wrong = sum(block.flipped * block.neurons for block in blocks)
    assert flipped(blocks) == pytest.approx(wrong / (4 * 2 * 2496))
    assert blocks[0].flipped > 0
    assert blocks[0].engine_firing_rate < blocks[0].firing_rate


def test_a_unit_of_the_library_may_have_another_name(monkeypatch) -> None:
    monkeypatch.setitem(REGISTRY, "separable", lambda *given: ConvUnit(*given))
    network = create_model("conv12", preset="modern", **TINY, unit="separable").eval()
    assert takes(network)
    Engine(network)


def test_a_fusion_in_the_place_of_ours_is_the_one_that_counts(monkeypatch) -> None:
    monkeypatch.setitem(FUSIONS, "sincos", FUSIONS["mean"])
    check_equal(make())


def test_images_of_another_size_are_refused() -> None:
    engine = Engine(make())
    with pytest.raises(ValueError, match="expected \\(B, 3, 16, 16\\)"):
        engine(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"torch\.float32, on the CPU, got \(1, 3, 16, 16\), torch\.float64"):
        engine(torch.zeros(1, 3, 16, 16).double())


def test_images_on_another_device_are_refused() -> None:
    with pytest.raises(ValueError, match=r"on the CPU, got \(2, 3, 16, 16\), torch\.float32, on meta"):
        Engine(make())(torch.zeros(2, 3, 16, 16, device="meta"))


def test_no_images_have_no_logits() -> None:
    assert Engine(make("gru", "paper"))(torch.zeros(0, 3, 16, 16)).shape == (0, 3)


@pytest.mark.parametrize("preset", ["modern", "strict"])
def test_a_copy_of_an_engine_that_has_run_computes_the_same(preset: str) -> None:
    engine, images = Engine(make(preset=preset)), torch.randn(2, 3, 16, 16)
    logits = engine(images)
    assert torch.equal(copy.deepcopy(engine)(images), logits)


@pytest.mark.parametrize("precision", ["int8", "int16"])
def test_an_engine_that_has_run_takes_other_weights(precision: str) -> None:
    one, other, images = make("gru"), make("gru"), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        for weight in other.parameters():
            weight.copy_(weight.flip(0))
    engine, expected = Engine(one, precision), Engine(other, precision)
    engine(images)
    engine.load_state_dict(expected.state_dict())
    assert torch.equal(engine(images), expected(images))


def test_a_pruned_network_is_taken_over() -> None:
    network, images = make(), torch.randn(2, 3, 16, 16)
    prune.l1_unstructured(network.blocks()[0].unit.conv1, "weight", 0.3)
    network(images)  # which computes the weight
    engine = Engine(network, "int16")
    prune.remove(network.blocks()[0].unit.conv1, "weight")
    assert torch.equal(engine(images), Engine(network, "int16")(images))
