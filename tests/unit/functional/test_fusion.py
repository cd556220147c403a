"""Fusion: every Omega against its formula, and the area under it against Eq. 6 and Table 1 of the supplement."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from onespike.functional import FUSIONS, fuse

#: Omega(X, Y) with the radian factor theta, as the method writes it.
FORMULAS = {
    "sincos": lambda x, y, theta: 2 * np.sin(theta * np.pi / 2 * x) * np.cos(theta * np.pi / 2 * y),
    "sinsum": lambda x, y, theta: np.sin(theta * np.pi / 2 * (x + y)),
    "nested": lambda x, y, theta: 2 * np.sin(theta * np.pi / 2 * x * np.cos(theta * np.pi / 2 * y)),
    "mean": lambda x, y, _: 0.5 * x + 0.5 * y,
    "sum": lambda x, y, _: x + y,
    "none": lambda x, y, _: 0 * x * y,
}
BOUNDS = {"sincos": 2, "sinsum": 1, "nested": 2, "none": 0}
every_fusion = pytest.mark.parametrize("kind", list(FUSIONS))
thetas = st.floats(0.01, 1)


def potentials(*shape, scale=1.5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype) for _ in range(2)]


def area(kind, theta, threshold):
    """Double integral of Omega over [th, 2 th]^2, by Gauss-Legendre quadrature (exact here to rounding)."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    points, weights = threshold * (1.5 + nodes / 2), threshold * weights / 2
    x, y = np.meshgrid(points, points, indexing="ij")
    values = fuse(torch.from_numpy(x), torch.from_numpy(y), kind, theta).numpy()
    return float(weights @ values @ weights)


def eq_6(theta, threshold):
    a = theta * math.pi * threshold
    return 16 * (math.sin(3 * a / 2) * math.sin(a / 4) ** 2) / (theta**2 * math.pi**2)


@every_fusion
@given(theta=thetas)
def test_every_fusion_is_its_formula(kind, theta):
    x, y = potentials(50)
    expected = FORMULAS[kind](x.numpy(), y.numpy(), theta)
    np.testing.assert_allclose(fuse(x, y, kind, theta).numpy(), expected, rtol=1e-13, atol=1e-14)


def test_by_default_the_fusion_is_sincos_with_theta_one_half():
    x, y = potentials(50)
    assert torch.equal(fuse(x, y), fuse(x, y, "sincos", 0.5))


@pytest.mark.parametrize("kind", ["sincos", "sinsum"])
@given(theta=thetas, threshold=st.floats(0.05, 2))
def test_the_area_under_the_fusion_surface_is_eq_6(kind, theta, threshold):
    assert area(kind, theta, threshold) == pytest.approx(eq_6(theta, threshold), rel=1e-11, abs=1e-13)


@pytest.mark.parametrize(("kind", "share"), [("sum", 3.0), ("mean", 1.5), ("none", 0.0)])
@given(threshold=st.floats(0.05, 2))
def test_the_area_under_a_plane_grows_with_the_cube_of_the_threshold(kind, share, threshold):
    assert area(kind, 0.5, threshold) == pytest.approx(share * threshold**3, rel=1e-12)


@pytest.mark.parametrize("kind", ["sincos", "sinsum", "nested", "mean", "none"])
@given(theta=thetas)
def test_every_fusion_but_the_sum_has_less_area_than_the_linear_plane(kind, theta):
    assert area(kind, theta, 0.5) < area("sum", theta, 0.5)


@pytest.mark.parametrize(("kind", "bound"), BOUNDS.items())
@given(theta=thetas)
def test_the_projections_are_bounded_however_high_the_potentials(kind, bound, theta):
    x, y = potentials(2000, scale=100)
    fused = fuse(x, y, kind, theta).abs()
    assert fused.max() <= bound
    assert bound == 0 or fused.max() > 0.9 * bound, "and the bound is reached"


@every_fusion
@pytest.mark.parametrize("theta", [0.1, 0.5, 1.0])
def test_every_fusion_has_the_true_gradient(kind, theta):
    x, y = (potential.requires_grad_() for potential in potentials(12))
    assert gradcheck(lambda x, y: fuse(x, y, kind, theta), (x, y))


@every_fusion
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_kept_and_shapes_broadcast(kind, dtype):
    x, _ = potentials(2, 3, 4, 4, dtype=dtype)
    _, y = potentials(3, 1, 1, dtype=dtype)
    fused = fuse(x, y, kind)
    assert fused.dtype == dtype
    assert fused.shape == (2, 3, 4, 4)
    assert torch.equal(fused, fuse(x, y.expand_as(x), kind))


def test_none_is_zero_with_a_zero_gradient():
    x, y = (potential.requires_grad_() for potential in potentials(12))
    fused = fuse(x, y, "none")
    assert not fused.any()
    assert not fused.requires_grad or not any(
        gradient is not None and gradient.any()
        for gradient in torch.autograd.grad(fused.sum(), (x, y), allow_unused=True)
    )


def test_sincos_reads_the_layer_before_first_and_the_window_before_second():
    zero, one = torch.zeros(()), torch.ones(())
    assert fuse(zero, one, "sincos") == 0
    assert fuse(one, zero, "sincos").item() == pytest.approx(2 * math.sin(math.pi / 4))
    assert fuse(zero, one, "nested") == 0


@pytest.mark.parametrize("kind", ["sinsum", "mean", "sum", "none"])
def test_the_symmetric_fusions_do_not_care_for_the_order(kind):
    x, y = potentials(50)
    assert torch.equal(fuse(x, y, kind), fuse(y, x, kind))


def test_an_unknown_fusion_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="sincos, sinsum, nested, mean, sum, none, got 'sinecosine'"):
        fuse(torch.zeros(1), torch.zeros(1), "sinecosine")


@every_fusion
def test_potentials_may_differ_in_shape_and_precision(kind):
    x, y = torch.rand(3, 1, 1), potentials(2, 3, 4, 4)[1]
    for pair in ((x, y), (y, x)):
        found = [one.clone().requires_grad_() for one in pair]
        exact = [one.double().expand(2, 3, 4, 4).clone().requires_grad_() for one in pair]
        results = [fuse(*both, kind, 0.7) for both in (found, exact)]
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)  # the digits of float32, which one of them has
        gradients = torch.autograd.grad(results[0].sum(), found), torch.autograd.grad(results[1].sum(), exact)
        for one, other, of in zip(*gradients, pair, strict=True):
            assert one.dtype == of.dtype
            torch.testing.assert_close(one.double(), other.sum_to_size(of.shape), rtol=1e-5, atol=1e-5)
