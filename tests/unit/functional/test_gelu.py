"""GELU by a kernel: each bf16 number against PyTorch's in float64, and every layout of memory."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from onespike.functional import gelu
from onespike.functional.kernels import kernels_for
from onespike.units.layers import GELU

pytestmark = pytest.mark.skipif(kernels_for(torch.bfloat16, "gelu_kernels.c") is None, reason="needs a C compiler")
EVERY = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def both(function, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """What a function returns, and the gradient of its input."""
    x = x.detach().requires_grad_()
    out = function(x)
    assert (type(out.grad_fn).__name__ == "_GeluBackward") == (function is gelu)
    assert (out.dtype, out.shape) == (x.dtype, x.shape)
    out.backward(gradient.to(out.dtype))
    return out.detach(), x.grad


def test_each_number_is_rounded_from_the_exact_value() -> None:
    """Rounding alone is off by up to half a step between two numbers; in the tail 1e-7 more is allowed."""
    ones = torch.ones_like(EVERY)
    assert EVERY.isnan().sum() == 2 * 127  # all of them are there
    for ours, exact in zip(both(gelu, EVERY, ones), both(F.gelu, EVERY.double(), ones), strict=True):
        assert torch.equal(ours.isnan(), exact.isnan())
        known = exact.isfinite()
        step = torch.exp2(exact[known].abs().clamp(min=2.0**-126).log2().floor() - 7)
        assert ((ours[known].double() - exact[known]).abs() <= 0.51 * step + 1e-7).all()
        assert torch.equal(ours[~known & ~exact.isnan()].double(), exact[~known & ~exact.isnan()])


@pytest.mark.parametrize("layout", ["rows", "channels last", "gaps", "turned", "broadcast", "nothing"])
def test_layouts(layout: str) -> None:
    torch.manual_seed(0)
    whole = torch.randn(4, 6, 10, 5).bfloat16()
    x = {
        "rows": whole,
        "channels last": whole.contiguous(memory_format=torch.channels_last),
        "gaps": whole[:, ::2, 1:, :-1],
        "turned": whole.permute(3, 1, 0, 2),
        "broadcast": whole[:, :1].expand(-1, 6, -1, -1),
        "nothing": whole[:0],
    }[layout]
    gradient = torch.randn(x.shape).bfloat16()
    for one in (gradient, gradient.transpose(0, 1).contiguous().transpose(0, 1), gradient[:1].expand(x.shape)):
        for ours, exact in zip(both(gelu, x, one), both(F.gelu, x.double(), one.double()), strict=True):
            torch.testing.assert_close(ours.double(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_what_follows_the_operations_finds_pytorchs() -> None:
    x = torch.randn(50).bfloat16()
    assert torch.equal(torch.jit.trace(gelu, (x,))(x), F.gelu(x))
    compiled = torch.compile(gelu, fullgraph=True, backend="eager")(x.requires_grad_())
    assert torch.equal(compiled, F.gelu(x))
    x = x.detach()
    assert torch.equal(torch.func.jvp(gelu, (x,), (x,))[1], torch.func.jvp(F.gelu, (x,), (x,))[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_other_types_are_pytorchs(dtype: torch.dtype) -> None:
    x = torch.randn(50).to(dtype)
    assert torch.equal(gelu(x), F.gelu(x))


def test_a_layer_has_the_kernel_in_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = GELU(), torch.randn(9)
    monkeypatch.setattr("onespike.units.layers.gelu", lambda _: "by the kernel")
    assert layer(x) == "by the kernel"
    assert torch.equal(layer.eval()(x), F.gelu(x))
    assert torch.equal(GELU(approximate="tanh")(x), F.gelu(x, approximate="tanh"))
