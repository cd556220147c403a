import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onespike.functional import find_integers, to_integers


@given(
    seed=st.integers(0, 2**31),
    outer=st.integers(1, 5),
    inner=st.integers(1, 7),
    spread=st.floats(1e-4, 1e4),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_an_error_is_at_most_half_a_scale_and_rounding_twice_is_rounding_once(seed, outer, inner, spread, dtype):
    weight = (spread * torch.randn(outer, inner, 3, generator=torch.Generator().manual_seed(seed))).to(dtype)
    integers, scale = to_integers(weight)
    assert scale.shape == (outer, 1, 1)
    assert torch.equal(integers, integers.round())
    assert integers.dtype == dtype
    assert (integers.abs().amax((1, 2)) == 127).all()
    assert (weight - integers * scale).abs().le(0.5001 * scale).all()
    again, scale_again = to_integers((integers * scale).to(dtype))
    assert torch.equal(again, integers)
    torch.testing.assert_close(scale_again, scale, rtol=3e-7, atol=0)


def test_a_channel_of_zeros_stays_zero():
    integers, scale = to_integers(torch.zeros(2, 3))
    assert torch.equal(integers, torch.zeros(2, 3))
    assert torch.equal(scale, torch.ones(2, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("share", [1.0, 190 / 127, 0.1, 0.0])
def test_a_channel_too_small_for_a_scale_becomes_whole_numbers_all_the_same(dtype, share):
    tiny = torch.finfo(dtype).tiny
    weight = torch.tensor([[tiny * share, 0.0], [-tiny * torch.finfo(dtype).eps, 0.0], [1.0, -0.5]], dtype=dtype)
    integers, scale = to_integers(weight)
    assert scale[:2].min() >= tiny
    assert torch.equal(integers, integers.round())
    assert integers.abs().max() == 127
    assert (weight - integers * scale).abs().le(0.51 * scale).all()
    assert torch.equal(to_integers((integers * scale).to(dtype))[0], integers)
    assert find_integers(weight)[0].isfinite().all()


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_weights_are_finite(odd):
    weight = torch.tensor([[1.0, 2.0], [3.0, odd]])
    for function in (to_integers, find_integers):
        with pytest.raises(ValueError, match=r"^weight: expected finite numbers, got (nan|inf) among them"):
            function(weight)


@given(seed=st.integers(0, 2**31), spread=st.floats(1e-4, 1e4))
def test_a_part_of_weights_of_8_bits_is_found_to_be_whole_numbers(seed, spread):
    weight = spread * torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(seed)).double()
    integers, scale = to_integers(weight)
    tap = (integers * scale)[:, :, 1, 1]
    found, scales = find_integers(tap)
    assert torch.equal(found, found.round())
    assert found.abs().max() <= 127
    torch.testing.assert_close(found * scales, tap, rtol=0, atol=1e-9 * tap.abs().max().item())


def test_real_numbers_are_no_whole_numbers():
    weight = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).double()
    integers, scale = find_integers(weight)
    assert ((integers * scale - weight).abs().amax(1) > 1e-4).all()


@pytest.mark.parametrize("shape", [(), (3,), (2, 0)])
def test_each_channel_has_weights(shape):
    for function in (to_integers, find_integers):
        with pytest.raises(ValueError, match=r"^weight: expected \(C_out, \.\.\.\) with weights of each channel, got"):
            function(torch.ones(shape))
    assert to_integers(torch.ones(0, 3))[1].shape == (0, 1)
