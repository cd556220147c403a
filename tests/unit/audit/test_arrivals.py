"""What arrives is judged by values, over all batches."""

import math

import pytest
import torch
from torch import nn

from onespike.counting.arrivals import Arrival, Arrivals, in_memory_order
from onespike.counting.operations import count_operations
from tests.forward import Forward


def arrival(*batches: list[float]) -> Arrival:
    watch = Arrivals()
    for batch in batches:
        x = torch.tensor(batch)
        watch.see(x, int(x.count_nonzero()))
    return watch.conclude()


@pytest.mark.parametrize(
    ("batches", "expected"),
    [
        ([[0.0, 1, 1]], Arrival("binary", 1.0, 1)),
        ([[0.0, 0.0]], Arrival("binary", None, 1)),
        ([[0.0, -2.0], [0.0]], Arrival("binary", -2.0, 1)),
        ([[0.0, 1.0], [0.0, 1.25]], Arrival("graded", 0.25, 5)),  # each batch by itself would be binary
        ([[0.0, 0.25, 0.5, 1.0]], Arrival("graded", 0.25, 4)),
        ([[0.5, 0.75]], Arrival("graded", 0.25, 3)),
        ([[-1.0, 1.0]], Arrival("signed", 1.0, 1, signs=True)),
        ([[-0.5, 0.0], [0.5, 0.0]], Arrival("signed", 0.5, 1, signs=True)),
        ([[-0.5, 0.0], [1.0, 0.0]], Arrival("graded", 0.5, 2, signs=True)),
        ([[-0.5, 0.0], [-1.0, 0.0]], Arrival("graded", 0.5, 2)),
        ([[0.0, 1.0, 16.0]], Arrival("graded", 1.0, 16)),
        ([[0.0, 1.0, 17.0]], Arrival("real", None, 0)),
        ([[0.5 * n for n in range(-16, 17)]], Arrival("graded", 0.5, 16, signs=True)),
        ([[0.0, math.inf]], Arrival("real", None, 0)),
        ([[0.0, 1.0, 1.61803]], Arrival("real", None, 0)),
        ([list(torch.linspace(0.1, 3, 100))], Arrival("real", None, 0)),
        ([list(torch.linspace(0.1, 3, 100)), [0.0, 1.0]], Arrival("real", None, 0)),
    ],
)
def test_kinds(batches, expected):
    found = arrival(*batches)
    assert found._replace(step=None) == expected._replace(step=None)
    assert found.step == (None if expected.step is None else pytest.approx(expected.step))


def of_channels(*batches: list[list[float]]) -> Arrival:
    watch = Arrivals(channels=1)
    for batch in batches:
        x = torch.as_tensor(batch)
        watch.see(x, int(x.count_nonzero()))
    return watch.conclude()


def test_each_channel_may_have_a_spike_of_its_own_size():
    spikes = [[0.0, 1.61803], [0.7, 1.61803], [0.7, 0.0]]
    assert of_channels(spikes) == Arrival("binary", None, 1)
    assert of_channels(spikes, [[0.7, 0.0]]).kind == "binary"
    assert of_channels(spikes, [[0.71, 0.0]]).kind == "real"
    assert of_channels([[0.7, 1.61803]]).kind == "real", "one value of each channel is no proof"
    tiny = [[1e-23, 0.0], [1e-23, 1.0], [0.0, 1.0]]
    assert of_channels(tiny, tiny).kind == "binary"
    assert of_channels(tiny, [[1.37e-23, 0.0]]).kind == "real", "however small, the values differ"
    assert of_channels([[0.0, 0.5], [1.0, 0.5], [1.0, 0.0]]).kind == "binary"
    watch = Arrivals()  # no channels with weights of their own
    watch.see(torch.tensor(spikes), 4)
    assert watch.conclude().kind == "real"


