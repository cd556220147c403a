"""Encoding: spikes, their gradients, the draws of a generator, and our loops against PyTorch's functions."""

import math

import pytest
import torch
from torch import Tensor

from onespike.functional import ENCODINGS, SURROGATES, bernoulli, constant_mask, encode, encoding, partition, uniform
from onespike.functional.kernels import kernels_for

BERNOULLI = ["bernoulli", "bernoulli-detached"]
needs_compiler = pytest.mark.skipif(
    kernels_for(torch.float32, "encoding_kernels.c") is None, reason="needs a C compiler"
)


def drawn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("kind", BERNOULLI)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_bernoulli_fires_where_the_value_exceeds_the_draw_and_keeps_the_dtype(kind, dtype) -> None:
    x = torch.tensor([-0.1, 0.0, 0.25, 0.5, 0.75, 1.0, 1.1], dtype=dtype)
    draws = torch.tensor([0.0, 0.0, 0.5, 0.5, 0.5, 0.999, 0.999])
    spikes = encode(x, kind, draws)
    assert spikes.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert spikes.dtype == dtype


@pytest.mark.parametrize("probability", [0.0, 0.01, 0.3, 0.5, 0.9, 1.0])
def test_bernoulli_fires_with_the_probability_of_its_value(probability) -> None:
    count = 200_000
    rate = encode(torch.full((count,), probability), "bernoulli", drawn(count)).mean().item()
    deviation = math.sqrt(probability * (1 - probability) / count)
    assert abs(rate - probability) <= 4 * deviation


@pytest.mark.parametrize("shape", [(9,), (9, 1, 1, 1)])
def test_the_gradient_passes_bernoulli_unchanged_between_minus_a_half_and_one_and_a_half(shape) -> None:
    x = torch.tensor([-2.0, -0.5, -0.499, 0.0, 0.5, 1.0, 1.499, 1.5, 3.0]).reshape(shape).requires_grad_()
    bernoulli(x, torch.full(shape, 0.5)).backward(torch.arange(1.0, 10.0).reshape(shape))
    assert x.grad.flatten().tolist() == [0, 0, 3, 4, 5, 6, 7, 0, 0]


def test_no_gradient_passes_bernoulli_detached() -> None:
    x = drawn(9).requires_grad_()
    spikes = encode(x, "bernoulli-detached", drawn(9, seed=1))
    assert torch.equal(spikes, encode(x, "bernoulli", drawn(9, seed=1)))
    assert not spikes.requires_grad


@pytest.mark.parametrize("surrogate", list(SURROGATES))
def test_threshold_encoding_is_firing(surrogate) -> None:
    x = (3 * drawn(50) - 1).requires_grad_()
    threshold = torch.tensor(0.7, dtype=torch.float64)
    spikes = encode(x, "threshold", None, threshold, surrogate)
    assert torch.equal(spikes, (x > 0.7).double())
    (found,) = torch.autograd.grad(spikes.sum(), x)
    torch.testing.assert_close(found, SURROGATES[surrogate](x.detach() - 0.7))


def test_direct_encoding_is_the_value_itself() -> None:
    x = drawn(9)
    assert encode(x, "direct") is x


@pytest.mark.parametrize("kind", ENCODINGS)
def test_a_mask_multiplies_the_spikes_of_each_window(kind) -> None:
    x, mask = drawn(4, 2, 3, 5, 5), 2 * drawn(2, 3, 5, 5, seed=1)
    draws = drawn(4, 2, 3, 5, 5, seed=2)
    assert torch.equal(encode(x, kind, draws, mask=mask), encode(x, kind, draws) * mask)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: encode(x, "poisson"), f"{', '.join(ENCODINGS)}, got 'poisson'"),
        (lambda x: encode(x, "bernoulli"), r"'bernoulli': expected draws .*\(2, 3\), got none"),
        (lambda x: encode(x, "bernoulli-detached"), r"'bernoulli-detached': expected draws .*\(2, 3\), got none"),
        (lambda x: encode(x, "bernoulli", x[0]), r"^draws: expected \(2, 3\), got \(3,\)"),
        (lambda x: bernoulli(x, x, x), r"^mask: expected \(3,\), got \(2, 3\)"),
    ],
)
def test_what_is_missing_or_of_another_shape_is_an_error_that_says_what_was_expected(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3))


