"""Norm and fire as one operation, against batch norm, shifts and neurons one after the other."""

import inspect
import math
import os
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.norm_fire import measure
from onespike.functional import SURROGATES, Surrogate, batch_norm, has_kernels, norm_fire
from onespike.functional.kernels import kernels_for
from onespike.models.spiking_vgg import SpikingVGGConfig
from onespike.models.strict_layers import Firing, Thresholds
from onespike.neurons import Carry, NeuronConfig
from onespike.units.layers import BatchNorm

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(kernels_for(torch.float64) is None and not INTERPRETED, reason="needs a C compiler")


@pytest.fixture(autouse=True, scope="module")
def _kernels() -> Iterator[None]:
    """Let Triton's kernels stand in for those in C where they are interpreted, as test_norm_fire_triton.py asks for."""
    with pytest.MonkeyPatch.context() as patch:
        if INTERPRETED:
            from onespike.functional.norm_fire_triton import TritonKernels

            module = sys.modules["onespike.functional.norm_fire"]  # the function of that name hides it
            patch.setattr(module, "_find", lambda currents: TritonKernels(currents.dtype))
        yield


#: Types beside float64, and how far the gradient may be off; kernels in C know no float16.
PRECISIONS = [(torch.bfloat16, 0.02), (torch.float32, 1e-5), *([(torch.float16, 0.002)] if INTERPRETED else [])]
CONFIGS = [
    ("rectangle", 1.0, 1),
    ("rectangle", 0.7, 3),
    ("triangle", 2.0, 1),
    ("triangle", 1.0, 2),
    ("triangle", 0.5, 3),
]


def currents(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(*shape, generator=generator, dtype=torch.float64) + 5  # a mean far from 0 costs digits
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def run(module: nn.Module, x: torch.Tensor, slow: bool) -> dict[str, torch.Tensor]:
    """Outputs, gradients, and what the module remembers of the batch."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        if slow:
            for name in ("onespike.models.strict_layers.has_kernels", "onespike.units.layers.has_kernels"):
                patch.setattr(name, lambda _: False)
        else:
            assert has_kernels(x)
        out = module(x)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out.dtype)
        (out * weights).sum().backward()
    found = {"out": out.detach(), "gradient": x.grad, **{name: value.grad for name, value in module.named_parameters()}}
    return found | {name: value.clone() for name, value in module.named_buffers()}


@pytest.mark.parametrize(("surrogate", "width", "population"), CONFIGS)
@pytest.mark.parametrize("shape", [(3, 5, 4, 4), (2, 17, 3, 5), (700, 3, 1, 1), (4, 64, 9, 9)])
def test_firing_equals_its_parts(surrogate, width, population, shape) -> None:
    assert 0 < firing_as_its_parts(surrogate, width, population, shape).mean() < 1


@pytest.mark.parametrize(("surrogate", "width", "population"), CONFIGS)
def test_the_spikes_of_tied_neurons_are_added_up(surrogate, width, population) -> None:
    sums = firing_as_its_parts(surrogate, width, population, (4, 17, 9, 9), tied=True)
    assert sums.shape == (4, 17, 9, 9)
    assert set(sums.unique().tolist()) == set(range(population + 1))


def firing_as_its_parts(surrogate, width, population, shape, tied=False) -> torch.Tensor:
    """Compare outputs and gradients; give the spikes."""
    neuron = NeuronConfig(surrogate=surrogate, surrogate_width=width, threshold=0.4)
    config = SpikingVGGConfig(population=population, tied=tied, head="mean", neuron=neuron)
    results = []
    for slow in (False, True):
        torch.manual_seed(0)
        firing = Firing(shape[1], config).double()
        with torch.no_grad():
            firing[0].shift.add_(torch.randn(population * shape[1]))
        results.append(run(firing, currents(*shape), slow))
    fast, plain = results
    assert fast.keys() == plain.keys()
    assert torch.equal(fast["out"], plain["out"])
    for name, expected in plain.items():
        torch.testing.assert_close(fast[name], expected, rtol=1e-10, atol=1e-10, msg=name)
    return fast["out"]


@settings(max_examples=5 if INTERPRETED else 25)
@given(
    shape=st.tuples(st.integers(2, 12), st.integers(1, 80), st.integers(1, 5), st.integers(1, 5)),
    population=st.integers(1, 3),
    surrogate=st.sampled_from(["rectangle", "triangle"]),
    width=st.floats(0.3, 3),
)
def test_any_shape(shape, population, surrogate, width) -> None:
    firing_as_its_parts(surrogate, width, population, shape)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.6, None])
def test_batch_norm_equals_pytorchs(momentum, affine) -> None:
    results = []
    for slow in (False, True):
        torch.manual_seed(0)
        norm = BatchNorm(17, eps=0.1, momentum=momentum, affine=affine).double()
        for parameter in norm.parameters():
            nn.init.normal_(parameter)
        for seed in range(3):
            norm.track_running_stats = seed < 2  # then the statistics stay
            found = run(norm, currents(6, 17, 5, 7, seed=seed), slow)
        results.append(found)
    for name, expected in results[1].items():
        torch.testing.assert_close(results[0][name], expected, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("threads", [1] if INTERPRETED else [1, 2])
@pytest.mark.parametrize(("dtype", "most"), PRECISIONS)
def test_other_types_are_as_near_as_their_numbers_allow(dtype, most, threads) -> None:
    """The kernels compute in float32 and round once; PyTorch's parts round after each."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        config = SpikingVGGConfig(population=2)
        x = currents(4, 32, 9, 9, dtype=dtype)
        exact = run(Firing(32, config).double(), x.double(), False)
        fast = run(Firing(32, config), x, False)
        again = run(Firing(32, config), x, False)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(fast[name], again[name]) for name in fast)
    assert fast["out"].dtype == fast["gradient"].dtype == dtype
    assert (fast["out"] != exact["out"]).double().mean() < 1e-4
    off = (fast["gradient"].double() - exact["gradient"]).norm() / exact["gradient"].norm()
    assert off < most


