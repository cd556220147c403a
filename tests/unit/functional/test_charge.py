"""Charging and firing in one function is doing both window after window, and so are its gradients."""

import sys

import numpy
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from onespike.functional import FUSIONS, SURROGATES, Surrogate, charge, charge_and_fire, fuse, spike
from onespike.functional.kernels import kernels_for

MODULE = sys.modules["onespike.functional.charge"]  # of that name the package has the function
needs_compiler = pytest.mark.skipif(kernels_for(torch.float64, "charge_kernels.c") is None, reason="needs a C compiler")


@pytest.fixture(autouse=True, params=[pytest.param("kernels", marks=needs_compiler), "PyTorch"])
def way(request, monkeypatch):
    """Everything here holds of both ways to compute it."""
    if request.param == "PyTorch":
        monkeypatch.setattr(MODULE, "_kernels", lambda *_: None)
    return request.param


def draw(*shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def one_after_the_other(currents, decay, threshold, surrogate, beside=None, behind=0, fusion="sincos", theta=0.5):
    potentials = [currents[0]]
    if beside is not None and behind == 0:
        potentials = [currents[0] + decay * fuse(beside[0], beside[1 % len(beside)], fusion, theta)]
    for window in range(1, len(currents)):
        before = potentials[-1]
        handed = before if beside is None else fuse(beside[window - behind], before, fusion, theta)
        potentials.append(currents[window] + decay * handed)
    v = torch.stack(potentials)
    return v, spike(v, threshold, surrogate)


def compare(currents, beside, behind=0, fusion="sincos", surrogate="rectangle", used=("v", "spikes")):
    given = [tensor for tensor in (currents, beside) if tensor is not None]
    weights = torch.linspace(-1, 1, currents.numel(), dtype=torch.float64).view_as(currents)
    results = [
        f(currents, 0.4, 0.3, surrogate, beside, behind, fusion, 0.3) for f in (charge_and_fire, one_after_the_other)
    ]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    assert torch.equal(results[0][1], (results[0][0] > 0.3).double())
    gradients = []
    for v, spikes in results:
        parts = {"v": v.square() * weights, "spikes": spikes * weights.flip(0)}
        loss = sum(parts[name].sum() for name in used)
        gradients.append(torch.autograd.grad(loss, given, allow_unused=True, materialize_grads=True))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    assert gradients[0][0].abs().max() > 0


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("windows", [1, 4])
def test_values_and_gradients_are_those_of_the_loop(fusion, behind, windows):
    compare(draw(windows, 2, 3, 2, 2, seed=0), draw(windows, 2, 3, 2, 2, seed=1), behind, fusion)


@pytest.mark.parametrize("used", [("v",), ("spikes",)])
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("meets", [False, True])
def test_whichever_of_the_two_is_used(used, surrogate, meets):
    beside = draw(4, 2, 3, 2, 2, seed=6) if meets else None
    for one in (surrogate, Surrogate(surrogate, 1.7)):
        compare(draw(4, 2, 3, 2, 2, seed=5), beside, surrogate=one, used=used)


def test_without_anything_beside_it_leaks():
    currents = draw(4, 1, 2, 2, 2, seed=3)
    compare(currents, None)
    assert torch.autograd.gradcheck(lambda i: charge_and_fire(i, 0.7, 0.5)[0], currents)


@pytest.mark.parametrize("meets", [False, True])
def test_to_charge_alone_is_the_same_without_spikes(meets):
    currents, beside = draw(4, 2, 3, 2, 2, seed=7), draw(4, 2, 3, 2, 2, seed=8) if meets else None
    alone, (v, _) = charge(currents, 0.4, beside), charge_and_fire(currents, 0.4, 0.5, beside=beside)
    assert torch.equal(alone, v)
    assert torch.equal(*(torch.autograd.grad(out.square().sum(), currents)[0] for out in (alone, v)))


def test_channels_last_stays_channels_last():
    currents = draw(8, 3, 4, 4, seed=4).detach().contiguous(memory_format=torch.channels_last).unflatten(0, (4, 2))
    for out in charge_and_fire(currents, 0.4, 0.5, beside=currents.sin(), behind=1):
        assert out.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mine", [lambda x, _, a: a * x.square(), lambda x, _, a: torch.full_like(x, a)])
def test_a_fusion_of_one_s_own_may_leave_out_potentials(mine, monkeypatch):
    monkeypatch.setitem(FUSIONS, "mine", mine)
    test_values_and_gradients_are_those_of_the_loop("mine", behind=0, windows=4)


def test_a_surrogate_of_one_s_own_may_be_a_comparison(monkeypatch):
    monkeypatch.setitem(SURROGATES, "mine", lambda d: d.abs() < 1)
    test_whichever_of_the_two_is_used(("spikes",), "mine", meets=True)


@pytest.mark.parametrize(
    ("currents", "beside"),
    [
        ((2, 1, 2, 2, 2), torch.ones(4, 1, 2, 2, 2)),
        ((4, 1, 2, 2, 2), torch.ones(2, 1, 2, 2, 2)),
        ((2, 1, 1, 2, 2), torch.ones(2, 3, 1, 2, 2)),
        ((2, 1, 1, 2, 2), torch.ones(2, 1, 1, 1, 1)),
        ((2, 1, 1, 2, 2), torch.ones(2, 1, 1, 2, 2, device="meta")),
        ((2, 1, 1, 2, 2), torch.ones(2, 1, 1, 2, 2) * 1j),
    ],
)
def test_x_is_as_the_currents_are(currents, beside):
    for function in (charge, lambda *given: charge_and_fire(*given[:2], 0.5, beside=given[2])):
        with pytest.raises(ValueError, match=r"^beside: expected real numbers .*, as the currents are, got"):
            function(torch.zeros(currents, requires_grad=True), 0.5, beside)


@pytest.mark.parametrize("currents", [torch.zeros(()), torch.zeros(2, 1, 1, 2, 2, dtype=torch.int64)])
def test_currents_are_windows_of_real_numbers(currents):
    with pytest.raises(ValueError, match=r"^currents: expected real numbers \(V, B, C, M, M\), got"):
        charge(currents, 0.5)


@pytest.mark.parametrize("behind", [0, 1])
def test_no_windows_have_no_gradients(behind):
    currents, beside = draw(0, 1, 2, 2, 2, seed=1), draw(0, 1, 2, 2, 2, seed=2)
    found = torch.autograd.grad(charge(currents, 0.4, beside, behind).sum(), (currents, beside))
    assert [tuple(one.shape) for one in found] == [(0, 1, 2, 2, 2)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": float("nan")}, "threshold: expected a number, got nan"),
        ({"behind": 2}, "behind: expected 0 or 1, got 2"),
        ({"surrogate": "square"}, "surrogate: expected one of rectangle, .*got 'square'"),
        ({"theta": 1.5}, r"theta: expected 0 < theta <= 1, got 1\.5"),
        ({"fusion": "square"}, "fusion: expected one of sincos, .*got 'square'"),
    ],
)
def test_options_are_checked(options, message):
    currents, beside = draw(4, 1, 2, 2, 2, seed=3), draw(4, 1, 2, 2, 2, seed=4)
    with pytest.raises(ValueError, match=message):
        charge_and_fire(currents, 0.4, **{"threshold": 0.5, "beside": beside, **options})


