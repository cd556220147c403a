"""Firing: the values, and the gradients that stand in for their own."""

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onespike.functional import SURROGATES, Surrogate, spike

#: The surrogate derivatives as functions of d = V - threshold: three in other words than the source's.
FORMULAS = {
    "rectangle": lambda d: 1.0 if -0.5 < d < 0.5 else 0.0,
    "triangle": lambda d: max(0.0, 1 + d if d < 0 else 1 - d),
    "sigmoid": lambda d: 1 / math.cosh(2 * d) ** 2,  # the derivative of sigmoid(4 d)
    "arctan": lambda d: 1 / (1 + math.pi**2 * d**2),  # the derivative of atan(pi d) / pi
    "gaussian": NormalDist(0, 1 / math.sqrt(2 * math.pi)).pdf,
}
#: The steps from 0 to 1 whose derivatives they are; of width w it is the step at d / w.
STEPS = {
    "rectangle": lambda d: min(max(d + 0.5, 0), 1),
    "triangle": lambda d: (1 + max(d, -1)) ** 2 / 2 if d < 0 else 1 - (1 - min(d, 1)) ** 2 / 2,
    "sigmoid": lambda d: 1 / (1 + math.exp(-4 * d)),
    "arctan": lambda d: 0.5 + math.atan(math.pi * d) / math.pi,
    "gaussian": NormalDist(0, 1 / math.sqrt(2 * math.pi)).cdf,
}
every_surrogate = pytest.mark.parametrize("surrogate", list(SURROGATES))
every_dtype = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])


def uniform(*shape, dtype=torch.float64, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient_of(function, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


@pytest.mark.parametrize("threshold", [0.5, 0.1, 1.0, 7.0])
@every_dtype
def test_a_neuron_fires_above_its_threshold_and_not_at_it(threshold, dtype):
    at = torch.tensor(threshold, dtype=dtype)
    v = torch.stack([at.nextafter(at - 1), at, at.nextafter(at + 1), at - 3, at + 3])
    assert spike(v, at).tolist() == [0, 0, 1, 0, 1]


def test_by_default_the_threshold_is_one_half_and_the_surrogate_a_rectangle():
    v = torch.linspace(-1, 2, 61, dtype=torch.float64)
    assert torch.equal(spike(v), (v > 0.5).double())
    assert torch.equal(gradient_of(spike, v), gradient_of(lambda v: spike(v, 0.5, "rectangle"), v))


@every_surrogate
@given(v=st.floats(-4, 4), threshold=st.floats(0.1, 2))
def test_the_gradient_is_the_surrogate_formula(surrogate, v, threshold):
    gradient = gradient_of(lambda v: spike(v, threshold, surrogate), torch.tensor([v], dtype=torch.float64))
    assert gradient.item() == pytest.approx(FORMULAS[surrogate](v - threshold), rel=1e-12, abs=1e-15)


@every_surrogate
@pytest.mark.parametrize("width", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("threshold", [0.7, torch.tensor(0.7, dtype=torch.float64)])
def test_the_gradient_is_the_slope_of_a_step_so_much_wider(surrogate, width, threshold):
    distances, h = torch.linspace(-3, 3, 101, dtype=torch.float64) + 1e-3, 1e-5
    gradient = gradient_of(lambda v: spike(v, threshold, Surrogate(surrogate, width)), distances + 0.7)
    slope = [
        (STEPS[surrogate]((d + h) / width) - STEPS[surrogate]((d - h) / width)) / (2 * h) for d in distances.tolist()
    ]
    torch.testing.assert_close(gradient, torch.tensor(slope, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    assert gradient.max() == pytest.approx(1 / width, rel=0.1)


@every_surrogate
def test_of_width_1_it_is_the_surrogate_to_the_bit(surrogate):
    v = 3 * uniform(500, dtype=torch.float32) - 1
    gradients = [gradient_of(lambda v, s=s: spike(v, 0.5, s), v) for s in (surrogate, Surrogate(surrogate, 1.0))]
    assert torch.equal(*gradients)
    assert torch.equal(gradients[0], SURROGATES[surrogate](v - 0.5).to(v.dtype))


def test_the_rectangle_and_the_triangle_end_at_half_and_at_one_from_the_threshold():
    v = torch.tensor([-0.5, -0.499, 0.0, 0.001, 0.999, 1.0, 1.499, 1.5])
    assert gradient_of(lambda v: spike(v, 0.5, "rectangle"), v).tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert (gradient_of(lambda v: spike(v, 0.5, "triangle"), v) > 0).tolist() == [False, *[True] * 6, False]


@every_surrogate
def test_the_surrogate_multiplies_the_gradient_that_comes_in(surrogate):
    v = (4 * uniform(50) - 1.5).requires_grad_()
    upstream = uniform(50, seed=1) - 0.5
    spike(v, 0.5, surrogate).backward(upstream)
    torch.testing.assert_close(v.grad, upstream * gradient_of(lambda v: spike(v, 0.5, surrogate), v))


@every_surrogate
@pytest.mark.parametrize("shape", [(), (3, 1, 1), (2, 3, 4, 4)])
def test_a_threshold_receives_minus_the_summed_gradient_of_its_neurons(surrogate, shape):
    v = (3 * uniform(2, 3, 4, 4) - 1).requires_grad_()
    threshold = (0.3 + 0.4 * uniform(*shape, seed=1)).requires_grad_()
    upstream = uniform(2, 3, 4, 4, seed=2) - 0.5
    spike(v, threshold, surrogate).backward(upstream)
    assert threshold.grad.any()
    torch.testing.assert_close(threshold.grad, -v.grad.sum_to_size(shape))


@every_surrogate
@every_dtype
def test_spikes_and_gradients_keep_the_dtype(surrogate, dtype):
    v = (3 * uniform(2, 3, 4, 4) - 1).to(dtype).requires_grad_()
    for threshold in (0.5, torch.tensor(0.5), torch.full((3, 1, 1), 0.5, dtype=dtype)):
        spikes = spike(v, threshold, surrogate)
        assert spikes.dtype == dtype
        assert gradient_of(lambda v, threshold=threshold: spike(v, threshold, surrogate), v).dtype == dtype
        assert set(spikes.unique().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: spike(x, 0.5, "triangel"), "rectangle, triangle, sigmoid, arctan, gaussian, got 'triangel'"),
        (lambda x: spike(x, 0.5, Surrogate("triangle", 0.0)), "surrogate: expected a finite width above 0, got 0.0"),
        (lambda x: spike(x, 0.5, Surrogate("triangle", math.inf)), "expected a finite width above 0, got inf"),
        (lambda x: spike(x, math.nan), "threshold: expected a number, got nan"),
    ],
)
def test_what_does_not_exist_is_an_error_that_says_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3))
