"""Energy by hand, from constants that are in the test."""

from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn

from onespike import convert
from onespike.audit import audit
from onespike.audit.report import compare
from onespike.audit.result import Audit
from onespike.counting.energy import CONVENTIONS, DEFAULT, VARIANTS, Energy, EnergyTable
from onespike.counting.operations import Layer, Operations, count_operations
from onespike.counting.products import Product
from onespike.errors import OnespikeError
from onespike.models import create_model
from onespike.units import Traffic
from tests.forward import Forward


def audit_of(layer: nn.Module, x: torch.Tensor, **rest: object) -> Audit:
    return Audit("one", count_operations(layer, [x]), EnergyTable.load(), **rest)


def near(value: float) -> object:
    return pytest.approx(value, rel=1e-6, abs=0)  # picojoules: the default tolerance would forgive anything


SPIKES = torch.tensor([[1.0, 0, 0, 1], [1.0, 0, 0, 0]])  # 1.5 spikes per image
REAL = torch.tensor([[0.1, 0.27, 0.333, 0.4], [1.0, 0, 0, 0]])


def test_the_fields_convention():
    spiking, real = audit_of(nn.Linear(4, 10), SPIKES), audit_of(nn.Linear(4, 10), REAL)
    assert spiking.energy("field").total == near(15 * 0.9e-12)
    assert spiking.energy("field", "binary") == spiking.energy("field")
    assert spiking.energy("field", "ann").total == near(40 * 4.6e-12)
    assert real.energy("field").total == near(40 * 4.6e-12)
    assert real.energy("field").spikes == 0


def test_eight_bits():
    assert audit_of(nn.Linear(4, 10), SPIKES).energy("int8").total == near(15 * 0.1e-12)
    assert audit_of(nn.Linear(4, 10), REAL).energy("int8").total == near(40 * 0.3e-12)


def test_memory():
    energy = audit_of(nn.Linear(4, 10), SPIKES).energy("memory")
    access = 10e-12 / 64  # of one bit of a small memory
    assert energy.storage == near(40 * 8 * access)
    assert energy.weights == near(15 * 8 * access)
    assert energy.activations == near(2 * 4 * 1 * access)
    assert energy.spikes == near(15 * 0.1e-12)
    real = audit_of(nn.Linear(4, 10), REAL).energy("memory")
    assert real.activations == near(2 * 4 * 8 * access)
    assert real.weights == near(40 * 8 * access)


@pytest.mark.parametrize(
    ("levels", "spikes", "bits"), [((0, 0.25, 0.5, 1), 7, 3), ((0, 0.5, 0, -0.5), 2, 2), ((-1, -0.5, 0, 1.5), 6, 3)]
)
def test_graded_and_signed_spikes_take_the_bits_of_their_levels(levels, spikes, bits):
    audit = audit_of(nn.Linear(4, 10), torch.tensor([levels]))
    assert audit.energy("field").total == near(spikes * 10 * 0.9e-12)
    assert audit.energy("memory").activations == near(2 * 4 * bits * 10e-12 / 64)


def matmul() -> nn.Module:
    return Forward(lambda _, x: x[:, 0] @ x[:, 1])


def test_two_matrices_of_spikes_cost_what_meets():
    x = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [0.0, 1.0]]]])
    audit = audit_of(matmul(), x)
    assert audit.operations.macs == 8  # of which 2 * 2 and 1 * 1 are of two spikes; three quarters of each side are
    assert audit.energy("field") == Energy(spikes=near(5 * 0.9e-12))
    assert audit.energy("int8") == Energy(spikes=near(5 * 0.1e-12))
    bit = 10e-12 / 64  # both are written and read, a bit for each value, and none is a weight that is stored
    expected = Energy(spikes=near(5 * 0.1e-12), weights=near(5 * 8 * bit), activations=near(2 * 8 * bit))
    assert audit.energy("memory") == expected


def test_two_matrices_of_which_one_is_real_take_the_bits_of_real_numbers():
    pairs = torch.stack([SPIKES, SPIKES])[..., None, :].expand(2, 2, 4, 4).clone()
    pairs[:, 1] *= torch.rand(4, 4)
    assert audit_of(matmul(), pairs).energy("memory").activations == near(2 * 32 * 8 * 10e-12 / 64)


