"""Buffers that hold a state, not weights: what is computed from them is counted, from the first batch on."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.counting.operations import Operations, count_operations
from onespike.errors import OnespikeError
from tests.forward import Forward

IMAGES = 2


def in_place(net, current: Tensor) -> Tensor:
    return net.v.mul_(0.5).add_(current)


def copied(net, current: Tensor) -> Tensor:
    return net.v.copy_(net.v * 0.5 + current)


def by_out(net, current: Tensor) -> Tensor:
    return torch.add(net.v * 0.5, current, out=net.v)


def part_by_part(net, current: Tensor) -> Tensor:
    v = net.v * 0.5
    for neuron in range(current.shape[1]):
        net.v[:, neuron] = v[:, neuron] + current[:, neuron]
    return net.v


def assigned_anew(net, current: Tensor) -> Tensor:
    net.v = net.v * 0.5 + current
    return net.v


def spiking_mlp(charge: Callable[[nn.Module, Tensor], Tensor], read_first: bool = False) -> nn.Module:
    """8 -> 16 -> 10 with a potential that stays; `read_first` fires before it charges."""

    def forward(net, x):
        if read_first:
            out = net.second((net.v > 1).float())
            charge(net, net.first(x))
            return out
        return net.second((charge(net, net.first(x)) > 1).float())

    potential = nn.Buffer(torch.full((IMAGES, 16), 2.0))
    return Forward(forward, first=nn.Linear(8, 16), second=nn.Linear(16, 10), v=potential)


def count(model: nn.Module, batches: int) -> Operations:
    torch.manual_seed(0)
    return count_operations(model, [torch.rand(IMAGES, 8) for _ in range(batches)])


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("read_first", [False, True])
@pytest.mark.parametrize("charge", [in_place, copied, by_out, part_by_part, assigned_anew])
def test_a_potential_in_a_buffer(charge, read_first, batches):
    operations = count(spiking_mlp(charge, read_first), batches)
    assert operations.macs == 8 * 16 + 16 * 10
    assert [product.arrives for product in operations.products if product.name == "linear 16 -> 10"] == ["binary"]
    assert operations.elementwise == {"multiply": 16, "add": 16, "compare": 16}


def test_spikes_read_before_the_buffer_is_written_are_those_that_were_there():
    operations = count(spiking_mlp(copied, read_first=True), 1)
    (second,) = (product for product in operations.products if product.name == "linear 16 -> 10")
    assert (second.rate, second.operations) == (1, 16 * 10)  # potentials start at 2, all fire


def test_a_weight_that_activations_are_written_into_is_none():
    """Fast weights: the layer learns from what it sees."""

    def forward(net, x):
        net.weight.add_(x.T @ x)
        return F.linear(x, net.weight)

    products = count(Forward(forward, weight=nn.Buffer(torch.zeros(8, 8))), 1).products
    assert [(product.macs, product.weights) for product in products] == [(8 * 8, 0), (8 * 8, 0)]


def test_a_kernel_that_activations_are_written_into_is_refused():
    def forward(net, x):
        net.kernel.copy_(x[:1, None, :4])
        return F.conv1d(x[:, None], net.kernel)

    with pytest.raises(OnespikeError, match="a convolution with weights that are activations"):
        count(Forward(forward, kernel=nn.Buffer(torch.zeros(1, 1, 4))), 1)


@pytest.mark.parametrize("batches", [1, 3])
def test_weights_made_of_weights_stay_weights(batches):
    """A linear layer whose weight is put together, in place, of two parameters and a buffer."""

    def forward(net, x):
        left = torch.empty_like(net.left).copy_(net.left)
        return F.linear(x, (left @ net.right).mul_(net.mask).clamp_(-1, 1))

    weights = {"left": torch.randn(5, 2), "right": torch.randn(2, 8), "mask": nn.Buffer(torch.ones(5, 8))}
    operations = count(Forward(forward, **weights), batches)
    (product,) = operations.products
    assert (product.name, product.macs, product.weights) == ("linear 8 -> 5", 8 * 5, 8 * 5)
    assert not operations.elementwise


def test_a_first_state_of_zeros_is_no_weight():
    def forward(net, x):
        state = net.state.weight.new_zeros(len(x), 4)
        for _ in range(3):
            state = torch.tanh(net.input(x) + net.state(state))
        return state

    assert count(Forward(forward, input=nn.Linear(8, 4), state=nn.Linear(4, 4)), 1).macs == 3 * (8 * 4 + 4 * 4)


def test_spikes_drawn_from_learned_rates_are_no_weights():
    def forward(net, x):
        return net.head(torch.bernoulli(net.rates.expand(len(x), 4)))

    operations = count(Forward(forward, rates=torch.rand(4), head=nn.Linear(4, 3)), 1)
    assert (operations.macs, operations.products[0].arrives) == (4 * 3, "binary")
    assert operations.elementwise == {"random": 4}


def test_memory_is_not_taken_for_that_of_an_earlier_batch():
    """What is made of weights is freed after each batch, and activations come to lie there."""

    def forward(net, x):
        for _ in range(8):
            x = torch.tanh(F.linear(x, net.weight.double().float()))
        return x

    assert count(Forward(forward, weight=torch.randn(8, 8)), 20).macs == 8 * 8 * 8
