"""The constant dropout mask."""

import math

import pytest
import torch

from onespike.functional import constant_mask


def uniform(*shape, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def test_a_draw_below_the_probability_drops_and_the_rest_is_scaled_up():
    assert constant_mask(torch.tensor([0.0, 0.19, 0.2, 0.5, 0.999]), 0.2).tolist() == [0, 0, 1.25, 1.25, 1.25]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_mask_has_the_dtype_of_the_draws_to_its_full_precision(dtype):
    u = uniform(2, 3, 4, 4, dtype=dtype)
    mask = constant_mask(u, 0.1)
    assert mask.dtype == dtype
    assert mask.max() == torch.tensor(1 / 0.9, dtype=dtype)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9])
def test_the_mean_is_preserved(probability):
    mask = constant_mask(uniform(200_000), probability)
    deviation = (probability / (1 - probability) / mask.numel()) ** 0.5
    assert abs(mask.mean().item() - 1) <= 4 * deviation + 1e-12
    assert (mask == 0).double().mean().item() == pytest.approx(probability, abs=0.01)


def test_nothing_is_dropped_at_probability_zero():
    assert torch.equal(constant_mask(uniform(100), 0), torch.ones(100, dtype=torch.float64))


@pytest.mark.parametrize("odd", [-0.1, 1.0, 1.5, math.nan])
def test_a_probability_is_below_one(odd):
    with pytest.raises(ValueError, match=r"^probability: expected 0 <= probability < 1, got"):
        constant_mask(uniform(3), odd)