def test_the_twins_of_a_network_that_hands_potentials_on():
    spikes = Product("linear 4 -> 10", "binary", 1.0, 1, False, 0.25, 40, 36, 12, 9, 4, 40, None, False, 1)
    unit = Layer("unit", "Unit", (spikes,), {"add": 6}, Traffic(3, 5), handing=True)
    merging = Layer("merging", "ChannelLinear", (spikes,), {"add": 7}, Traffic(0, 0), handing=False, merging=True)
    behind = Layer("neuron", "LIF", (spikes,), {"compare": 2}, Traffic(8, 8), handing=False)
    operations, table = Operations(1, (unit, merging, behind), (), 40, steps=3), EnergyTable.load()
    fields = {"field": (40 * 0.25 * 0.9e-12, 40 * 4.6e-12), "int8": (40 * 0.25 * 0.1e-12, 40 * 0.3e-12)}
    for convention, (sparse, dense) in fields.items():
        assert table.network(operations, convention) == Energy(spikes=near(3 * sparse))
        assert table.network(operations, convention, "binary") == Energy(spikes=near(2 * sparse))
        assert table.network(operations, convention, "ann") == Energy(real=near(2 * dense))
    bit = 10e-12 / 64
    own = {"spikes": 9 * 0.1e-12, "weights": 9 * 8 * bit, "activations": 2 * 4 * bit, "storage": 40 * 8 * bit}
    dense = {"real": 36 * 0.3e-12, "weights": 36 * 8 * bit, "activations": 2 * 4 * 8 * bit, "storage": 40 * 8 * bit}
    times = {number: {key: number * value for key, value in own.items()} for number in (2, 3)}
    twins = {
        "network": times[3] | {"elementwise": 15 * 0.4e-12, "potentials": 24 * 16 * bit},
        "binary": times[2] | {"elementwise": 2 * 0.4e-12, "potentials": 16 * 16 * bit},  # its neurons' own
        "ann": {key: 2 * value for key, value in dense.items()} | {"elementwise": 2 * 0.4e-12},
    }
    for variant, parts in twins.items():
        found = table.network(operations, "memory", variant)
        assert found == Energy(**{key: near(value) for key, value in parts.items()}), variant


def test_a_twin_of_a_block_has_no_unit():
    network = create_model("conv-tiny", depths=(1,), channels=(4,), image_size=16, time_steps=2).eval()
    operations, table = count_operations(network, [torch.rand(1, 3, 16, 16)]), EnergyTable.load()
    (unit,) = [layer for layer in operations.layers if layer.handing]
    assert unit.path == "layers.0.unit"
    rest = replace(operations, layers=tuple(layer for layer in operations.layers if layer is not unit))
    for variant in ("binary", "ann"):
        found = table.network(operations, "memory", variant)
        assert (found, found.potentials) == (table.network(rest, "memory", variant), 0)
    assert table.network(operations, "memory").potentials > 0


def test_the_prices_are_those_that_were_published():
    """Horowitz, ISSCC 2014, 45 nm; and what the package assumes beside them."""
    table = EnergyTable.load()
    assert table.operations == {"fp32": {"multiply": 3.7, "add": 0.9}, "int8": {"multiply": 0.2, "add": 0.1}}
    assert table.elementwise == {"add": 0.4, "multiply": 1.1, "compare": 0.4, "special": 12, "random": 0.3}
    sizes = {8192: 10, 32768: 20, 1048576: 100, None: 1300}
    assert (table.width, {size: access for _, size, access in table.levels}) == (64, sizes)
    assert table.bits == {"weight": 8, "real": 8, "potential": 16}
    sections = {"operations.fp32", "operations.int8", "elementwise", "memory", "bits"}
    assert {section for section, source in table.sources.items() if source} == sections


def test_every_number_of_a_file_has_its_own_part_in_the_energy():
    """No two numbers are alike; all weights together are too many for the smallest memory, those of a layer are not."""
    prices = {"fp32": {"multiply": 2.0, "add": 3.0}, "int8": {"multiply": 5.0, "add": 7.0}}
    work = {"add": 11.0, "multiply": 13.0, "compare": 17.0, "special": 19.0, "random": 23.0}
    bits = {"weight": 5.0, "real": 6.0, "potential": 9.0}
    table = EnergyTable(prices, work, 32, (("small", 1000, 29.0), ("large", None, 31.0)), bits, {}, "mine")
    spikes = Product("linear", "binary", 1.0, 1, False, 0.25, 40, 36, 12, 9, 4, 1000, None, False, 1)
    real = Product("linear", "real", None, 0, False, 0.5, 50, 45, 22, 45, 8, 1001, None, False, 1)
    counts = {"add": 2.0, "multiply": 3.0, "compare": 5.0, "special": 7.0, "random": 11.0}
    unit = Layer("unit", "Unit", (spikes,), counts, Traffic(3, 5), handing=True)
    operations = Operations(1, (unit, Layer("head", "Linear", (real,), {}, Traffic(0, 0), handing=False)), (), 2001)
    assert table.network(operations, "field") == Energy(real=near(50 * 5e-12), spikes=near(40 * 0.25 * 3e-12))
    assert table.network(operations, "int8") == Energy(real=near(50 * 12e-12), spikes=near(40 * 0.25 * 7e-12))
    small, large = 29e-12 / 32, 31e-12 / 32  # for a bit; 2001 weights of 5 bits are 1251 bytes, and 1000 are 625
    parts = {"real": 45 * 12e-12, "spikes": 9 * 7e-12, "storage": 2001 * 5 * large, "weights": (9 + 45) * 5 * small}
    parts |= {"activations": 2 * (4 * 1 + 8 * 6) * small, "potentials": (3 + 5) * 9 * small}
    parts["elementwise"] = (2 * 11 + 3 * 13 + 5 * 17 + 7 * 19 + 11 * 23) * 1e-12
    assert table.network(operations, "memory") == Energy(**{key: near(value) for key, value in parts.items()})


