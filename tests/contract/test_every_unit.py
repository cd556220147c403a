"""What every registered spiking unit promises."""

import copy
import math

import pytest
import torch
from torch import nn

from onespike.functional import FUSIONS, SURROGATES, encode, partition, recompose
from onespike.neurons import NeuronConfig, base
from onespike.units import UNITS, Unit, UnitConfig
from tests.forward import losses_of
from tests.running import thorough

CHANNELS = 3
#: The output of a token layer is small, so its threshold is lower unless it stands here.
THRESHOLDS = {"conv": 0.5}

every_unit = pytest.mark.parametrize("name", list(UNITS))
every_side = pytest.mark.parametrize("side", [1, 3, 4])
# The compiler itself instantiates an autograd function, and is warned about it.
compiler_warning = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def make(name, fusion="sincos", kind="lif", **neuron):
    """A unit with weights so large, or a threshold so low, that many of its neurons fire."""
    torch.manual_seed(0)
    neuron.setdefault("threshold", THRESHOLDS.get(name, 0.05))
    unit = UNITS[name](CHANNELS, UnitConfig(NeuronConfig(kind, **neuron), fusion), nn.Identity)
    with torch.no_grad():
        for parameter in unit.parameters():
            if parameter.ndim > 1 and parameter.shape[-2:] != (1, 1):
                parameter.mul_(2)
    return unit


def input_spikes(side=4, batch=2, dtype=torch.float32):
    draws = torch.rand(4, batch, CHANNELS, side, side, generator=torch.Generator().manual_seed(1))
    return (draws < 0.5).to(dtype)


def run(unit, spikes, time_steps=1):
    """The outputs of all time steps on the same input, with potentials from a block before if the unit takes them."""
    outputs, memory, potential = [], None, None
    if unit.travels:
        shape = (*spikes.shape[:2], unit.out_channels, *spikes.shape[3:])
        potential = torch.linspace(-0.3, 0.7, math.prod(shape), dtype=spikes.dtype).sin().reshape(shape)
    for _ in range(time_steps):
        outputs.append(unit(spikes, potential, memory))
        memory = outputs[-1].memory
    return outputs


def tensors(output):
    """All that comes out of a unit at one time step."""
    maps = [output.spikes, *(tensor for layer in output.memory for tensor in layer)]
    return maps if output.potential is None else [*maps, output.potential]


def loss(output):
    total = output.spikes.sum()
    return total if output.potential is None else total + output.potential.sum()


@every_unit
@every_side
@pytest.mark.parametrize("time_steps", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_four_windows_of_spikes_go_in_and_four_windows_of_zeros_and_ones_come_out(
    name, side, time_steps, dtype, training
):
    unit = make(name).to(dtype).train(training)
    spikes = input_spikes(side, dtype=dtype)
    for output in run(unit, spikes, time_steps):
        assert isinstance(unit, Unit)
        assert output.spikes.shape[:3] == (4, 2, unit.out_channels)
        assert (output.potential is not None) == unit.travels
        assert output.spikes.shape[3:] == spikes.shape[3:]
        assert output.spikes.dtype == dtype
        assert ((output.spikes == 0) | (output.spikes == 1)).all()
        if output.potential is not None:
            assert output.potential.shape == output.spikes.shape
            assert output.potential.dtype == dtype
        for potential, fired in output.memory:
            assert potential.shape == fired.shape
            assert potential.dtype == fired.dtype == dtype


@every_unit
def test_the_spikes_are_neither_all_silent_nor_all_firing(name):
    assert 0.05 < run(make(name), input_spikes())[0].spikes.mean() < 0.95


@every_unit
@pytest.mark.parametrize("time_steps", [1, 3])
@pytest.mark.parametrize("learnable", ["none", "layer", "channel"])
def test_the_gradient_reaches_the_input_and_every_parameter(name, learnable, time_steps):
    unit = make(name, learnable_threshold=learnable, learnable_decay=learnable)
    spikes = input_spikes().requires_grad_()
    sum(map(loss, run(unit, spikes, time_steps))).backward()
    for label, leaf in {"spikes": spikes, **dict(unit.named_parameters())}.items():
        assert leaf.grad is not None, label
        assert leaf.grad.isfinite().all(), label
        assert leaf.grad.any(), label


@every_unit
def test_bf16_autocast_still_gives_whole_spikes_and_float32_gradients(name):
    unit = make(name)
    with torch.autocast("cpu", torch.bfloat16):
        output = run(unit, input_spikes(), time_steps=2)[-1]
    assert ((output.spikes == 0) | (output.spikes == 1)).all()
    loss(output).float().backward()
    for label, parameter in unit.named_parameters():
        assert parameter.grad.dtype == torch.float32, label
        assert parameter.grad.isfinite().all(), label
        assert parameter.grad.any(), label


@every_unit
def test_channels_last_input_gives_the_same_output_in_channels_last(name):
    unit, spikes = make(name), input_spikes()
    last = spikes.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, spikes.shape[:2])
    for plain, output in zip(run(unit, spikes, 2), run(unit, last, 2), strict=True):
        assert output.spikes.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
        for expected, tensor in zip(tensors(plain), tensors(output), strict=True):
            torch.testing.assert_close(tensor, expected)


