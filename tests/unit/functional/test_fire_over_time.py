"""Norm and fire over time as one operation, against batch norm, shifts and neurons one after the other."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from onespike.functional import SURROGATES, Surrogate, fire_over_time, has_kernels, has_kernels_over_time
from onespike.functional.kernels import kernels_for
from onespike.models import create_model, strict_layers
from onespike.models.spiking_vgg import SpikingVGGConfig
from onespike.models.strict_layers import Firing
from onespike.neurons import Carry, NeuronConfig

pytestmark = pytest.mark.skipif(kernels_for(torch.float64, "over_time_kernels.c") is None, reason="needs a C compiler")

CONFIGS = [("rectangle", 0.7), ("rectangle", 2.0), ("triangle", 1.0), ("triangle", 2.0)]


def make_firing(channels: int, population: int, **neuron: Any) -> Firing:
    torch.manual_seed(0)
    firing = Firing(channels, SpikingVGGConfig(population=population, neuron=NeuronConfig(**neuron)))
    with torch.no_grad():
        firing[0].shift.add_(torch.randn(population * channels))
    return firing


def currents(steps: int, *shape: int, dtype: torch.dtype = torch.float64, shown: bool = False) -> Tensor:
    """Currents (T, B, C, H, W); of an image that is `shown`, the same at all steps."""
    count = 1 if shown else steps
    values = 3 * torch.randn(count * shape[0], *shape[1:], generator=torch.Generator().manual_seed(2)).double() + 5
    values = values.to(dtype).contiguous(memory_format=torch.channels_last)
    return values.unflatten(0, (count, shape[0])).expand(steps, *shape)


def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    names = "models.strict_layers.has_kernels_over_time", "models.strict_layers.has_kernels", "units.layers.has_kernels"
    for name in names:
        monkeypatch.setattr(f"onespike.{name}", lambda _: False)


def run(firing: Firing, x: Tensor, slow: bool) -> dict[str, Tensor]:
    """Spikes, gradients, and what the norm remembers."""
    x = x.detach().requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        plain(patch) if slow else None
        carry = Carry(ends=True)
        out = firing(x, carry)
        assert (carry.after == [None]) != slow, "it did not take the way that is tested"
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (out * weights.to(out.dtype)).sum().backward()
    gradients = {name: value.grad for name, value in firing.named_parameters()}
    return {"out": out.detach(), "gradient": x.grad} | gradients | dict(firing.named_buffers())


@settings(max_examples=60, deadline=None)
@given(
    surrogate=st.sampled_from(CONFIGS),
    steps=st.integers(1, 6),
    population=st.integers(1, 3),
    shape=st.sampled_from([(3, 5, 4, 4), (2, 17, 3, 5), (300, 3, 1, 1), (2, 33, 9, 9)]),
    decay=st.sampled_from([0.0, 0.4, 1.0]),
    shown=st.booleans(),
)
def test_it_equals_its_parts(surrogate, steps, population, shape, decay, shown) -> None:
    x = currents(steps, *shape, shown=shown)
    assert has_kernels_over_time(x)
    name, width = surrogate
    neuron = {"surrogate": name, "surrogate_width": width, "threshold": 0.4, "decay": decay}
    fast, slow = (run(make_firing(shape[1], population, **neuron).double(), x, slow) for slow in (False, True))
    assert fast.keys() == slow.keys()
    assert 0 < slow["out"].mean() < 1
    assert torch.equal(fast["out"], slow["out"])
    for key, expected in slow.items():
        torch.testing.assert_close(fast[key], expected, rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize("threads", [1, 2])
def test_bfloat16_is_as_near_as_its_numbers_allow(threads) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        x = currents(4, 8, 32, 9, 9, dtype=torch.bfloat16)
        exact = run(make_firing(32, 2, surrogate="triangle", surrogate_width=2.0).double(), x.double(), False)
        fast, again = (run(make_firing(32, 2, surrogate="triangle", surrogate_width=2.0), x, False) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(fast[name], again[name]) for name in fast)
    assert (fast["out"] != exact["out"]).double().mean() < 1e-4
    off = (fast["gradient"].double() - exact["gradient"]).norm() / exact["gradient"].norm()
    assert off < 0.02


@pytest.mark.parametrize(("steps", "recompute"), [(2, False), (4, False), (4, True)])
@pytest.mark.parametrize("family", ["spiking-vgg-xs", "spiking-resnet-xs"])
def test_a_network_computes_what_it_does_without_kernels(family, steps, recompute, monkeypatch) -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    images = images.contiguous(memory_format=torch.channels_last)
    used, found = [], []
    monkeypatch.setattr(strict_layers, "fire_over_time", lambda *args: used.append(1) or fire_over_time(*args))
    for slow in (False, True):
        torch.manual_seed(0)
        network = create_model(family, num_classes=5, width=8, time_steps=steps)
        nn.init.normal_(network.head.weight, std=0.1)
        network = network.double().to(memory_format=torch.channels_last)
        if slow:
            plain(monkeypatch)
        network.recompute = recompute and not slow
        loss = network(images).square().mean()
        loss.backward()
        gradients = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
        found.append({"loss": loss.detach()} | gradients | dict(network.named_buffers()))
        fires = sum(isinstance(module, Firing) for module in network.modules())
    assert len(used) == fires * (1 + recompute), "every layer of neurons is one operation"
    assert found[0].keys() == found[1].keys()
    for key, expected in found[1].items():
        torch.testing.assert_close(found[0][key], expected, rtol=1e-9, atol=1e-10, msg=key)


def test_each_file_of_kernels_is_loaded_once() -> None:
    kernels_for.cache_clear()
    assert has_kernels_over_time(currents(2, 1, 3, 4, 4))
    assert has_kernels(currents(2, 1, 3, 4, 4)[0])
    assert kernels_for.cache_info().misses == 2


def test_whoever_goes_on_or_looks_takes_the_plain_way() -> None:
    x = currents(3, 2, 4, 3, 3)
    firing = make_firing(4, 2).double()
    whole = firing(x, Carry(ends=True))
    carry = Carry()
    assert torch.equal(firing(x, carry), whole)
    ((potential, fired),) = carry.after
    assert torch.equal(fired, whole[-1])
    later = Carry(carry.after, ends=True)
    assert not torch.equal(firing(x, later), whole), "the state does not matter"
    seen = []
    firing[1].register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    assert torch.equal(firing(x, Carry(ends=True)), whole)
    assert torch.equal(torch.stack([spikes for _, spikes in seen]), whole)
    torch.testing.assert_close(seen[-1][0], potential)


def test_other_neurons_layouts_and_modes_take_the_plain_way() -> None:
    x = currents(3, 2, 4, 3, 3)
    assert not has_kernels_over_time(x[:, :, :, :, 1:])
    assert not has_kernels_over_time(x[0])
    assert not has_kernels_over_time(x.contiguous())
    assert not has_kernels_over_time(x[::2])
    assert has_kernels_over_time(currents(8, 1, 4096, 1, 1))
    assert not has_kernels_over_time(currents(9, 1, 4096, 1, 1))  # a thread's stack holds no more
    others = [{"surrogate": "arctan"}, {"learnable_decay": "layer"}, {"learnable_threshold": "layer"}, {"name": "plif"}]
    for neuron in others:
        firing, carry = make_firing(4, 2, **neuron).double(), Carry(ends=True)
        firing(x, carry).sum().backward()
        assert carry.after[0] is not None
        assert all(value.grad is not None for value in firing.parameters())
    frozen = make_firing(4, 2).double()
    frozen[0].norm.eval()
    for carry in (None, Carry(ends=True)):
        frozen(x if carry else x[0], carry)
    assert frozen[0].norm.num_batches_tracked == 0


def test_a_surrogate_in_the_place_of_a_known_one_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SURROGATES, "triangle", torch.zeros_like)
    x, firing = currents(3, 2, 4, 3, 3).requires_grad_(), make_firing(4, 2, surrogate="triangle").double()
    firing(x, Carry(ends=True)).sum().backward()
    assert not x.grad.any()
    assert not firing[0].shift.grad.any()
    with pytest.raises(ValueError, match=r"^surrogate: expected"):
        fire_over_time(x, torch.zeros(4).double(), firing[0].norm, 0.5, 0.5, Surrogate("triangle", 1.0))


ODD = [
    {"decay": 7.0},
    {"threshold": -1.0},
    {"shift": torch.zeros(2)},
    {"shift": torch.zeros(3, device="meta")},
    {"shift": torch.zeros(3) + 1j},
    {"shift": torch._efficientzerotensor(3)},
    {"norm": nn.BatchNorm2d(3, affine=False, device="meta")},
    {"currents": torch.randn(2, 2, 3, 4, 4)},
    {"currents": torch.zeros(2, 2, 3, 4, 4).to_sparse()},
    {"currents": torch.zeros(1, 1, 3, 1, 1)},
    {"surrogate": Surrogate("triangle", 0.0)},
    {"surrogate": Surrogate("triangle", float("nan"))},
    {"threshold": torch.tensor(0.5, requires_grad=True)},
    {"decay": torch.tensor(0.5, requires_grad=True)},
    {"decay": torch.full((3,), 0.5)},
]


@pytest.mark.parametrize("odd", ODD)
def test_what_the_kernels_would_read_beyond_is_refused(odd):
    currents = torch.randn(4, 3, 4, 4).contiguous(memory_format=torch.channels_last).unflatten(0, (2, 2))
    given = {"currents": currents, "shift": torch.zeros(3), "norm": nn.BatchNorm2d(3, affine=False), "threshold": 0.5}
    given |= {"decay": 0.5, "surrogate": Surrogate("triangle", 1.0)}
    assert fire_over_time(**given).shape == currents.shape
    with pytest.raises(ValueError, match=f"^{next(iter(odd))}: expected"):
        fire_over_time(**given | odd)


def test_the_refusal_names_the_function_that_tells() -> None:
    with pytest.raises(ValueError, match="expected such as has_kernels_over_time takes"):
        fire_over_time(torch.randn(2, 3), torch.zeros(3), nn.BatchNorm2d(3), 0.5, 0.5, Surrogate("triangle"))


def test_one_value_of_each_channel_has_no_variance() -> None:
    assert not has_kernels_over_time(currents(1, 1, 3, 1, 1))
    assert has_kernels_over_time(currents(2, 1, 3, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_channel_may_start_with_an_outlier(dtype) -> None:
    x = currents(3, 8, 2, 32, 32, dtype=dtype)
    x[0, 0, 0, 0, 0] = 1e4
    norms = nn.BatchNorm2d(2, affine=False), nn.BatchNorm2d(2, affine=False).double()
    given = torch.zeros(2), 0.5, 0.4, Surrogate("triangle")
    found, expected = (
        fire_over_time(one, given[0].to(norm.running_var), norm, *given[1:])
        for one, norm in zip((x, x.double()), norms, strict=True)
    )
    assert (found != expected).double().mean() < 1e-4
    torch.testing.assert_close(norms[0].running_var.double(), norms[1].running_var, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [int, torch.tensor])
@pytest.mark.parametrize("decay", [0, 1])
def test_numbers_of_any_kind_reach_the_kernels(kind, decay):
    """A whole number that is passed on as such would be read as an address."""
    results = []
    for one in (float, kind):
        x = currents(3, 2, 3, 4, 4).requires_grad_()
        norm = nn.BatchNorm2d(3, affine=False).double()
        spikes = fire_over_time(x, torch.zeros(3).double(), norm, one(1), one(decay), Surrogate("triangle", 1.0))
        spikes.sum().backward()
        results.append((spikes, x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