def test_large_weights_lie_in_large_memories():
    table = EnergyTable.load()
    access = {held: table.transfer(1, 64, held) for held in (8192, 8193, 32769, 1048577)}
    assert access == {8192: 10, 8193: 20, 32769: 100, 1048577: 1300}


def test_what_one_step_keeps_for_the_next_lies_in_the_memory_that_holds_one_step():
    network = create_model("spiking-vgg-xs", image_size=32, width=8, time_steps=8).eval()
    operations, table = count_operations(network, [torch.rand(2, 3, 32, 32)]), EnergyTable.load()
    assert operations.steps == 8
    kept = [layer.potentials for layer in operations.layers if layer.potentials.writes]
    expected = sum(table.transfer(one.reads + one.writes, 16, one.writes * 2 / 7) for one in kept)
    found, all_at_once = (table.network(one, "memory") for one in (operations, replace(operations, steps=1)))
    assert found.potentials == near(1e-12 * expected)
    assert found.potentials < all_at_once.potentials
    assert found.activations <= all_at_once.activations


@pytest.mark.slow
def test_real_inputs_of_every_step_lie_in_the_memory_that_holds_one_step():
    table = EnergyTable.load()
    networks = {
        "layers.0.conv": create_model("spiking-vgg11", time_steps=4),
        "layers.0.mlp.1": create_model("conv12", preset="modern", time_steps=4),
    }
    found = {}
    for path, network in networks.items():
        operations = count_operations(network.eval(), [torch.rand(1, 3, 32, 32)])
        (layer,) = [one for one in operations.layers if one.path == path]
        assert [(one.arrives, one.time_steps) for one in layer.products] == [("real", 4)]
        found[path] = table.layer(layer, operations, "memory", "network").activations
    # Written and read at each of 4 steps, in words of 8 bytes: 3,072 bytes at 10 pJ, 12,288 bytes at 20 pJ.
    assert found["layers.0.conv"] == near(2 * 4 * 3072 / 8 * 10e-12)
    assert found["layers.0.mlp.1"] == near(2 * 4 * 12288 / 8 * 20e-12)


def converted() -> nn.Module:
    artificial = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    return convert(artificial, torch.rand(8, 3, 8, 8), time_steps=4).network


def over_time() -> nn.Module:
    return create_model("spiking-resnet-xs", width=8, time_steps=4)


@pytest.mark.parametrize(
    ("make", "shape", "steps"),
    [(over_time, (1, 3, 32, 32), 1), (over_time, (4, 1, 3, 32, 32), 4), (converted, (2, 3, 8, 8), 4)],
    ids=["still image", "frames", "converted"],
)
def test_a_stem_runs_once_or_at_each_step(make, shape, steps):
    images = torch.rand(shape)
    operations = count_operations(make().eval(), [images, images])
    assert operations.steps == 4
    first, *others = operations.products
    assert (first.arrives, first.time_steps) == ("real", steps)
    assert {one.time_steps for one in others if one.arrives != "real"} == {4}


def test_what_a_unit_writes_at_each_step_lies_in_the_memory_that_holds_one_step():
    network, table = create_model("conv12", preset="modern", time_steps=2).eval(), EnergyTable.load()
    block = network.layers[7]
    assert (block.window_kind, block.size, block.unit.out_channels) == ("dilated", 4, 192)
    operations = count_operations(network, [torch.rand(1, 3, 32, 32)])
    (layer,) = [one for one in operations.layers if one.path == "layers.7.unit"]
    # 4 windows of 3x3, of which 3 are handed on at both steps, and the last is kept for the second; 2 layers.
    window = 9 * 192
    assert layer.potentials == ((2 * 3 * 3 + 2 * 4) * window, (2 * 3 + 1) * 2 * window)
    # Of 2 bytes, 24,192 at each step: 20 pJ for 8 bytes.
    found = table.layer(layer, operations, "memory", "network").potentials
    assert found == near(sum(layer.potentials) * 2 / 8 * 20e-12)


