"""Charging and firing in one function is doing both window after window, and so are its gradients."""

import pytest
import torch

from onespike.functional import FUSIONS, SURROGATES, Surrogate, charge, charge_and_fire, fuse, spike


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


def test_x_lies_one_window_behind_or_none():
    with pytest.raises(ValueError, match="behind: expected 0 or 1, got 2"):
        charge_and_fire(draw(4, 1, 2, 2, 2, seed=3), 0.4, 0.5, beside=draw(4, 1, 2, 2, 2, seed=4), behind=2)


def test_a_surrogate_that_does_not_exist():
    with pytest.raises(ValueError, match=r"surrogate: expected one of rectangle, .*got 'square'"):
        charge_and_fire(draw(4, 1, 2, 2, 2, seed=3), 0.4, 0.5, "square")