def fresh(tensor):
    return tensor.detach().requires_grad_()


@pytest.fixture
def taken(way, monkeypatch):
    """Of each call, the kernels that computed it, or None."""
    if way == "PyTorch":
        pytest.skip("it is of kernels")
    found, own = [], MODULE._kernels
    monkeypatch.setattr(MODULE, "_kernels", lambda *given: (found.append(own(*given)), found[-1])[1])
    return found


def test_kernels_take_the_paper_s_neurons_and_leave_others(taken):
    i, x = (draw(4, 2, 3, 2, 2, seed=seed) for seed in (1, 2))
    for behind in (0, 1):
        charge_and_fire(i, 0.4, 0.5, beside=x, behind=behind)
    charge_and_fire(i, 0.4, 0.5, "triangle", x)
    charge(i, 0.4, x)
    assert len(taken) == 4
    assert None not in taken
    taken.clear()
    charge(i, 0.4)
    charge(i, 0.4, x.float())
    charge(i, 0.4, x.transpose(-1, -2))
    charge(i, 0.4, x[:1].expand_as(x))
    charge(i.transpose(0, 1), 0.4, x.transpose(0, 1))
    charge(i[..., :1], 0.4, x[..., :1])
    charge(i[:0], 0.4, x[:0])
    charge(i, 0.4, torch._neg_view(x))
    charge(i, 0.4, x, fusion="sinsum")
    charge_and_fire(i, 0.4, 0.5, "arctan", x)
    assert taken == [None] * 10
    taken.clear()
    with torch.no_grad():
        charge_and_fire(i, 0.4, 0.5, beside=x)
    assert taken == []


