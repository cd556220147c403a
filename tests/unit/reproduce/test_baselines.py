"""Standard spiking networks."""

import pytest
import torch

from onespike.audit import EnergyTable
from onespike.counting.operations import count_operations
from onespike.models import create_model
from reproduce.baselines import RESNET19
from tests.forward import losses_of


@pytest.mark.slow
def test_the_vgg_learns_and_reads_spikes_behind_the_first_layer():
    torch.manual_seed(0)
    model = create_model("spiking-vgg11", num_classes=3, image_size=16, width=16, time_steps=2)
    images = torch.randn(6, 3, 16, 16)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
    losses = losses_of(model, images, labels, optimiser, steps=80)
    assert losses[-1] < losses[0] / 2
    operations = count_operations(model, [images])
    assert [product.arrives for product in operations.products] == ["real"] + ["binary"] * 8
    assert operations.potentials.reads == operations.potentials.writes > 0


def test_vgg_by_hand():
    operations = count_operations(create_model("spiking-vgg11", width=4, time_steps=3), [torch.rand(1, 3, 32, 32)])
    sides = [(32, 3, 4), (16, 4, 8), (8, 8, 16), (8, 16, 16), (4, 16, 32), (4, 32, 32), (2, 32, 32), (2, 32, 32)]
    assert operations.macs == 3 * (sum(side**2 * 9 * a * b for side, a, b in sides) + 2 * 2 * 32 * 10)
    assert operations.potentials.reads == 2 * sum(side**2 * channels for side, _, channels in sides)


def test_resnet_by_hand():
    operations = count_operations(create_model("spiking-resnet19", time_steps=2, width=4), [torch.rand(1, 3, 32, 32)])
    stem = 32**2 * 9 * 3 * 4
    stages = 32**2 * 9 * 6 * 4 * 4
    stages += 16**2 * (9 * (4 * 8 + 5 * 8 * 8) + 4 * 8)
    stages += 8**2 * (9 * (8 * 16 + 3 * 16 * 16) + 8 * 16)
    assert operations.macs == 2 * (stem + stages + 16 * 8 + 8 * 10)


@pytest.mark.parametrize("network", RESNET19[:1], ids=lambda network: network.name)
def test_what_is_published_is_marked_as_assumed(network):
    assert "ASSUMED" in network.source
    operations = network.operations()
    dense = operations.macs - operations.macs_of("real")
    energy = EnergyTable.load().network(operations, "field")
    assert energy.spikes == pytest.approx(0.9e-12 * network.firing_rate * dense, rel=1e-9, abs=0)
