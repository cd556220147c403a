"""What a convolution's backward pass does around its kernel, which only processors with matrix tiles can run."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from onespike.functional import conv, conv3x3, max_pool
from onespike.functional.kernels import kernels_for
from onespike.units.layers import Conv3x3


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


def gradients(function, *given: Tensor) -> list[Tensor]:
    given = tuple(one.detach().clone(memory_format=torch.preserve_format).requires_grad_() for one in given)
    out = function(*given)
    beside = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    out.backward(beside.contiguous(memory_format=torch.channels_last))
    return [out.detach(), *(one.grad for one in given)]


@pytest.mark.skipif(kernels_for(torch.bfloat16) is None, reason="needs a C compiler, for max pooling")
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("images", [1, 5, 8])
def test_gradients_around_the_kernel_are_pytorchs(pool: bool, images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv, "tiles", Emulated)
    torch.manual_seed(0)
    x = torch.randn(images, 6, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    given = x, torch.randn(5, 6, 3, 3).bfloat16(), torch.randn(5).bfloat16()

    def plain(*tensors: Tensor) -> Tensor:  # in bf16, too: its maxima are the same ones
        currents = conv2d(*tensors, padding=1)
        return max_pool(currents) if pool else currents

    found = gradients(lambda *tensors: conv3x3(*tensors, pool=pool), *given)
    for one, other in zip(found, gradients(plain, *given), strict=True):
        assert (one.double() - other.double()).norm() <= 1e-2 * other.double().norm() + 1e-6


@pytest.mark.skipif(kernels_for(torch.bfloat16) is None, reason="needs a C compiler")
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