def test_a_surrogate_that_takes_the_place_of_a_known_one(taken, monkeypatch):
    monkeypatch.setitem(SURROGATES, "triangle", lambda d: d.abs() < 1)
    test_whichever_of_the_two_is_used(("spikes",), "triangle", meets=True)
    assert set(taken) == {None}


def test_numbers_of_any_type_are_numbers_in_c(taken):
    i, x = (draw(4, 2, 3, 2, 2, seed=seed) for seed in (1, 2))
    found = []
    for theta in (0.5, numpy.float32(0.5), torch.tensor(0.5)):
        one, window = (1.0, 1) if isinstance(theta, float) else (1, 1.0)  # the other type of number
        v, spikes = charge_and_fire(i, one, one, Surrogate("triangle", one), x, window, theta=theta)
        found.append((v, spikes, *torch.autograd.grad((v + spikes).sum(), (i, x))))
    assert None not in taken
    for one in found[1:]:
        assert all(map(torch.equal, one, found[0]))


def test_tensors_that_hold_nothing_pass(taken):
    with FakeTensorMode():
        i, x = (torch.empty(4, 2, 3, 2, 2, requires_grad=True) for _ in range(2))
        v, _ = charge_and_fire(i, 0.4, 0.5, beside=x)
        v.sum().backward()
    assert v.shape == (4, 2, 3, 2, 2)
    assert taken == [None]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    windows=st.integers(1, 5),
    behind=st.integers(0, 1),
    shape=st.sampled_from([(2, 3, 5, 5), (1, 1, 1, 1), (3, 48, 12, 12), (2, 512, 1, 2)]),
    surrogate=st.sampled_from([("rectangle", 0.7), ("rectangle", 2.0), ("triangle", 1.0), ("triangle", 2.0)]),
    used=st.sampled_from([("v",), ("spikes",), ("v", "spikes")]),
    scale=st.sampled_from([1.0, 30.0, 1e4]),
    last=st.booleans(),
)
def test_kernels_are_the_loop(taken, windows, behind, shape, surrogate, used, scale, last):
    def laid(tensor):  # channels last, as in networks
        tensor = tensor.flatten(0, 1).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        return fresh(tensor.unflatten(0, (windows, shape[0])))

    i, x = laid(draw(windows, *shape, seed=1)), laid(scale * draw(windows, *shape, seed=2))
    # Gradients lie as a transposed product delivers them: otherwise than V.
    gradients = [draw(windows, *shape, seed=seed).transpose(-1, 2).contiguous().transpose(-1, 2) for seed in (3, 4)]
    found = []
    for function in (charge_and_fire, one_after_the_other):
        v, spikes = function(i, 0.4, 0.3, Surrogate(*surrogate), x, behind, "sincos", 0.7)
        pairs = [(out, g) for name, out, g in zip(("v", "spikes"), (v, spikes), gradients, strict=True) if name in used]
        outs, arriving = zip(*pairs, strict=True)
        back = torch.autograd.grad(outs, (i, x), arriving, allow_unused=True, materialize_grads=True)
        found.append((v, spikes, *back))
    assert taken[-1] is not None
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10 * min(scale, 1e2))


