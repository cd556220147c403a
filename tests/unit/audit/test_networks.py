"""The library's own networks: what must come out, and what follows from their structure."""

import time
from dataclasses import replace

import pytest
import torch

import onespike
from onespike.audit.scaling import fitted_exponent, scaling
from onespike.conversion import ConversionConfig
from onespike.conversion.network import spiking as convert_graph
from onespike.counting.energy import EnergyTable
from onespike.counting.operations import Operations, count_operations
from onespike.models import Network, create_model, model_config
from onespike.units.registry import UNITS

TINY = {"depths": (1, 1), "channels": (6, 8), "dropout": 0.0}


def count(name: str, images: int = 2, **overrides: object) -> Operations:
    torch.manual_seed(0)
    size = 16 if "depths" in overrides else 32
    network = create_model(name, image_size=size, **overrides)
    return count_operations(network, [torch.randn(images, 3, size, size)])


@pytest.fixture(scope="module")
def conv12() -> Operations:
    return count("conv12", images=4)


def test_conv12(conv12: Operations):
    assert conv12.weights == 13_885_402
    assert conv12.macs == 246_992_640
    mlps = sum(product.macs for layer in conv12.layers for product in layer.products if ".mlp." in layer.path)
    assert mlps == 42_467_328
    merging = 3 * 1_179_648
    assert conv12.macs_of("real") == mlps + merging + 147_456 + 3_840  # stem and head
    assert conv12.macs_of("graded") == 0
    assert conv12.macs_of("binary") == conv12.macs - conv12.macs_of("real")


def test_windows_of_one_pixel_meet_the_centre_tap_alone(conv12: Operations):
    """However the convolution is computed there: counted dense it has nine taps."""
    (product,) = next(layer for layer in conv12.layers if layer.path == "layers.14.unit.conv1").products
    assert (product.macs, product.reached, product.weights) == (4 * 9 * 384**2, 4 * 384**2, 9 * 384**2)
    assert product.operations == pytest.approx(product.rate * product.reached)


def test_potentials_of_conv12_by_hand(conv12: Operations):
    """In the first block: windows of 8x8 and 48 channels; three pass two layers' potentials on, read three times."""
    traffic = {layer.path: layer.potentials for layer in conv12.layers}["layers.0.unit"]
    passed = 3 * 48 * 8 * 8
    assert traffic == (3 * passed, 2 * passed)


def test_a_window_that_is_alone_reads_the_potentials_of_the_block_before_once():
    layers = count("mlp12", windows="none", **TINY).layers
    traffic = [layer.potentials for layer in layers if layer.path.endswith(".unit")]
    assert traffic == [(0, 6 * 8 * 8), (8 * 4 * 4, 8 * 4 * 4)]


def test_fusion_and_charge_by_hand(conv12: Operations):
    """2 sin(a X) cos(a Y) of three windows: four products, a sine, a cosine; charging two layers: a product, a sum."""
    (unit,) = (layer for layer in conv12.layers if layer.path == "layers.0.unit")
    passed = 3 * 48 * 8 * 8
    assert unit.elementwise == {"multiply": (4 + 2) * passed, "special": 2 * passed, "add": 2 * passed}
    assert unit.handing
    (neuron,) = (layer for layer in conv12.layers if layer.path == "layers.0.unit.neuron1")
    assert neuron.elementwise == {"compare": 4 * 48 * 8 * 8}


def test_twice_the_blocks_of_a_stage_is_twice_their_count():
    once = count("conv12", depths=(1, 2), channels=(6, 8), windows="average")
    twice = count("conv12", depths=(1, 4), channels=(6, 8), windows="average")

    def blocks_of_stage_two(operations: Operations) -> list[float]:
        elsewhere = ("stem.0", "layers.0", "layers.1", "head", "")
        layers = [layer for layer in operations.layers if layer.group not in elsewhere]
        return [
            sum(product.macs for layer in layers for product in layer.products),
            sum(product.weights for layer in layers for product in layer.products),
            sum(sum(layer.elementwise.values()) for layer in layers),
            sum(layer.potentials.reads for layer in layers),
        ]

    assert blocks_of_stage_two(twice) == [2 * number for number in blocks_of_stage_two(once)]
    assert blocks_of_stage_two(once)[0] > 0


@pytest.mark.parametrize("unit", ["conv", "mlp"])
def test_strict_networks_have_real_values_in_the_stem_alone(unit):
    strict = count(f"{unit}12", preset="strict", **TINY)
    assert {layer.path for layer in strict.layers for p in layer.products if p.arrives != "binary"} == {"stem.0"}
    paper = count(f"{unit}12", **TINY)
    assert {"stem.0", "layers.0.mlp.1", "head"} <= {
        layer.path for layer in paper.layers for p in layer.products if p.arrives == "real"
    }


def test_strict_networks_of_ternary_neurons_read_spikes_with_a_sign_in_dilated_windows_too():
    strict = count("conv12", preset="strict", neuron={"name": "ternary"}, windows="dilated", **TINY)
    arriving = {product.arrives for layer in strict.layers if layer.path != "stem.0" for product in layer.products}
    assert "signed" in arriving
    assert arriving <= {"signed", "binary"}


def test_without_a_region_threshold_overlaps_are_graded():
    operations = count("conv12", windows="dilated", region_threshold=None, encoding="threshold", **TINY)
    arriving = {layer.path: layer.products[0] for layer in operations.layers if layer.path.endswith(".fc.0")}
    assert {product.arrives for product in arriving.values()} <= {"binary", "graded"}
    graded = [product for product in arriving.values() if product.arrives == "graded"]
    assert graded
    assert all(product.step == 0.25 for product in graded)


