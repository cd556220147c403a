"""The distribution of potentials, over as many batches as there are."""

import torch

from onespike.audit.potentials import QUANTILES, NeuronWatch
from onespike.neurons import LIF


def test_quantiles_of_more_values_than_the_framework_takes():
    """Batch number n holds nothing but n: each quantile is the number of the batch that lies there."""
    layer, watch, batches = LIF(1), NeuronWatch(), 2**24 // 4096 + 4
    potential = torch.empty(1, 1, 64, 64)
    for number in range(batches):
        watch.see(layer, potential.fill_(number), potential[..., :1, :1])
    found = torch.tensor(watch.conclude("").potentials)
    torch.testing.assert_close(found, batches * torch.tensor(QUANTILES), rtol=0, atol=2)


def test_few_values_are_all_kept():
    layer, watch = LIF(1), NeuronWatch()
    for number in range(5):
        watch.see(layer, torch.full((1, 1, 1, 1), float(number)), torch.zeros(1, 1, 1, 1))
    torch.testing.assert_close(torch.tensor(watch.conclude("").potentials), 4 * torch.tensor(QUANTILES))
