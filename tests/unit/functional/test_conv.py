"""The convolution whose weights' gradient is our own: with its kernel against PyTorch's in float64, and around it.

Only processors with matrix tiles can run the kernel; elsewhere PyTorch emulates it.
"""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from onespike.functional import conv, conv3x3, max_pool
from onespike.functional.conv import tiles
from onespike.functional.kernels import kernels_for
from onespike.functional.pool import to_largest
from onespike.units.layers import Conv3x3

needs_tiles = pytest.mark.skipif(tiles() is None, reason="needs a processor with matrix tiles, and a C compiler")
needs_compiler = pytest.mark.skipif(kernels_for(torch.bfloat16) is None, reason="needs a C compiler")

SHAPES = [
    (1, 1, 1, 1, 1),
    (3, 5, 4, 3, 7),
    (3, 1, 8, 8, 16),
    (2, 32, 16, 16, 16),
    (5, 33, 7, 7, 48),
    (130, 48, 3, 3, 50),
    (9, 70, 15, 2, 20),
]


def gradients(function, *tensors: Tensor) -> list[Tensor]:
    tensors = [tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_() for tensor in tensors]
    out = function(*tensors)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = weights.bfloat16().contiguous(memory_format=torch.channels_last)
    out.backward(weights.to(out.dtype))
    return [out.detach(), *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_images_side_by_side_do_not_touch(shape, biased) -> None:
    images, inputs, side_y, side_x, outputs = shape
    torch.manual_seed(0)
    x = torch.randn(images, inputs, side_y, side_x).double().contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(outputs, inputs, 3, 3).double(), torch.randn(outputs).double() if biased else None
    found = conv.side_by_side(x, weight, bias)
    torch.testing.assert_close(found, conv2d(x, weight, bias, padding=1), rtol=1e-10, atol=1e-10)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_what_is_no_number_stays_in_its_image() -> None:
    x, weight = torch.ones(3, 2, 3, 4), torch.ones(5, 2, 3, 3)
    x[1] = float("nan")
    out = conv.side_by_side(x, weight)
    assert out[1].isnan().all()
    assert out[[0, 2]].isfinite().all()


@needs_compiler
@pytest.mark.parametrize(
    ("limits", "side", "expected"),
    [({5: 24 * 9}, 5, 2), ({5: 24 * 9 + 1}, 5, 0), ({5: 24 * 9}, 6, 0), ({5: 999, 3: 1}, 3, 2), ({5: 999, 3: 1}, 4, 0)],
)
def test_small_maps_of_many_weights_are_convolved_side_by_side(
    limits: dict[int, int], side: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forwards, and for the input's gradient."""
    taken: list[Tensor] = []
    side_by_side = conv.side_by_side
    monkeypatch.setattr(conv, "side_by_side", lambda *given: taken.append(given[0]) or side_by_side(*given))
    monkeypatch.setattr(conv, "tiles", Emulated)
    monkeypatch.setattr(conv, "SIDE_BY_SIDE", limits)
    x = torch.randn(2, 6, side, side).bfloat16().contiguous(memory_format=torch.channels_last)
    gradients(conv3x3, x, torch.randn(4, 6, 3, 3).bfloat16())
    assert len(taken) == expected


@needs_tiles
@pytest.mark.parametrize("limits", [{5: 0}, {}])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_pytorchs(shape, threads, limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "SIDE_BY_SIDE", limits)
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


@needs_tiles
@pytest.mark.parametrize("shape", SHAPES)
def test_spikes_are_kept_as_bits_and_give_the_same_gradients(shape) -> None:
    images, inputs, side_y, side_x, outputs = shape
    torch.manual_seed(0)
    spikes = (torch.rand(images, inputs, side_y, side_x) < 0.3).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(outputs, inputs, 3, 3).bfloat16()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        conv3x3(spikes.requires_grad_(), weight.requires_grad_())
    assert kept[0].nbytes <= 4 * (spikes.numel() // 32 + 2)
    whole = gradients(conv3x3, spikes, weight)
    exact = gradients(lambda *t: conv2d(*t, padding=1), spikes.double(), weight.double())
    for one, other in zip(whole, exact, strict=True):
        assert (one.double() - other).norm() <= 4e-3 * other.norm() + 1e-6


@needs_tiles
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


@needs_tiles
@pytest.mark.parametrize("odd", [0.5, -1.0, 2.0, -0.0, float("nan")])
def test_what_is_no_spike_is_kept_whole(odd) -> None:
    x = torch.ones(2, 3, 5, 5).bfloat16().contiguous(memory_format=torch.channels_last)
    x[1, 2, 4, 4] = odd  # the last of an odd number
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        conv3x3(x, torch.randn(4, 3, 3, 3).bfloat16().requires_grad_())
    assert kept[0] is x or torch.equal(kept[0].nan_to_num(9), x.nan_to_num(9))


@needs_tiles
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


@needs_tiles
def test_kernels_that_are_switched_off_have_no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESPIKE_KERNELS", "0")
    kernels_for.cache_clear()
    try:
        assert tiles() is None
    finally:
        kernels_for.cache_clear()


class Emulated:
    """conv_kernels.c, in PyTorch."""

    def ask(self, name: str, *_: object) -> int:
        assert name == "to_bits"
        return 1  # real numbers, no spikes

    def __call__(self, name, kept, bits, piece, first, count, high, wide, inputs, outputs, out) -> None:  # noqa: ARG002
        assert (name, bits, out.dtype) == ("weight_gradient", None, torch.float32)
        x = kept[first : first + count].float()
        found = torch.nn.grad.conv2d_weight(x, (outputs, inputs, 3, 3), piece.float(), padding=1)
        out += found.permute(0, 2, 3, 1)


@needs_compiler
@pytest.mark.parametrize("side", [4, 8])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("images", [1, 5, 8])
def test_gradients_around_the_kernel_are_pytorchs(
    images: int, pool: bool, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv, "tiles", Emulated)
    monkeypatch.setattr(conv, "SIDE_BY_SIDE", {5: 0})
    torch.manual_seed(0)
    x = torch.randn(images, 6, side, side).bfloat16().contiguous(memory_format=torch.channels_last)
    given = x, torch.randn(5, 6, 3, 3).bfloat16(), torch.randn(5).bfloat16()

    def plain(*tensors: Tensor) -> Tensor:  # in bf16, too: its maxima are the same ones
        currents = conv2d(*tensors, padding=1)
        return max_pool(currents) if pool else currents

    found = gradients(lambda *tensors: conv3x3(*tensors, pool=pool), *given)
    for one, other in zip(found, gradients(plain, *given), strict=True):
        assert (one.double() - other.double()).norm() <= 1e-2 * other.double().norm() + 1e-6


@needs_compiler
def test_the_kernel_adds_to_single_precision_whatever_the_default_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "tiles", Emulated)
    x = torch.randn(2, 4, 4, 4).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(3, 4, 3, 3).bfloat16()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        gradients(conv3x3, x, weight)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("images", [torch.uint8, torch.int64, torch.float64, torch.bfloat16])
def test_other_types_than_the_weights_are_refused_as_by_pytorch(images, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "tiles", Emulated)
    x, layer = torch.ones(2, 3, 8, 8).to(images, memory_format=torch.channels_last), Conv3x3(3, 4)
    for training in (True, False):
        with pytest.raises(RuntimeError, match="type"):
            layer.train(training)(x)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, torch.bfloat16), (torch.float64, torch.float64)])
def test_autocast_leaves_double_precision_alone(dtype, expected) -> None:
    x, layer = torch.ones(2, 3, 8, 8, dtype=dtype), Conv3x3(3, 4, bias=True).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.train()(x).dtype == layer.eval()(x).dtype == expected