def test_twins_hand_nothing_on_and_relu_is_real():
    binary, ann = count("conv12", preset="binary", **TINY), count("conv12", preset="ann", **TINY)
    for twin in (binary, ann):
        assert twin.potentials == (0, 0)
        assert not any(layer.handing and layer.elementwise for layer in twin.layers)
    assert ann.macs_of("real") == ann.macs == binary.macs


@pytest.mark.parametrize("unit", sorted(UNITS))
def test_every_unit_can_be_counted(unit):
    operations = count(f"{unit}12", **TINY)
    once, thrice = operations, count(f"{unit}12", time_steps=3, **TINY)
    per_step = sum(layer_macs(thrice, group) for group in ("layers.0", "layers.1", "layers.2"))
    assert per_step == 3 * sum(layer_macs(once, group) for group in ("layers.0", "layers.1", "layers.2"))
    assert thrice.potentials.reads > 3 * once.potentials.reads > 0


def layer_macs(operations: Operations, group: str) -> float:
    return sum(product.macs for layer in operations.layers if layer.group == group for product in layer.products)


def test_the_potential_map_of_a_travelling_unit_by_hand():
    operations = count("lstm-forward12", windows="average", **TINY)
    first, second = (layer.potentials for layer in operations.layers if layer.path.endswith(".unit"))
    n = 6 * 8 * 8  # all windows of the first block: nothing comes from above, three windows have a predecessor
    assert first == (n * 3 / 4, n)
    n = 8 * 4 * 4  # the second: all windows from above, one of them twice
    assert second == (n + n / 4 + n * 3 / 4, n)
    merging = [layer for layer in operations.layers if ".potential" in layer.path]
    assert [layer.merging for layer in merging] == [True]


@pytest.mark.parametrize("name", ["resmlp12", "resnet18", "vit12"])
def test_artificial_networks_and_what_conversion_makes_of_them(name):
    images = torch.randn(1, 3, 32, 32)
    artificial = count_operations(create_model(name), [images])
    assert artificial.macs_of("real") == artificial.macs
    assert artificial.potentials == (0, 0)
    converted = convert_graph(
        create_model(name, activation="qcfs"), ConversionConfig(3, "layer", allow_real=True), images
    )
    spiking = count_operations(converted, [images])
    assert spiking.macs == 3 * artificial.macs
    assert spiking.macs_of("binary") > 0
    assert spiking.potentials.reads == spiking.potentials.writes > 0


@pytest.mark.slow
def test_thresholds_of_channels_make_no_spike_a_real_number():
    """A conversion as it is made by default: all but the stem and the head's means reads spikes, and costs less."""
    images = torch.randn(16, 3, 32, 32)
    artificial = create_model("resnet18").eval()
    converted = onespike.convert(artificial, images).network
    assert {neurons.raw_threshold.ndim for neurons in converted.neurons.values()} == {1}
    spiking = count_operations(converted, [images])
    assert spiking.macs_of("binary") > 0.99 * spiking.macs
    table = EnergyTable.load()
    costs = [table.network(one, "field").total for one in (spiking, count_operations(artificial, [images]))]
    assert costs[0] < 0.2 * costs[1]


def test_a_unit_of_another_kind_names_itself():
    from onespike.errors import OnespikeError
    from onespike.units import ConvUnit, Unit

    network = create_model("conv12", image_size=16, **TINY)

    class Other(Unit):
        out_channels, travels = 6, False

        def __init__(self, inner: ConvUnit) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *arguments: object) -> object:
            return self.inner(*arguments)

    network.blocks()[0].unit = Other(network.blocks()[0].unit)
    with pytest.raises(OnespikeError, match="Other: the audit does not know which potentials"):
        count_operations(network, [torch.randn(1, 3, 16, 16)])


def test_neurons(conv12: Operations):
    assert len(conv12.neurons) == 24
    assert conv12.firing_rate == pytest.approx(sum(neurons.firing_rate for neurons in conv12.neurons) / 24)
    for neurons in conv12.neurons:
        assert 0 <= neurons.firing_rate <= 1
        assert neurons.threshold == 0.5
        assert list(neurons.potentials) == sorted(neurons.potentials)


@pytest.mark.slow
def test_exponents():
    assert fitted_exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)
    config = replace(model_config("mlp12"), depths=(1, 1), channels=(6, 8))
    size, width, depth = scaling(config, in_channels=3, image_size=16)
    assert size.exponent == pytest.approx(2, abs=0.06)  # each pixel costs the same; the head alone does not grow
    assert 1.8 < width.exponent < 2
    assert 0.8 < depth.exponent < 1
    # By hand, from one pair of points:
    assert size.macs[0] == count_operations(Network(config, 10, 3, 4), [torch.rand(1, 3, 4, 4)]).macs
    assert size.seconds == ()
    assert size.seconds_exponent is None


@pytest.mark.slow
def test_times_of_a_busy_machine_are_marked(monkeypatch):
    monkeypatch.setattr("onespike.clock._processors_seconds", lambda: 9 * time.perf_counter())
    config = replace(model_config("mlp12"), depths=(1,), channels=(6,))
    found = scaling(config, in_channels=3, image_size=4, time_it=True)
    assert all("others used" in one.busy for one in found)
    assert [one.busy for one in scaling(config, in_channels=3, image_size=4)] == [None] * len(found)


@pytest.mark.slow
def test_where_one_image_size_alone_suits_the_stem_there_is_no_exponent_of_it():
    config = replace(model_config("mlp12"), depths=(1,) * 6, channels=(2,) * 6)
    assert [one.axis for one in scaling(config, in_channels=1, image_size=64)] == ["width", "depth"]
