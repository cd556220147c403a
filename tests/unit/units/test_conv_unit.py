"""The convolutional unit: four windows at once against a loop, window after window, and against numbers by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onespike.neurons import NeuronConfig
from onespike.units import ConvUnit, UnitConfig

FUSIONS = {
    "sincos": lambda x, y, theta: 2 * (theta * torch.pi / 2 * x).sin() * (theta * torch.pi / 2 * y).cos(),
    "sinsum": lambda x, y, theta: (theta * torch.pi / 2 * (x + y)).sin(),
    "nested": lambda x, y, theta: 2 * (theta * torch.pi / 2 * x * (theta * torch.pi / 2 * y).cos()).sin(),
    "mean": lambda x, y, _: (x + y) / 2,
    "sum": lambda x, y, _: x + y,
}
RESETS = {
    "none": lambda v, s, threshold: v,  # noqa: ARG005
    "zero": lambda v, s, threshold: v * (1 - s),  # noqa: ARG005
    "subtract": lambda v, s, threshold: v - threshold * s,
}
CHANNELS, SIDE = 3, 5


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def fire(v, threshold):
    """A step whose derivative is that of the ramp from threshold - 1/2 to threshold + 1/2."""
    ramp = (v - threshold).clamp(-0.5, 0.5)
    return (v > threshold).to(v.dtype) + (ramp - ramp.detach())


def normalise(x, norm):
    if isinstance(norm, nn.Identity):
        return x
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return x * scale.view(-1, 1, 1) + (norm.bias - norm.running_mean * scale).view(-1, 1, 1)


def one_window_after_the_other(unit, steps, config):
    """The equations of the unit as written, for one window of one time step after the other.

    Returns what the unit returns, for each time step: S2, and (V1, S1), (V2, S2), each (V, B, C, M, M).
    """
    conv1, conv2, neuron1, neuron2 = unit.conv1, unit.conv2, unit.neuron1, unit.neuron2
    reset = RESETS[config.neuron.reset]
    outputs, kept1, kept2 = [], [0.0] * 4, [0.0] * 4
    for windows in steps:
        trace, handed1, handed2 = [], None, None
        for v in range(4):
            if handed1 is None or config.fusion == "none":
                p1, p2 = 0.0, 0.0
            else:
                p1, p2 = handed1, FUSIONS[config.fusion](handed1, handed2, config.theta)
            i1 = normalise(F.conv2d(windows[v], conv1.weight, conv1.bias, padding=1), unit.norm1)
            v1 = neuron1.decay * p1 + neuron1.decay * kept1[v] + i1
            s1 = fire(v1, neuron1.threshold)
            i2 = normalise(F.conv2d(s1, conv2.weight, conv2.bias, padding=1), unit.norm2)
            v2 = neuron2.decay * p2 + neuron2.decay * kept2[v] + i2
            s2 = fire(v2, neuron2.threshold)
            handed1, handed2 = reset(v1, s1, neuron1.threshold), reset(v2, s2, neuron2.threshold)
            kept1[v], kept2[v] = v1 * (1 - s1), v2 * (1 - s2)
            trace.append((v1, s1, v2, s2))
        v1, s1, v2, s2 = (torch.stack(maps) for maps in zip(*trace, strict=True))
        outputs.append((s2, ((v1, s1), (v2, s2))))
    return outputs


def all_windows_at_once(unit, steps):
    outputs, memory = [], None
    for windows in steps:
        spikes, potential, memory = unit(windows, None, memory)
        assert potential is None, "this unit hands nothing to the next block"
        outputs.append((spikes, memory))
    return outputs


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


def check_against_the_loop(config, time_steps, norm=nn.Identity):
    unit, steps = make_unit(config, norm), input_spikes(time_steps)
    at_once = all_windows_at_once(unit, steps)
    in_turn = one_window_after_the_other(unit, steps, config)
    generator = torch.Generator().manual_seed(2)
    losses = [0.0, 0.0]
    for (spikes, memory), (plain_spikes, plain_memory) in zip(at_once, in_turn, strict=True):
        assert torch.equal(spikes, plain_spikes)
        for (v, s), (plain_v, plain_s) in zip(memory, plain_memory, strict=True):
            assert torch.equal(s, plain_s)
            assert 0.1 < s.mean() < 0.9, "the comparison would say little of neurons that never or always fire"
            torch.testing.assert_close(v, plain_v, rtol=0, atol=1e-12)
        weight = torch.randn(spikes.shape, generator=generator)
        losses[0] += (weight * (spikes + memory[1][0])).sum()
        losses[1] += (weight * (plain_spikes + plain_memory[1][0])).sum()
    leaves = {"spikes": steps, **dict(unit.named_parameters())}
    gradients, plain_gradients = (
        torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, retain_graph=True) for loss in losses
    )
    for name, gradient, plain in zip(leaves, gradients, plain_gradients, strict=True):
        assert plain is not None, name
        assert plain.any(), name
        torch.testing.assert_close(
            gradient, plain, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("time_steps", [1, 3])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("fusion", [*FUSIONS, "none"])
def test_four_windows_at_once_are_four_windows_one_after_the_other(fusion, reset, time_steps):
    check_against_the_loop(UnitConfig(NeuronConfig(reset=reset), fusion, theta=0.7), time_steps)


@pytest.mark.parametrize("time_steps", [1, 3])
@pytest.mark.parametrize("learnable", ["layer", "channel"])
@pytest.mark.parametrize("reset", RESETS)
def test_so_they_are_with_learnable_thresholds_and_decays(reset, learnable, time_steps):
    config = UnitConfig(NeuronConfig(reset=reset, learnable_threshold=learnable, learnable_decay=learnable))
    check_against_the_loop(config, time_steps)


@pytest.mark.parametrize("time_steps", [1, 3])
@pytest.mark.parametrize("fusion", [*FUSIONS, "none"])
def test_so_they_are_with_batch_normalisation_in_evaluation(fusion, time_steps):
    check_against_the_loop(UnitConfig(fusion=fusion), time_steps, nn.BatchNorm2d)


@pytest.mark.parametrize(
    "config",
    [
        UnitConfig(NeuronConfig(threshold=0.8)),
        UnitConfig(NeuronConfig(decay=0.9)),
        UnitConfig(NeuronConfig(decay=0)),
        UnitConfig(theta=1),
    ],
)
def test_so_they_are_with_other_constants(config):
    check_against_the_loop(config, time_steps=2)


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