@pytest.mark.parametrize("before", [0, 1, 623, 624, 1000])
def test_draws_are_those_of_pytorch_and_leave_its_generator_alike(before: int) -> None:
    theirs, ours = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    for generator in (theirs, ours):
        torch.rand(before, generator=generator)
    for shape in ((2, 3, 4, 5), (7, 2, 16, 8, 8), (0, 3, 2, 2), (1, 1, 1)):
        *outer, channels, height, width = shape
        found = uniform(torch.empty(0), torch.Size(shape), ours)
        expected = torch.rand(*outer, height, width, channels, generator=theirs)
        assert torch.equal(found.movedim(-3, -1), expected)
        assert torch.equal(ours.get_state(), theirs.get_state())
    assert torch.equal(torch.randn(40, generator=ours), torch.randn(40, generator=theirs))


def test_draws_without_a_generator_are_those_of_the_global_one() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4, 4, 2), torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(uniform(torch.empty(0), torch.Size((2, 4, 4))).movedim(-3, -1), expected[0])
    assert torch.equal(torch.rand(3), expected[1])


@needs_compiler
def test_a_pytorch_whose_draws_are_others_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert encoding._draws_alike(kernels_for(torch.float32, "encoding_kernels.c"))
    monkeypatch.setattr(encoding, "_draws_alike", lambda _: False)
    monkeypatch.setattr(encoding, "_fill", lambda *_: pytest.fail("our own loop has drawn"))
    torch.manual_seed(3)
    found = uniform(torch.empty(0), torch.Size((2, 4, 4)))
    torch.manual_seed(3)
    assert torch.equal(found.movedim(-3, -1), torch.rand(4, 4, 2))


def spikes_and_gradient(x: Tensor, mask: Tensor | None, autocast: bool, turned: bool = False) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    windows = partition(x, "dilated")
    draws = uniform(windows, windows.shape, torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        spikes = bernoulli(windows, draws, mask)
    gradient = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(2)).to(spikes.dtype)
    spikes.backward(gradient.transpose(0, 1).contiguous().transpose(0, 1) if turned else gradient)
    return spikes.detach(), x.grad


def maps(dtype: torch.dtype) -> Tensor:
    x = 3 * drawn(6, 5, 16, 16) - 1
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


@needs_compiler
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_in_one_pass_they_are_pytorchs_to_the_bit(dtype, autocast, masked, monkeypatch: pytest.MonkeyPatch) -> None:
    x, mask = maps(dtype), None
    if masked:
        mask = constant_mask(uniform(x, torch.Size((6, 5, 12, 12))), 0.1).to(dtype)
    given, kernels_of = [], encoding._kernels_of
    monkeypatch.setattr(encoding, "_kernels_of", lambda *tensors: given.append(kernels_of(*tensors)) or given[-1])
    found = spikes_and_gradient(x, mask, autocast), spikes_and_gradient(x, mask, autocast, turned=True)
    assert all(given)
    monkeypatch.setattr(encoding, "_kernels_of", lambda *_: None)
    expected = spikes_and_gradient(x, mask, autocast)
    for ours in found:
        for one, other in zip(ours, expected, strict=True):
            assert one.dtype == other.dtype
            assert one.movedim(-3, -1).is_contiguous()
            assert torch.equal(one, other)


@needs_compiler
def test_what_hooks_have_moved_is_read_as_it_was() -> None:
    x, mask = maps(torch.float32), drawn(6, 12, 12, 5, dtype=torch.float32).movedim(-1, -3)
    expected = spikes_and_gradient(x, mask, autocast=False)
    with torch.autograd.graph.saved_tensors_hooks(lambda one: one.clone().contiguous(), lambda one: one):
        found = spikes_and_gradient(x, mask, autocast=False)
    assert torch.equal(found[1], expected[1])


@needs_compiler
def test_the_backward_pass_keeps_a_byte_for_each_value() -> None:
    x = maps(torch.float32)[None].requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        spikes = bernoulli(x, uniform(x, x.shape))
    assert sum(one.nbytes for one in kept) == spikes.numel()


@needs_compiler
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler does
def test_what_follows_the_operations_finds_pytorchs() -> None:
    x, u = maps(torch.float32), uniform(torch.empty(0), torch.Size((6, 5, 16, 16)))
    expected = (x > u).float()
    assert torch.equal(torch.jit.trace(bernoulli, (x, u))(x, u), expected)
    assert torch.equal(torch.compile(bernoulli, fullgraph=True, backend="eager")(x.requires_grad_(), u), expected)
    gradient = torch.func.grad(lambda x: bernoulli(x, u).sum())(x.detach())
    assert torch.equal(gradient, ((x - 0.5).abs() < 1).float())