@pytest.mark.slow
@every_unit
@compiler_warning
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of the compiler's, too
def test_a_compiled_unit_computes_the_same(name):
    unit, spikes = make(name).double(), input_spikes(dtype=torch.float64)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda spikes: run(unit, spikes, 2), fullgraph=name in ("conv", "mlp"), backend="aot_eager"
    )
    (last, gradients), (compiled_last, compiled_gradients) = (
        (tensors(outputs[-1]), torch.autograd.grad(sum(map(loss, outputs)), list(unit.parameters())))
        for outputs in (run(unit, spikes, 2), compiled(spikes))
    )
    torch.testing.assert_close(compiled_last, last, rtol=0, atol=1e-13)
    torch.testing.assert_close(compiled_gradients, gradients, rtol=1e-12, atol=1e-12)


@every_unit
def test_a_unit_has_no_state_outside_its_parameters_and_buffers(name):
    unit, spikes = make(name).eval(), input_spikes()
    before = copy.deepcopy(unit.state_dict())
    first, second = run(unit, spikes, 3), run(unit, spikes, 3)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))
    assert all(torch.equal(tensor, before[key]) for key, tensor in unit.state_dict().items())
    neuron = NeuronConfig(threshold=THRESHOLDS.get(name, 0.05))
    twin = UNITS[name](CHANNELS, UnitConfig(neuron), nn.Identity).eval()
    twin.load_state_dict(before)
    assert torch.equal(run(twin, spikes)[0].spikes, first[0].spikes)


@every_unit
def test_memory_changes_what_a_second_time_step_computes(name):
    first, second = run(make(name).double(), input_spikes(dtype=torch.float64), 2)
    assert not all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


@every_unit
def test_an_image_knows_nothing_of_the_others_in_its_batch(name):
    unit, spikes = make(name).double().eval(), input_spikes(batch=3, dtype=torch.float64)
    torch.testing.assert_close(tensors(unit(spikes[:, 1:2])), [maps[:, 1:2] for maps in tensors(unit(spikes))])


@every_unit
def test_a_window_knows_nothing_of_the_windows_behind_it(name):
    unit, spikes = make(name).double().eval(), input_spikes(dtype=torch.float64)
    changed = spikes.clone()
    changed[2:] = 1 - changed[2:]
    for maps, others in zip(tensors(unit(spikes)), tensors(unit(changed)), strict=True):
        torch.testing.assert_close(maps[:2], others[:2])
        assert not torch.equal(maps[2:], others[2:])


@every_unit
def test_with_fusion_none_a_window_knows_nothing_of_the_others_at_all(name):
    unit, spikes = make(name, fusion="none").double().eval(), input_spikes(dtype=torch.float64)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(tensors(unit(spikes[order])), [maps[order] for maps in tensors(unit(spikes))])


class Windowed(nn.Module):
    """Somebody's own layer around a unit: a map in, a map out."""

    def __init__(self, unit):
        super().__init__()
        self.unit = unit

    def forward(self, x):
        windows = encode(partition(x, "average"), "threshold")
        return recompose(self.unit(windows).spikes, x.shape[-1], "average")


@every_unit
def test_a_unit_trains_inside_a_network_of_somebody_elses(name):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, padding=1),
        Windowed(make(name)),
        nn.Flatten(),
        nn.LazyLinear(2),
    )
    images, labels = torch.randn(8, 1, 7, 7), torch.tensor([0, 1] * 4)
    network(images)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = losses_of(network, images, labels, optimizer, steps=40)
    assert losses[-1] < losses[0] / 2


def leaves(unit):
    """Input and potentials to differentiate by, in float64, with a batch of one image."""
    spikes = input_spikes(side=2, batch=1, dtype=torch.float64).requires_grad_()
    if not unit.travels:
        return [spikes]
    potential = torch.randn(
        4, 1, unit.out_channels, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    return [spikes, potential.requires_grad_()]


@every_unit
@pytest.mark.parametrize("fusion", thorough(sorted(FUSIONS, key="sincos".__ne__), 1))
def test_without_the_threshold_the_gradients_are_those_of_finite_differences(name, fusion):
    unit = make(name, fusion, kind="relu").double()
    given = leaves(unit)

    def outputs(*values):
        output = unit(*values[: len(given)])
        return output.spikes, *(potential for potential, _ in output.memory)

    assert torch.autograd.gradcheck(outputs, (*given, *unit.parameters()))


@every_unit
@pytest.mark.parametrize("surrogate", list(SURROGATES))
def test_at_the_threshold_the_gradient_is_the_surrogates_formula(name, surrogate, monkeypatch):
    unit = make(name, surrogate=surrogate, surrogate_width=1.7).double()
    given = leaves(unit)
    wanted = [*given, *unit.parameters()]
    expected_spikes = unit(*given).spikes
    gradients = torch.autograd.grad(expected_spikes.square().sum(), wanted)

    def linear(potential, threshold, surrogate):  # a line through each spike, as steep as the formula says
        slope = SURROGATES[surrogate.name]((potential.detach() - threshold) / 1.7) / 1.7
        return (potential.detach() > threshold) + slope * (potential - potential.detach())

    monkeypatch.setattr(base, "spike", linear)
    spikes = unit(*given).spikes
    assert torch.equal(spikes, expected_spikes)
    by_hand = torch.autograd.grad(spikes.square().sum(), wanted)
    assert any(gradient.any() for gradient in by_hand)
    torch.testing.assert_close(gradients, by_hand, rtol=1e-12, atol=1e-12)