def test_each_channel_may_have_graded_values_of_its_own_size():
    sizes = torch.tensor([0.7, 1.61803, 0.1])
    counts = torch.tensor([[0.0, 3, 1], [2, 0, 0], [3, 1, 0], [0, 1, 1], [3, 0, 1], [2, 0, 0]])
    assert of_channels(*(sizes * counts).split(2)) == Arrival("graded", None, 3)
    assert of_channels(sizes * counts, [[0.71, 0.0, 0.0]]).kind == "real"
    assert of_channels((sizes * counts)[:3]).kind == "real", "each value came once: no proof"
    assert of_channels(*[[[-0.7, 1.61803], [0.7, 1.61803], [0.7, 0.0]]] * 2) == Arrival("signed", None, 1, signs=True)
    (product,) = count_operations(nn.Linear(3, 5), list((sizes * counts).split(2))).products
    assert product.operations == pytest.approx(5 * counts.sum().item() / 6)
    assert product.rate == pytest.approx(counts.mean().item())
    maps = torch.randint(3, (4, 3, 5, 5), generator=torch.Generator().manual_seed(0)).float()
    taps = nn.functional.conv2d(torch.ones(5, 5)[None, None], torch.ones(1, 1, 3, 3), padding=1)  # symmetric
    (product,) = count_operations(nn.Conv2d(3, 2, 3, padding=1), [maps * sizes.view(3, 1, 1)]).products
    assert product.arrives == "graded"
    assert product.operations == pytest.approx(2 * (maps * taps).sum().item() / 4)


def test_of_two_graded_interpretations_one_size_for_all_is_taken():
    x = torch.tensor([[1.0, 2], [2, 2], [1, 0], [2, 2]])  # by itself, the second channel has spikes of size 2
    (product,) = count_operations(nn.Linear(2, 3), [x]).products
    assert (product.arrives, product.step, product.operations) == ("graded", 1, x.sum() * 3 / 4)


def test_weights_that_stand_on_the_left_sum_over_the_last_axis_but_one():
    spikes = torch.tensor([[0.7, 0.0], [0.7, 1.61803], [0.0, 1.61803]])
    for x, kind in ((spikes, "binary"), (spikes.T, "real")):
        network = Forward(lambda net, x: (net.w @ x.T).T, w=torch.randn(5, x.shape[1]))
        assert [one.arrives for one in count_operations(network, [x]).products] == [kind]


def test_what_is_not_finite_is_no_spike():
    x = torch.tensor([[0.0, 1.0, torch.nan], [0.7, 0.0, torch.nan], [0.7, 1.0, torch.nan]] * 2)
    assert of_channels(x).kind == "real"


def test_coarse_types_do_not_tell_thirds_of_each_channel_from_other_numbers():
    x = torch.tensor([[0.7, 1.0], [1.2, 1.61803]] * 4, dtype=torch.bfloat16)
    watch = Arrivals(channels=1)
    watch.see(x, 16)
    assert watch.conclude().kind == "real"


def test_one_rare_value_in_a_large_batch_is_found():
    x = torch.zeros(1000, 1000)
    x[::2] = 1
    x[501, 333] = 0.3
    watch = Arrivals()
    watch.see(x, int(x.count_nonzero()))
    assert watch.conclude().kind == "graded"
    assert watch.conclude().step == pytest.approx(0.1)


def test_thirds_in_bfloat16_are_graded():
    watch = Arrivals()
    x = torch.tensor([0, 1 / 3, 2 / 3, 1], dtype=torch.bfloat16)
    watch.see(x, 3)
    assert watch.conclude().levels == 3


def test_graded_values_cost_as_many_accumulates_as_they_hold_spikes():
    x = torch.tensor([[0.0, 0.25, 0.5, 1.0]])
    (product,) = count_operations(nn.Linear(4, 3), [x]).products
    assert (product.arrives, product.levels) == ("graded", 4)
    assert product.operations == (1 + 2 + 4) * 3
    assert product.rate == (1 + 2 + 4) / 4


def test_a_constant_that_appears_later_regrades_what_came_before():
    batches = [torch.tensor([[0.0, 1.0, 1.0, 0.0]]), torch.tensor([[0.5, 0.0, 0.0, 0.0]])]
    (product,) = count_operations(nn.Linear(4, 3), batches).products
    assert (product.arrives, product.step) == ("graded", 0.5)
    assert product.operations == (2 + 2 + 1) * 3 / 2


def test_flattened_without_a_copy():
    x = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert in_memory_order(x).data_ptr() == x.data_ptr()
    assert in_memory_order(x).sort().values.equal(x.flatten().sort().values)