@pytest.mark.parametrize("windows", [1, 4])
@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize(("surrogate", "edge"), [("triangle", 0.0), ("rectangle", 0.01)])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 3e-6), (torch.bfloat16, 0.03)])
def test_lower_precision_is_near(taken, dtype, error, surrogate, edge, behind, windows):
    i, x = (fresh(draw(windows, 2, 48, 12, 12, seed=seed).to(dtype)) for seed in (1, 2))
    found = []
    for inputs in ((i, x), (fresh(i.double()), fresh(x.double()))):
        v, spikes = charge_and_fire(inputs[0], 0.4, 0.3, surrogate, inputs[1], behind)
        assert v.dtype == spikes.dtype == inputs[0].dtype
        assert torch.equal(spikes, (v > 0.3).to(v.dtype))
        found.append((v, *torch.autograd.grad(v.sum() + 0.5 * spikes.sum(), inputs)))
    assert None not in taken
    for low, exact in zip(*found, strict=True):  # near a rectangle's edges a gradient is there or not
        off = (low.double() - exact).abs() > error * (1 + exact.abs())
        assert off.double().mean() <= edge


def test_single_precision_keeps_large_potentials(taken):
    i, x = torch.zeros(2, 1, 1, 100, 100), 120 * draw(2, 1, 1, 100, 100, seed=1).detach()
    x = x.float().requires_grad_()
    v = charge(i, 1.0, x, theta=0.5)
    assert None not in taken
    # The first window meets X of the second. The products are those of single precision, the functions of them exact.
    a, b = ((torch.pi / 4 * one).double() for one in (x[0], x[1]))
    assert (v[0].double() - 2 * a.sin() * b.cos()).abs().max() < 2e-6


def test_what_is_no_number_stays_none_and_what_is_huge_stays_bounded():
    x = torch.tensor([torch.inf, torch.nan, 1e30, -1e30], dtype=torch.float64).view(1, 1, 1, 2, 2).requires_grad_()
    v = charge(torch.zeros_like(x), 1.0, x)
    assert v.isnan().flatten().tolist() == [True, True, False, False]
    assert v[..., 1, :].abs().max() <= 2


def test_an_infinite_gradient_outside_the_surrogate_is_zero():
    i, x = (torch.full((1, 1, 1, 1, 1), value, requires_grad=True) for value in (9.0, 0.0))
    _, spikes = charge_and_fire(i, 0.4, 0.5, beside=x)
    assert torch.autograd.grad(spikes, i, torch.full_like(spikes, torch.inf))[0].item() == 0


def test_potentials_beside_may_be_less_precise():
    currents, beside = draw(4, 2, 3, 2, 2, seed=9), draw(4, 2, 3, 2, 2, seed=10).detach().float().requires_grad_()
    results = [charge(currents, 0.4, one, behind=1) for one in (beside, beside.double())]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(out.square().sum(), (currents, beside)) for out in results]
    torch.testing.assert_close(*(of_currents for of_currents, _ in gradients), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*(of_beside for _, of_beside in gradients), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "remedy"), [("decay", "a neuron"), ("threshold", "`spike`, or a neuron")])
@pytest.mark.parametrize("meets", [False, True])
def test_constants_are_no_parameters(name, remedy, meets):
    currents = draw(4, 2, 3, 2, 2, seed=11)
    given = {"decay": 0.4, "threshold": 0.3, "beside": currents.sin() if meets else None}
    with pytest.raises(ValueError, match=f"^{name}: expected a number; use {remedy} with learnable_{name}"):
        charge_and_fire(currents, **given | {name: torch.tensor(0.5, requires_grad=True)})
    with torch.no_grad():  # nothing learns there
        charge_and_fire(currents, **given | {name: torch.tensor(0.5, requires_grad=True)})
    constant = {name: torch.tensor(given[name], dtype=torch.float64)}
    torch.testing.assert_close(charge_and_fire(currents, **given | constant), charge_and_fire(currents, **given))
