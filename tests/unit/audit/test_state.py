"""Buffers that hold a state, not weights: what is computed from them is counted, from the first batch on."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.counting.operations import Operations, count_operations
from onespike.errors import OnespikeError

IMAGES = 2


def in_place(net: "SpikingMLP", current: Tensor) -> Tensor:
    return net.v.mul_(0.5).add_(current)


def copied(net: "SpikingMLP", current: Tensor) -> Tensor:
    return net.v.copy_(net.v * 0.5 + current)


def by_out(net: "SpikingMLP", current: Tensor) -> Tensor:
    return torch.add(net.v * 0.5, current, out=net.v)


def part_by_part(net: "SpikingMLP", current: Tensor) -> Tensor:
    v = net.v * 0.5
    for neuron in range(current.shape[1]):
        net.v[:, neuron] = v[:, neuron] + current[:, neuron]
    return net.v


def assigned_anew(net: "SpikingMLP", current: Tensor) -> Tensor:
    net.v = net.v * 0.5 + current
    return net.v


class SpikingMLP(nn.Module):
    """8 -> 16 -> 10 with a potential that stays; `read_first` fires before it charges."""

    v: Tensor

    def __init__(self, charge: Callable[["SpikingMLP", Tensor], Tensor], read_first: bool = False) -> None:
        super().__init__()
        self.charge, self.read_first = charge, read_first
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 10)
        self.register_buffer("v", torch.full((IMAGES, 16), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        if self.read_first:
            out = self.second((self.v > 1).float())
            self.charge(self, self.first(x))
            return out
        return self.second((self.charge(self, self.first(x)) > 1).float())


def count(model: nn.Module, batches: int) -> Operations:
    torch.manual_seed(0)
    return count_operations(model, [torch.rand(IMAGES, 8) for _ in range(batches)])


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("read_first", [False, True])
@pytest.mark.parametrize("charge", [in_place, copied, by_out, part_by_part, assigned_anew])
def test_a_potential_in_a_buffer(charge, read_first, batches):
    operations = count(SpikingMLP(charge, read_first), batches)
    assert operations.macs == 8 * 16 + 16 * 10
    assert [product.arrives for product in operations.products if product.name == "linear 16 -> 10"] == ["binary"]
    assert operations.elementwise == {"multiply": 16, "add": 16, "compare": 16}


def test_spikes_read_before_the_buffer_is_written_are_those_that_were_there():
    operations = count(SpikingMLP(copied, read_first=True), 1)
    (second,) = (product for product in operations.products if product.name == "linear 16 -> 10")
    assert (second.rate, second.operations) == (1, 16 * 10)  # potentials start at 2, all fire


def test_a_weight_that_activations_are_written_into_is_none():
    class Fast(nn.Module):
        """Fast weights: the layer learns from what it sees."""

        weight: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.zeros(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            self.weight.add_(x.T @ x)
            return F.linear(x, self.weight)

    products = count(Fast(), 1).products
    assert [(product.macs, product.weights) for product in products] == [(8 * 8, 0), (8 * 8, 0)]


def test_a_kernel_that_activations_are_written_into_is_refused():
    class Kernel(nn.Module):
        kernel: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kernel", torch.zeros(1, 1, 4))

        def forward(self, x: Tensor) -> Tensor:
            self.kernel.copy_(x[:1, None, :4])
            return F.conv1d(x[:, None], self.kernel)

    with pytest.raises(OnespikeError, match="a convolution with weights that are activations"):
        count(Kernel(), 1)


class Prepared(nn.Module):
    """A linear layer whose weight is put together, in place, of two parameters and a buffer."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 8))
        self.register_buffer("mask", torch.ones(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        left = torch.empty_like(self.left).copy_(self.left)
        return F.linear(x, (left @ self.right).mul_(self.mask).clamp_(-1, 1))


@pytest.mark.parametrize("batches", [1, 3])
def test_weights_made_of_weights_stay_weights(batches):
    operations = count(Prepared(), batches)
    (product,) = operations.products
    assert (product.name, product.macs, product.weights) == ("linear 8 -> 5", 8 * 5, 8 * 5)
    assert not operations.elementwise


def test_a_first_state_of_zeros_is_no_weight():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.state = nn.Linear(8, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            state = self.state.weight.new_zeros(len(x), 4)
            for _ in range(3):
                state = torch.tanh(self.input(x) + self.state(state))
            return state

    assert count(Recurrent(), 1).macs == 3 * (8 * 4 + 4 * 4)


def test_spikes_drawn_from_learned_rates_are_no_weights():
    class Drawn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rates, self.head = nn.Parameter(torch.rand(4)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.bernoulli(self.rates.expand(len(x), 4)))

    operations = count(Drawn(), 1)
    assert (operations.macs, operations.products[0].arrives) == (4 * 3, "binary")
    assert operations.elementwise == {"random": 4}


def test_memory_is_not_taken_for_that_of_an_earlier_batch():
    """What is made of weights is freed after each batch, and activations come to lie there."""

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(8):
                x = torch.tanh(F.linear(x, self.weight.double().float()))
            return x

    assert count(Cast(), 20).macs == 8 * 8 * 8
