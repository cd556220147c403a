"""The convolutional unit: four windows at once against the plain implementation's loop, and numbers by hand."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onespike.models import OnespikeConfig
from onespike.neurons import NeuronConfig
from onespike.units import ConvUnit, UnitConfig
from tests.reference.plain_units import PlainConvUnit

FUSIONS = ["sincos", "sinsum", "nested", "mean", "sum", "none"]
RESETS = ["none", "zero", "subtract"]
CHANNELS, SIDE = 3, 5


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_unit(config, norm=nn.Identity):
    """A unit in which about half of the neurons fire, each layer with constants of its own where they are learnable."""
    torch.manual_seed(0)
    unit = ConvUnit(CHANNELS, config, norm).eval()
    with torch.no_grad():
        for name, parameter in unit.named_parameters():
            if name.startswith("conv"):
                parameter.normal_(0.02, 0.4)
            else:
                parameter.add_(torch.empty_like(parameter).uniform_(-0.3, 0.3))
        for name, buffer in unit.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.empty_like(buffer).uniform_(-0.3, 0.3))
    return unit


def input_spikes(time_steps, side=SIDE):
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(time_steps, 4, 2, CHANNELS, side, side, generator=generator)
    return (draws < 0.4).double().requires_grad_()


def check_against_the_loop(time_steps, norm=nn.Identity, **options):
    config = OnespikeConfig(time_steps=2, norm="none" if norm is nn.Identity else "batch", **options)
    unit, plain, steps = make_unit(config.units, norm), PlainConvUnit(CHANNELS, config).eval(), input_spikes(time_steps)
    plain.load_state_dict(unit.state_dict())
    seen = {plain.neuron1: [], plain.neuron2: []}
    for neuron, windows in seen.items():  # potentials and spikes, window after window
        neuron.register_forward_hook(lambda _, inputs, spikes, windows=windows: windows.append((inputs[0], spikes)))
    generator = torch.Generator().manual_seed(2)
    losses, memory, kept = [0.0, 0.0], None, []
    for windows in steps:
        spikes, potential, memory = unit(windows, None, memory)
        assert potential is None, "this unit hands nothing to the next block"
        plain_spikes, _, kept = plain(windows, None, kept)
        assert torch.equal(spikes, torch.stack(plain_spikes))
        plain_memory = [[torch.stack(maps) for maps in zip(*layer[-4:], strict=True)] for layer in seen.values()]
        for (v, s), (plain_v, plain_s) in zip(memory, plain_memory, strict=True):
            assert torch.equal(s, plain_s)
            assert 0.1 < s.mean() < 0.9, "the comparison would say little of neurons that never or always fire"
            torch.testing.assert_close(v, plain_v, rtol=0, atol=1e-12)
        weight = torch.randn(spikes.shape, generator=generator)
        for number, (_, (v, s)) in enumerate((memory, plain_memory)):
            losses[number] += (weight * (s + v)).sum()
    leaves, plain_leaves = ({"spikes": steps, **dict(one.named_parameters())} for one in (unit, plain))
    gradients = torch.autograd.grad(losses[0], [leaves[name] for name in plain_leaves], retain_graph=True)
    plain_gradients = torch.autograd.grad(losses[1], [*plain_leaves.values()])
    for name, gradient, expected in zip(plain_leaves, gradients, plain_gradients, strict=True):
        assert expected.any(), name
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("time_steps", [1, 3])
@pytest.mark.parametrize(
    ("fusion", "reset"), [pair for pair in product(FUSIONS, RESETS) if pair[0] != "none" or pair[1] == "none"]
)
def test_four_windows_at_once_are_four_windows_one_after_the_other(fusion, reset, time_steps):
    check_against_the_loop(time_steps, neuron=NeuronConfig(reset=reset), fusion=fusion, theta=0.7)


@pytest.mark.parametrize("time_steps", [1, 3])
@pytest.mark.parametrize("learnable", ["layer", "channel"])
@pytest.mark.parametrize("reset", RESETS)
def test_so_they_are_with_learnable_thresholds_and_decays(reset, learnable, time_steps):
    neuron = NeuronConfig(reset=reset, learnable_threshold=learnable, learnable_decay=learnable)
    check_against_the_loop(time_steps, neuron=neuron)


@pytest.mark.parametrize("time_steps", [1, 3])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_so_they_are_with_batch_normalisation_in_evaluation(fusion, time_steps):
    check_against_the_loop(time_steps, nn.BatchNorm2d, fusion=fusion)


@pytest.mark.parametrize(
    "options",
    [
        {"neuron": NeuronConfig(threshold=0.8)},
        {"neuron": NeuronConfig(decay=0.9)},
        {"neuron": NeuronConfig(decay=0)},
        {"theta": 1},
    ],
)
def test_so_they_are_with_other_constants(options):
    check_against_the_loop(2, **options)


def test_window_statistics_of_batch_normalisation_span_all_windows():
    unit, spikes = make_unit(UnitConfig(), nn.BatchNorm2d).train(), input_spikes(1)[0]
    unit.norm1.reset_running_stats()
    unit(spikes)
    currents = torch.stack([F.conv2d(window, unit.conv1.weight, unit.conv1.bias, padding=1) for window in spikes])
    torch.testing.assert_close(unit.norm1.running_mean, 0.1 * currents.mean((0, 1, 3, 4)))
    torch.testing.assert_close(unit.norm1.running_var, 0.9 + 0.1 * currents.var((0, 1, 3, 4), unbiased=True))


def by_hand(fusion):
    """One channel, windows of one pixel: conv1 is 0.6 s + 0.1, conv2 is 0.3 s + 0.15; threshold 0.5, decay 0.4."""
    unit = ConvUnit(1, UnitConfig(fusion=fusion))
    with torch.no_grad():
        for conv, weight, bias in ((unit.conv1, 0.6, 0.1), (unit.conv2, 0.3, 0.15)):
            conv.weight.fill_(9)  # only the centre of the kernel meets the pixel
            conv.weight[..., 1, 1] = weight
            conv.bias.fill_(bias)
    return unit, torch.tensor([1.0, 0.0, 1.0, 1.0]).view(4, 1, 1, 1, 1)


def numbers(output):
    (v1, s1), (v2, s2) = output.memory
    assert torch.equal(output.spikes, s2)
    return [maps.flatten().tolist() for maps in (v1, s1, v2, s2)]


def test_four_windows_of_one_pixel_by_hand():
    unit, windows = by_hand("mean")
    v1, s1, v2, s2 = numbers(unit(windows))
    # conv1:           0.7                 0.1           0.7                  0.7
    # V1:    0.7,   0.1 + 0.4*0.7,   0.7 + 0.4*0.38,   0.7 + 0.4*0.852
    assert v1 == pytest.approx([0.7, 0.38, 0.852, 1.0408])
    assert s1 == [1, 0, 1, 1]
    # conv2:           0.45                0.15          0.45                 0.45
    # mean of the window before:  (0.7 + 0.45)/2 = 0.575,  (0.38 + 0.38)/2 = 0.38,  (0.852 + 0.602)/2 = 0.727
    # V2:    0.45,  0.15 + 0.4*0.575,  0.45 + 0.4*0.38,  0.45 + 0.4*0.727
    assert v2 == pytest.approx([0.45, 0.38, 0.602, 0.7408])
    assert s2 == [0, 0, 1, 1]


def test_the_bounded_projection_by_hand():
    unit, windows = by_hand("sincos")
    v1, _, v2, s2 = numbers(unit(windows))
    assert v1 == pytest.approx([0.7, 0.38, 0.852, 1.0408]), "no fusion in layer 1"
    # Omega(0.7, 0.45)      = 2 sin(pi/4 * 0.7) cos(pi/4 * 0.45)      = 2 * 0.52250 * 0.93819 = 0.98041
    # V2[2] = 0.15 + 0.4 * 0.98041 = 0.54216
    # Omega(0.38, 0.54216)  = 2 sin(pi/4 * 0.38) cos(pi/4 * 0.54216)  = 2 * 0.29404 * 0.91070 = 0.53557
    # V2[3] = 0.45 + 0.4 * 0.53557 = 0.66423
    # Omega(0.852, 0.66423) = 2 sin(pi/4 * 0.852) cos(pi/4 * 0.66423) = 2 * 0.62033 * 0.86698 = 1.07562
    # V2[4] = 0.45 + 0.4 * 1.07562 = 0.88025
    assert v2 == pytest.approx([0.45, 0.54216, 0.66423, 0.88025], abs=1e-5)
    assert s2 == [0, 1, 1, 1]


def test_a_second_time_step_by_hand():
    unit, windows = by_hand("mean")
    v1, s1, v2, s2 = numbers(unit(windows, None, unit(windows).memory))
    # What layer 1 kept, 0 where it fired:        0        0.38         0        0
    # V1: 0.7,   0.1 + 0.4*0.7 + 0.4*0.38,   0.7 + 0.4*0.532,   0.7 + 0.4*0.9128
    assert v1 == pytest.approx([0.7, 0.532, 0.9128, 1.06512])
    assert s1 == [1, 1, 1, 1]
    # What layer 2 kept:                          0.45     0.38         0        0
    # V2: 0.45 + 0.4*0.45,  0.45 + 0.4*(0.7 + 0.63)/2 + 0.4*0.38,  0.45 + 0.4*(0.532 + 0.868)/2,
    #     0.45 + 0.4*(0.9128 + 0.73)/2
    assert v2 == pytest.approx([0.63, 0.868, 0.73, 0.77856])
    assert s2 == [1, 1, 1, 1]


def test_potentials_start_at_zero_in_every_block():
    unit, spikes = make_unit(UnitConfig()), input_spikes(1)[0]
    alone, beside = unit(spikes), unit(spikes, torch.randn(spikes.shape))
    assert torch.equal(alone.memory[1][0], beside.memory[1][0])
