"""Integrate-and-fire neurons, QCFS, and what works on running means."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from onespike.conversion import ConversionConfig
from onespike.conversion.over_time import OverMeans, PoolSpikes
from onespike.errors import OnespikeError
from onespike.functional import SURROGATES
from onespike.neurons import QCFS, IntegrateFire


def neurons(threshold=1.0, time_steps=1, channels=None, axis=1, population=1):
    layer = IntegrateFire(channels, axis, time_steps, "rectangle", population)
    nn.init.constant_(layer.raw_threshold, torch.tensor(threshold).log().item())
    return layer


def test_by_hand():
    # V(0) = 1; V = 1.9, 2.8 -> fires, 0.8; 1.7; 2.6 -> fires
    out = neurons(2.0, 4)(torch.full((4, 1), 0.9))
    torch.testing.assert_close(out[:, 0], torch.tensor([0.0, 2.0, 0.0, 2.0]))


def test_a_population_by_hand():
    # Spikes of 2/3 each, at potentials above 2/3, 4/3 and 2; the start is at 1/3.
    out = neurons(2.0, population=3)(torch.tensor([-5.0, 0.32, 0.35, 0.99, 1.01, 1.66, 1.68, 9.0]))
    torch.testing.assert_close(out * 3 / 2, torch.tensor([0.0, 0, 1, 1, 2, 2, 3, 3]))


def test_the_surrogates_width_is_in_units_of_one_spike():
    layer = IntegrateFire(None, 1, 1, "triangle", 4, surrogate_width=1.5)
    nn.init.constant_(layer.raw_threshold, torch.tensor(2.0).log().item())
    x = torch.tensor([0.9], requires_grad=True)
    layer(x).backward()
    distances = [0.9 / 0.5 + 0.5 - place - 1 for place in range(4)]  # spikes of 1/2: the factor of their size cancels
    assert x.grad.item() == pytest.approx(sum(max(0, 1 - abs(d) / 1.5) / 1.5 for d in distances))


def test_a_surrogate_of_your_own(monkeypatch):
    with pytest.raises(OnespikeError, match=r"unknown surrogate 'mine'.* add --import MODULE"):
        ConversionConfig(surrogate="mine")
    monkeypatch.setitem(SURROGATES, "mine", lambda d: 0 * d + 3)
    x = torch.tensor([9.0], requires_grad=True)
    IntegrateFire(None, 1, 1, ConversionConfig(surrogate="mine").surrogate)(x).backward()
    assert x.grad.item() == 3


def test_each_neuron_of_a_population_is_seen():
    layer = neurons(2.0, population=4)
    seen = []
    layer.firing.register_forward_hook(lambda _, inputs, spikes: seen.append((inputs[0], spikes)))
    layer(torch.full((3, 2), 1.1))  # above two of the thresholds 1/2, 1, 3/2, 2, from 1/4 on
    ((potentials, spikes),) = seen
    assert spikes.shape == (4, 3, 2)
    assert spikes[:, 0, 0].tolist() == [1, 1, 0, 0]
    torch.testing.assert_close(potentials[:, 0, 0], 2.7 - torch.arange(4.0))


@settings(max_examples=50, deadline=None)
@given(st.floats(-1, 4), st.floats(0.2, 3), st.integers(1, 20))
def test_a_constant_current_fires_as_the_qcfs_says(current, threshold, steps):
    qcfs = QCFS(steps, threshold)
    near = torch.tensor(current * steps / threshold - 0.5)
    if (near - near.round()).abs() < 1e-3:  # a tie that rounding may decide either way
        return
    out = neurons(threshold, steps)(torch.full((steps, 1), current))
    torch.testing.assert_close(out.mean(), qcfs(torch.tensor(current)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 7])
def test_one_step_of_either_is_the_same_to_the_bit_ties_included(levels):
    qcfs = QCFS(levels, 1.7)
    layer = neurons(population=levels)
    layer.raw_threshold.data.fill_(qcfs.raw_threshold.item())
    ties = qcfs.raw_threshold.exp().detach() * (2 * torch.arange(levels) + 1) / (2 * levels)
    near = ties[:, None] * (1 + torch.arange(-50, 50) * 2.0**-24)
    values = torch.cat([2 * torch.randn(100_000), near.flatten()])
    assert torch.equal(layer(values), qcfs(values))
    assert torch.equal(layer.double()(values.double()), qcfs.double()(values.double()))
    assert layer(values).unique().numel() == levels + 1


@pytest.mark.parametrize("given", [(0,), (-1,), (2.5,), (4, 0.0), (4, "2"), (4, float("nan")), (4, float("inf"))])
def test_a_staircase_has_whole_levels_and_a_height(given):
    with pytest.raises(OnespikeError, match=r"^(levels|threshold): expected a (whole|finite) number above 0, got"):
        QCFS(*given)


def test_the_expected_error_of_several_steps_is_zero():
    # Uniform activations over whole stairs: what rounding up brings, rounding down takes.
    x = (torch.arange(80_000) + 0.5) / 80_000 * 1.5
    for levels in (2, 4, 8):
        error = QCFS(levels, 1.5)(x) - x
        assert error.abs().max() > 0.05
        assert error.mean().abs() < 1e-4


def test_gradients():
    x = torch.tensor([-0.5, 0.3, 1.2, 2.5], requires_grad=True)
    for layer in (neurons(2.0), QCFS(1, 2.0), neurons(2.0, population=3), QCFS(3, 2.0)):
        out = layer(x)
        out.sum().backward()
        assert x.grad.tolist() == [0, 1, 1, 0]  # inside 0..threshold
        # Inside, the threshold's relative change moves what rounding adds; above, the output itself.
        expected = (out - x)[1:3].sum() + out[3]
        torch.testing.assert_close(layer.raw_threshold.grad, expected.detach())
        x.grad = None


def test_thresholds_per_channel_along_any_axis():
    for axis, shape in ((1, (1, 2, 3, 3)), (-1, (1, 5, 2)), (-3, (1, 2, 3, 3)), (-1, (1, 2))):
        layer = neurons(channels=2, axis=axis)
        layer.raw_threshold.data.copy_(torch.tensor([1.0, 3.0]).log())
        for current, expected in ((0.49, [0.0, 0.0]), (1.49, [1.0, 0.0]), (1.51, [1.0, 3.0])):
            fired = layer(torch.full(shape, current)).movedim(axis, 0).flatten(1)
            torch.testing.assert_close(fired.unique(dim=1)[:, 0], torch.tensor(expected))


def test_potentials_stay_in_single_precision_under_autocast():
    layer = neurons(1.0, 2)
    assert layer(torch.full((2, 1), 0.3, dtype=torch.bfloat16)).dtype == torch.float32


def spikes(steps=6, shape=(3, 2, 4, 4)):
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(steps, *shape, generator=generator) < 0.4).float().flatten(0, 1)


@pytest.mark.parametrize("threshold", [1.0, 0.3])
def test_max_pooling_of_spikes_gives_spikes_and_the_largest_rate(threshold):
    trains = threshold * spikes(24)
    pooled = PoolSpikes(nn.MaxPool2d(2), 24)(trains)
    assert pooled.unique().tolist() == [0.0, torch.tensor(threshold).item()]
    rates = trains.unflatten(0, (24, 3)).mean(0)
    torch.testing.assert_close(pooled.unflatten(0, (24, 3)).mean(0), nn.functional.max_pool2d(rates, 2))
    over_means = OverMeans(nn.MaxPool2d(2), (0,), 24, degree=1)(trains)
    torch.testing.assert_close(over_means, pooled, rtol=0, atol=1e-5)


def test_products_over_time_are_the_products_of_the_rates():
    a, b = spikes(), spikes(shape=(3, 2, 4, 5))
    seen = []

    def product(x, y):
        seen.extend((x, y))
        return torch.matmul(x, y)

    out = OverMeans(product, (0, 1), 6, degree=2)(a, b)
    assert all(torch.equal(operand, operand.round()) for operand in seen)  # spike counts
    rates = a.unflatten(0, (6, 3)).mean(0), b.unflatten(0, (6, 3)).mean(0)
    torch.testing.assert_close(out.unflatten(0, (6, 3)).mean(0), rates[0] @ rates[1])
    torch.testing.assert_close(OverMeans(torch.matmul, (0, 1), 6)(a, b), out)
    fixed = torch.randn(4, 5)
    left = OverMeans(torch.matmul, (0,), 6)(a, fixed).unflatten(0, (6, 3)).mean(0)
    torch.testing.assert_close(left, rates[0] @ fixed)


def test_keyword_arguments_and_several_outputs_over_means():
    a, b = spikes(), spikes()

    def function(x, *, other):
        return x * other, None, x.sqrt()

    first, nothing, second = OverMeans(function, (0, "other"), 6)(a, other=b)
    assert nothing is None
    rates = a.unflatten(0, (6, 3)).mean(0), b.unflatten(0, (6, 3)).mean(0)
    torch.testing.assert_close(first.unflatten(0, (6, 3)).mean(0), rates[0] * rates[1])
    torch.testing.assert_close(second.unflatten(0, (6, 3)).mean(0), rates[0].sqrt())


@pytest.mark.parametrize("steps", [1, 3])
def test_later_steps_do_not_reach_back(steps):
    trains = spikes(steps)
    pool = PoolSpikes(nn.MaxPool2d(2), steps)
    whole = pool(trains)
    changed = trains.clone()
    changed[-3:] = 1 - changed[-3:]
    torch.testing.assert_close(pool(changed)[:-3], whole[:-3])


@pytest.mark.parametrize(("steps", "population"), [(1, 1), (3, 1), (1, 4)])
def test_gradients_stay_channels_last(steps, population):
    layer = neurons(time_steps=steps, channels=6, population=population)
    images = torch.randn(2 * steps, 6, 4, 4).to(memory_format=torch.channels_last).requires_grad_()
    strides = []
    currents = 1.0 * images
    currents.register_hook(lambda gradient: strides.append(gradient.stride()))
    factors = torch.randn(2 * steps, 6, 4, 4).to(memory_format=torch.channels_last)
    (layer(currents) * factors).sum().backward()
    assert strides == [currents.stride()], "batch norm's backward pass takes seven times as long for other gradients"