def test_frames_of_another_number_than_the_configs_are_the_time_steps():
    network = create_model("spiking-vgg11")
    assert network.config.time_steps == 4
    assert audit(network, [torch.rand(2, 4, 3, 32, 32)]).operations.steps == 2


def test_the_parts_add_up():
    audit = audit_of(nn.Sequential(nn.Linear(4, 10), nn.GELU(), nn.Linear(10, 3)), SPIKES)
    content = audit.to_json()
    for convention in CONVENTIONS:
        whole = content["energy"][convention]["network"]
        assert whole["total"] == near(sum(value for key, value in whole.items() if key != "total"))
        assert whole["total"] == near(sum(layer["energy"][convention]["total"] for layer in content["layers"]))
    assert set(content["energy"]["field"]) == set(VARIANTS)
    assert content["energy"]["memory"]["network"]["elementwise"] == near(10 * 12e-12)


def changed(tmp_path, change) -> str:
    content = yaml.safe_load(DEFAULT.read_text())
    change(content)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    return str(file)


def test_a_file_of_ones_own(tmp_path):
    file = changed(tmp_path, lambda content: content["operations"]["fp32"].update(add=9.0))
    table = EnergyTable.load(file)
    assert table.file == file
    assert Audit("one", count_operations(nn.Linear(4, 10), [SPIKES]), table).energy("field").total == near(135e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["operations"]["fp32"].update(ad=1), r"unknown key in .*operations\.fp32\.ad.*did you mean"),
        (lambda c: c["elementwise"].pop("special"), r"elementwise\.special is missing"),
        (lambda c: c["operations"]["int8"].update(add="cheap"), r"operations\.int8\.add: expected a number"),
        (lambda c: c["operations"]["int8"].update(add=-1), r"operations\.int8\.add: expected a number of at least 0"),
        (lambda c: c["operations"]["int8"].update(source=""), r"operations\.int8\.source: expected a text"),
        (lambda c: c["operations"]["int8"].update(source=5), r"operations\.int8\.source: expected a text, got 5"),
        (lambda c: c["memory"].update(width=0), r"memory\.width: expected a number of bits of at least 1"),
        (lambda c: c["memory"].update(levels=[]), r"memory\.levels: expected a list"),
        (lambda c: c["memory"]["levels"].reverse(), r"memory\.levels: expected them from small to large"),
        (lambda c: c["memory"]["levels"][0].update(bytes=32769), r"memory\.levels: expected them from small to large"),
        (lambda c: c["memory"]["levels"][0].update(bytes=None), r"memory\.levels: .* the last with bytes: null"),
        (lambda c: c["memory"]["levels"][-1].update(bytes=10**15), r"memory\.levels: .* the last with bytes: null"),
        (lambda c: c["bits"].update(real=float("inf")), r"bits\.real: expected a number of at least 0, got inf"),
        (lambda c: c["memory"]["levels"][0].update(bytes=0.5), r"memory\.levels\.0\.bytes: expected a number of bytes"),
        (lambda c: c.update(bits=8), r"mine\.yaml: bits: expected weight"),
    ],
)
def test_a_file_that_is_wrong(tmp_path, change, message):
    with pytest.raises(OnespikeError, match=message):
        EnergyTable.load(changed(tmp_path, change))


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_file_that_is_none(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(OnespikeError, match=r"mine\.yaml"):
        EnergyTable.load(file)


def test_no_ratio_without_both_accuracies():
    known = audit_of(nn.Linear(4, 10), SPIKES, accuracy=90.0)
    other = audit_of(nn.Linear(4, 10), REAL, accuracy=91.0)
    made, refused = compare([known, other])
    assert made[0].accuracies == (90, 91)
    assert made[0].ratios["field"] == near(40 * 4.6 / (15 * 0.9))
    assert not refused
    for pair in ([known, audit_of(nn.Linear(4, 10), REAL)], [audit_of(nn.Linear(4, 10), REAL), known]):
        made, refused = compare(pair)
        assert not made
        assert "accuracy" in refused[0]
    made, refused = compare([known, audit_of(nn.Linear(4, 10), REAL, accuracy=1.0, data="others")])
    assert not made
    assert "different images" in refused[0]
