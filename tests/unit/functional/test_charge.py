"""Charging in one function is charging window after window, and so are its gradients."""

import pytest
import torch

from onespike.functional import FUSIONS, charge, fuse


def draw(*shape, seed):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def one_after_the_other(currents, decay, beside=None, behind=0, fusion="sincos", theta=0.5):
    potentials = [currents[0]]
    if beside is not None and behind == 0:
        potentials = [currents[0] + decay * fuse(beside[0], beside[1 % len(beside)], fusion, theta)]
    for window in range(1, len(currents)):
        before = potentials[-1]
        handed = before if beside is None else fuse(beside[window - behind], before, fusion, theta)
        potentials.append(currents[window] + decay * handed)
    return torch.stack(potentials)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("windows", [1, 4])
def test_values_and_gradients_are_those_of_the_loop(fusion, behind, windows):
    given = currents, beside = draw(windows, 2, 3, 2, 2, seed=0), draw(windows, 2, 3, 2, 2, seed=1)
    weights = torch.linspace(-1, 1, currents.numel(), dtype=torch.float64).view_as(currents)
    options = (0.4, beside, behind, fusion, 0.3)
    results = [function(currents, *options) for function in (charge, one_after_the_other)]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    one, other = (
        torch.autograd.grad((v.square() * weights).sum(), given, allow_unused=True, materialize_grads=True)
        for v in results
    )
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_without_anything_beside_it_leaks():
    currents = draw(4, 1, 2, 2, 2, seed=3)
    torch.testing.assert_close(charge(currents, 0.7), one_after_the_other(currents, 0.7))
    assert torch.autograd.gradcheck(lambda i: charge(i, 0.7), currents)


def test_channels_last_stays_channels_last():
    currents = draw(8, 3, 4, 4, seed=4).detach().contiguous(memory_format=torch.channels_last).unflatten(0, (4, 2))
    v = charge(currents, 0.4, beside=currents.sin(), behind=1)
    assert v.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mine", [lambda x, _, a: a * x.square(), lambda x, _, a: torch.full_like(x, a)])
def test_a_fusion_of_one_s_own_may_leave_out_potentials(mine, monkeypatch):
    monkeypatch.setitem(FUSIONS, "mine", mine)
    test_values_and_gradients_are_those_of_the_loop("mine", behind=0, windows=4)


def test_x_lies_one_window_behind_or_none():
    with pytest.raises(ValueError, match="behind: expected 0 or 1, got 2"):
        charge(draw(4, 1, 2, 2, 2, seed=3), 0.4, draw(4, 1, 2, 2, 2, seed=4), behind=2)
