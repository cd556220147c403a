"""The distribution of potentials, over as many batches as there are."""

import pytest
import torch
from spikingjelly.activation_based import neuron
from torch import nn

from onespike.counting.operations import count_operations
from onespike.counting.watching import QUANTILES, NeuronTally


def test_quantiles_of_more_values_than_the_framework_takes():
    """Batch number n holds nothing but n: each quantile is the number of the batch that lies there."""
    watch, batches = NeuronTally(), 2**24 // 4096 + 4
    potential = torch.empty(1, 1, 64, 64)
    for number in range(batches):
        watch.see(potential.fill_(number), potential[..., :1, :1], 0.5)
    found = torch.tensor(watch.conclude("").potentials)
    torch.testing.assert_close(found, batches * torch.tensor(QUANTILES), rtol=0, atol=2)


def test_few_values_are_all_kept():
    watch = NeuronTally()
    for number in range(5):
        watch.see(torch.full((1, 1, 1, 1), float(number)), torch.zeros(1, 1, 1, 1), 0.5)
    torch.testing.assert_close(torch.tensor(watch.conclude("").potentials), 4 * torch.tensor(QUANTILES))


def test_neurons_that_never_fire_have_no_threshold_that_a_file_could_hold():
    readout = neuron.LIFNode(v_threshold=torch.inf)
    (found,) = count_operations(nn.Sequential(nn.Linear(4, 3), readout), [torch.randn(2, 4)]).neurons
    assert (found.threshold, found.potentials, found.firing_rate) == (None, (), 0)


def test_of_thresholds_of_channels_the_mean_is_told():
    watch = NeuronTally()
    watch.see(None, torch.tensor([[0.0, 1, -1, 0, 1]]), torch.tensor([[0.25], [0.75]]))
    found = watch.conclude("here")
    assert (found.path, found.firing_rate, found.threshold) == ("here", pytest.approx(0.6), 0.5)


def test_potentials_that_overflow_are_left_out():
    watch = NeuronTally()
    watch.see(torch.tensor([[torch.inf, 1.0]]), torch.ones(1, 2), 0.5)
    assert watch.conclude("").potentials == (1,) * len(QUANTILES)


def test_quantiles_are_of_all_channels_however_the_map_lies_in_memory():
    """16 channels, 64 x 64 images and a power of two of them: places evenly apart would all be in one channel."""
    potential = torch.arange(16.0).view(1, 16, 1, 1).expand(8, 16, 64, 64).contiguous(memory_format=torch.channels_last)
    for layout in (potential, potential.contiguous(), potential.transpose(2, 3)):
        watch = NeuronTally()
        watch.see(layout, layout > 13, 13.0)
        found = watch.conclude("").potentials
        torch.testing.assert_close(torch.tensor(found), 15 * torch.tensor(QUANTILES), rtol=0, atol=1.01)
