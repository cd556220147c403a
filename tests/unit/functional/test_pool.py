"""Max pooling that keeps a byte for each window: the same as PyTorch's, and its memory."""

import pytest
import torch
from torch import nn

from onespike.functional import has_kernels
from onespike.units.layers import BatchNorm, MaxPool

pytestmark = pytest.mark.skipif(not has_kernels(torch.ones(1, 1, 2, 2)), reason="no C compiler")


def pooled(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = layer(x)
    torch.manual_seed(1)
    return out.detach(), torch.autograd.grad(out, x, torch.randn_like(out))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sides", [(8, 8), (7, 8), (5, 3), (2, 2), (31, 31)])
def test_it_is_pytorchs_to_the_bit(sides, dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 17, *sides).round(decimals=1).to(dtype)  # many are equal
    x[0, 0, 0, 1], x[1, 2, 1, 1] = float("nan"), float("inf")
    x = x.contiguous(memory_format=torch.channels_last)
    (fast, gradient), (plain, expected) = pooled(MaxPool(), x), pooled(nn.MaxPool2d(2), x)
    assert fast.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fast.nan_to_num(7), plain.nan_to_num(7))
    assert torch.equal(fast.isnan(), plain.isnan())
    assert torch.equal(gradient, expected)


def test_it_keeps_a_byte_for_each_window() -> None:
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        out = MaxPool()(x)
    assert sum(one.nbytes for one in kept) == out.numel()


def test_a_map_without_a_window_is_refused_as_by_pytorch() -> None:
    for sides in ((1, 1), (1, 4)):
        x = torch.randn(2, 3, *sides).contiguous(memory_format=torch.channels_last)
        with pytest.raises(RuntimeError, match="too small"):
            MaxPool()(x)


def test_one_value_of_each_channel_has_no_variance() -> None:
    x = torch.randn(1, 3, 1, 1).contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        BatchNorm(3).train()(x)
    assert not has_kernels(x)
