"""The convolution whose weights' gradient is our own, against PyTorch's in float64."""

import pytest
import torch
from torch.nn.functional import conv2d

from onespike.functional import conv, conv3x3, max_pool
from onespike.functional.conv import tiles
from onespike.functional.pool import to_largest

pytestmark = pytest.mark.skipif(tiles() is None, reason="needs a processor with matrix tiles, and a C compiler")

SHAPES = [
    (1, 1, 1, 1, 1),
    (3, 5, 4, 3, 7),
    (3, 1, 8, 8, 16),
    (2, 32, 16, 16, 16),
    (5, 33, 7, 7, 48),
    (130, 48, 3, 3, 50),
    (9, 70, 15, 2, 20),
]


def gradients(function, *tensors: torch.Tensor) -> list[torch.Tensor]:
    tensors = [tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_() for tensor in tensors]
    out = function(*tensors)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = weights.bfloat16().contiguous(memory_format=torch.channels_last)
    out.backward(weights.to(out.dtype))
    return [out.detach(), *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_pytorchs(shape, threads) -> None:
    images, inputs, side_y, side_x, outputs = shape
    torch.manual_seed(0)
    x = torch.randn(images, inputs, side_y, side_x).bfloat16().contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(outputs, inputs, 3, 3).bfloat16(), torch.randn(outputs).bfloat16()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = gradients(conv3x3, x, weight, bias)
    finally:
        torch.set_num_threads(before)
    exact = gradients(lambda *t: conv2d(*t, padding=1), x.double(), weight.double(), bias.double())
    for one, other in zip(found, exact, strict=True):
        assert one.shape == other.shape
        assert (one.double() - other).norm() <= 4e-3 * other.norm() + 1e-6  # a bfloat16 has 8 digits


@pytest.mark.parametrize("shape", SHAPES)
def test_spikes_are_kept_as_bits_and_give_the_same_gradients(shape) -> None:
    images, inputs, side_y, side_x, outputs = shape
    torch.manual_seed(0)
    spikes = (torch.rand(images, inputs, side_y, side_x) < 0.3).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, 3, 3).bfloat16()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        conv3x3(spikes.requires_grad_(), weight.requires_grad_())
    assert kept[0].nbytes <= 4 * (spikes.numel() // 32 + 2)
    whole = gradients(conv3x3, spikes, weight)
    exact = gradients(lambda *t: conv2d(*t, padding=1), spikes.double(), weight.double())
    for one, other in zip(whole, exact, strict=True):
        assert (one.double() - other).norm() <= 4e-3 * other.norm() + 1e-6


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if min(shape[2:4]) > 1])
def test_with_pooling_behind_it_is_the_two_of_them_and_a_quarter_of_the_images_at_a_time(
    shape, real, monkeypatch
) -> None:
    images, inputs, side_y, side_x, outputs = shape
    torch.manual_seed(0)
    x = torch.randn(images, inputs, side_y, side_x)
    x = (x if real else x > 0.3).bfloat16().contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(outputs, inputs, 3, 3).bfloat16(), torch.randn(outputs).bfloat16()
    expected = gradients(lambda *t: max_pool(conv3x3(*t)), x, weight, bias)
    at_a_time: list[int] = []
    monkeypatch.setattr(conv, "to_largest", lambda *given: at_a_time.append(len(given[0])) or to_largest(*given))
    out, *found = gradients(lambda *t: conv3x3(*t, pool=True), x, weight, bias)
    assert sum(at_a_time) == images
    assert max(at_a_time) == -(-images // 4)
    assert torch.equal(out, expected[0])
    for one, other in zip(found, expected[1:], strict=True):
        assert (one.double() - other.double()).norm() <= 4e-3 * other.double().norm() + 1e-6


@pytest.mark.parametrize("odd", [0.5, -1.0, 2.0, -0.0, float("nan")])
def test_what_is_no_spike_is_kept_whole(odd) -> None:
    x = torch.ones(2, 3, 5, 5).bfloat16().contiguous(memory_format=torch.channels_last)
    x[1, 2, 4, 4] = odd  # the last of an odd number
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        conv3x3(x, torch.randn(4, 3, 3, 3).bfloat16().requires_grad_())
    assert kept[0] is x or torch.equal(kept[0].nan_to_num(9), x.nan_to_num(9))


def test_the_next_convolution_is_not_disturbed() -> None:
    """oneDNN sets the tiles up for itself, and may count on finding them so."""
    torch.manual_seed(0)
    x = torch.randn(8, 64, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3).bfloat16()
    expected = conv2d(x, weight, padding=1)
    for _ in range(3):
        out, *_ = gradients(conv3x3, x, weight)
        assert torch.equal(out, expected)
        assert torch.equal(conv2d(x, weight, padding=1), expected)
