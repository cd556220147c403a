"""A network that is asked something aside is afterwards what it was before."""

import pytest
import torch
from torch import nn

from onespike.audit import audit
from onespike.counting import count_operations
from onespike.neurons.copies import copied
from onespike.neurons.watch import aside


class Merging(nn.Identity):
    """Does something when its mode changes, as adapters do that merge their weights for evaluation."""

    merged = False

    def train(self, mode: bool = True) -> "Merging":
        self.merged = not mode
        return super().train(mode)


def network() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), Merging(), Merging()).train()
    made[1].eval()  # frozen
    made[4].eval()
    return made


@pytest.mark.parametrize("fails", [False, True])
def test_modes_draws_and_what_modes_do_are_put_back(fails: bool):
    net, draws = network(), torch.get_rng_state()
    before = {name: one.clone() for name, one in net.state_dict().items()}
    try:
        with aside(net):
            assert not any(module.training for module in net.modules())
            assert net[3].merged
            net(torch.randn(5, 2 if fails else 3))
    except RuntimeError:
        assert fails
    assert [module.training for module in net.modules()] == [True, True, False, True, True, False]
    assert (net[3].merged, net[4].merged) == (False, True)
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())


@pytest.mark.parametrize("count", [count_operations, audit])
def test_a_network_that_is_counted_is_afterwards_what_it_was(count):
    net, draws = network(), torch.get_rng_state()
    count(net, [torch.ones(5, 3)])
    assert [module.training for module in net.modules()] == [True, True, False, True, True, False]
    assert (net[3].merged, net[4].merged) == (False, True)
    assert torch.equal(torch.get_rng_state(), draws)


def test_a_part_in_training_mode_of_a_network_that_is_not_is_put_back():
    net = nn.Sequential(nn.Linear(3, 4), Merging()).eval()
    net[1].train()
    with aside(net):
        assert net[1].merged
    assert not net[1].merged
    assert [module.training for module in net.modules()] == [False, False, True]


def test_states_of_other_packages_are_forgotten_before_and_after():
    snntorch = pytest.importorskip("snntorch")
    net = nn.Sequential(snntorch.Leaky(beta=0.9, init_hidden=True))
    net(torch.ones(2, 3))
    with aside(net):
        first = net(torch.full((2, 3), 0.6))
        assert torch.equal(first, torch.zeros(2, 3))  # with what was kept of the ones it would fire
    assert not net[0].mem.any()


def test_what_was_computed_with_gradients_is_copied_by_its_value():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    torch.nn.utils.prune.l1_unstructured(net[0], "weight", 0.5)
    net[1].kept = {"state": [net(torch.ones(2, 3))]}
    copy = copied(net)
    assert torch.equal(copy(torch.ones(2, 3)), net(torch.ones(2, 3)))
    assert torch.equal(copy[1].kept["state"][0], net[1].kept["state"][0])
    assert net[1].kept["state"][0].requires_grad
    assert not copy[1].kept["state"][0].requires_grad