def test_currents_and_numbers_of_channels_are_kept_alone() -> None:
    x = currents(3, 5, 4, 4, dtype=torch.bfloat16).requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        Firing(5, SpikingVGGConfig(population=2))(x)
    assert sum(one.nbytes for one in kept) == x.nbytes + 4 * (2 * 5 + 2 * 5)  # mean, deviation, limits


def test_the_benchmark_times_them(monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.norm_fire.MAP", (3, 4, 4))
    monkeypatch.setattr("torch.compile", lambda function: function)  # a minute that tells nothing here
    found = measure("cpu", images=2, rounds=1)
    assert {*found["cases"]} == {"copy", "kernels", "separate operations", "separate operations, compiled"}
    for case in found["cases"].values():
        assert case["ms"] == pytest.approx(case["of_bytes"] * found["least_ms"])
    assert found["least_ms"] == pytest.approx(4 * found["cases"]["copy"]["ms"])


def test_a_nan_stays_one() -> None:
    x = currents(2, 4, 3, 3, dtype=torch.bfloat16)
    x[0, 1, 0, 0] = float("nan")
    out = BatchNorm(4)(x)
    assert out[:, 1].isnan().all()
    assert not out[:, 0].isnan().any()


def test_whoever_looks_at_potentials_sees_them() -> None:
    firing = Firing(4, SpikingVGGConfig(population=2))
    seen = []
    firing[1].register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    spikes = firing(currents(2, 4, 3, 3, dtype=torch.float32))
    ((potential, fired),) = seen
    assert torch.equal(fired, spikes)
    assert torch.equal(fired, (potential > 0.5).float())


def test_other_surrogates_and_layouts_take_the_plain_way() -> None:
    neuron = NeuronConfig(surrogate="arctan")
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    assert not has_kernels(x)
    Firing(4, SpikingVGGConfig(neuron=neuron))(x).sum().backward()
    assert x.grad is not None


def test_a_surrogate_in_the_place_of_a_known_one_is_the_one_that_counts(monkeypatch) -> None:
    x, known = currents(2, 4, 3, 3), Surrogate("triangle", 2.0)
    norm_fire(x, torch.zeros(4).double(), nn.BatchNorm2d(4, affine=False), 0.5, known)
    monkeypatch.setitem(SURROGATES, "triangle", torch.zeros_like)
    x.requires_grad_()
    firing = Firing(4, SpikingVGGConfig(population=2)).double()
    firing(x).sum().backward()
    assert not x.grad.any()
    assert not firing[0].shift.grad.any()
    with pytest.raises(ValueError, match=r"^surrogate: expected one of rectangle, triangle, got another 'triangle'"):
        norm_fire(x, torch.zeros(4).double(), nn.BatchNorm2d(4, affine=False), 0.5, known)


class Noisy(BatchNorm):
    def forward(self, currents: torch.Tensor) -> torch.Tensor:
        return super().forward(currents) + 100


class AllFire(Thresholds):
    def forward(self, currents: torch.Tensor) -> torch.Tensor:
        return super().forward(currents) + 100


class Lifted(nn.Module):
    def forward(self, currents: torch.Tensor) -> torch.Tensor:
        return currents + 100


@pytest.mark.parametrize("over_time", [False, True])
@pytest.mark.parametrize("replaced", ["any layer", "thresholds", "norm", "weights"])
def test_parts_of_ones_own_are_not_passed_by(replaced, over_time) -> None:
    firing = Firing(4, SpikingVGGConfig(population=2))
    if replaced == "any layer":
        firing[0] = Lifted()
    elif replaced == "thresholds":
        firing[0] = AllFire(4, SpikingVGGConfig(population=2))
    else:
        firing[0].norm = Noisy(4, affine=False) if replaced == "norm" else BatchNorm(4)
    if replaced == "weights":
        nn.init.constant_(firing[0].norm.bias, 100.0)
    x = currents(2, 4, 3, 3, dtype=torch.float32)
    assert (firing(x.expand(3, *x.shape), Carry(ends=True)) if over_time else firing(x)).all()


MAP = torch.randn(4, 3, 6, 6).contiguous(memory_format=torch.channels_last)
REFUSED = {
    "no images": {"currents": torch.zeros(0, 3, 6, 6)},
    "channels first": {"currents": torch.randn(4, 3, 6, 6)},
    "whole numbers": {"currents": torch.zeros(4, 3, 6, 6, dtype=torch.int64)},
    "too many channels": {"currents": torch.zeros(1, 9000, 1, 1), "norm": nn.BatchNorm2d(9000, affine=False)},
    "a norm of other channels": {"norm": nn.BatchNorm2d(4, affine=False)},
    "a shift too many": {"shift": torch.zeros(4)},
    "no shift": {"shift": torch.zeros(0)},
    "more neurons than a stack holds": {"shift": torch.zeros(3 * 2**20)},
    "a shift that lies elsewhere": {"shift": torch.zeros(3, device="meta")},
    "a shift of complex numbers": {"shift": torch.zeros(3) + 1j},
    "a norm that lies elsewhere": {"norm": nn.BatchNorm2d(3, affine=False, device="meta")},
    "numbers with a sign elsewhere": {"currents": torch._neg_view(MAP)},
    "a threshold of no number": {"threshold": math.nan},
    "a surrogate that kernels do not know": {"surrogate": Surrogate("gaussian", 1.0)},
    "a surrogate without width": {"surrogate": Surrogate("triangle", 0.0)},
    "a surrogate whose width is no number": {"surrogate": Surrogate("triangle", math.nan)},
    "a surrogate of negative width": {"surrogate": Surrogate("triangle", -1.0)},
    "a threshold for each channel": {"threshold": torch.full((3,), 0.5)},
    "a threshold to be learned": {"threshold": torch.tensor(0.5, requires_grad=True)},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_kernels_would_read_beyond_is_refused(what):
    norm = nn.BatchNorm2d(3, affine=False)
    fitting = {"currents": MAP, "shift": torch.zeros(3), "norm": norm, "threshold": 0.5}
    given = fitting | {"surrogate": Surrogate("triangle", 1.0)}
    assert norm_fire(**given).shape == MAP.shape
    with pytest.raises(ValueError, match=r"^(currents|norm|shift|threshold|surrogate): expected"):
        norm_fire(**{**given, **REFUSED[what]})
    if {"currents", "norm"} & set(REFUSED[what]):
        with pytest.raises(ValueError, match=r"^(currents|norm): expected"):
            batch_norm(**{"currents": MAP, "norm": norm} | REFUSED[what])


def test_a_norm_of_another_type():
    norm = nn.BatchNorm2d(3).double()
    nn.init.normal_(norm.weight)
    ours, reference = (MAP.clone(memory_format=torch.preserve_format).requires_grad_() for _ in range(2))
    found = batch_norm(ours, norm)
    expected = nn.functional.batch_norm(reference, None, None, norm.weight.float(), norm.bias.float(), True)
    (found**2).sum().backward()
    (expected**2).sum().backward()
    torch.testing.assert_close((found, ours.grad), (expected, reference.grad), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("outlier", [1000.0037, -3e4])
def test_a_channel_may_start_with_an_outlier(outlier, dtype) -> None:
    """Sums are taken relative to a channel's first pixel: the further off it is, the fewer digits a variance keeps."""
    x = currents(16, 3, 32, 32, dtype=dtype)
    ordinary = BatchNorm(3)
    expected = ordinary(x)
    x[:, 0] = 0
    x[0, :2, 0, 0] = outlier
    norm, exact = BatchNorm(3), nn.BatchNorm2d(3).double()
    out, reference = norm(x), exact(x.double())
    most = 1e-5 if dtype == torch.float32 else 2**-7  # a bfloat16 has 8 digits, and the interpreter cuts the others off
    torch.testing.assert_close(out.double(), reference, rtol=most, atol=most)
    torch.testing.assert_close(norm.running_var.double(), exact.running_var, rtol=1e-5, atol=0)
    torch.testing.assert_close(norm.running_mean.double(), exact.running_mean, rtol=1e-5, atol=1e-6)
    assert torch.equal(out[:, 2], expected[:, 2]), "other channels keep their bits"
    assert norm.running_var[2] == ordinary.running_var[2]


@pytest.mark.skipif("bias" not in inspect.signature(nn.BatchNorm2d).parameters, reason="PyTorch's has no such option")
def test_a_norm_without_bias() -> None:
    results = []
    for slow in (False, True):
        norm = BatchNorm(5, bias=False).double()
        nn.init.constant_(norm.weight, 0.7)
        results.append(run(norm, currents(6, 5, 5, 7), slow))
    for name, expected in results[1].items():
        torch.testing.assert_close(results[0][name], expected, rtol=1e-10, atol=1e-10, msg=name)
