"""QCFS, the activation that converts without an error."""

import pytest
import torch
from torch import nn

import onespike
from onespike.conversion import Calibration
from onespike.models import create_model
from onespike.neurons import QCFS
from tests.running import thorough
from tests.unit.conversion.networks import error, outputs


def test_only_a_network_of_qcfs_alone_is_left_uncorrected():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 32), QCFS(1), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    points = torch.randn(256, 6)
    corrected, not_corrected = (
        error(onespike.convert(network, points, calibration=Calibration(correct=correct)).network, network, points)
        for correct in ("weights", "none")
    )
    assert corrected < 0.8 * not_corrected


@pytest.mark.parametrize("levels", thorough([1, 3], 1))
def test_qcfs_converts_without_any_error_to_as_many_neurons_as_it_has_steps(levels):
    for name, branches in (("resmlp12", "real"), ("resmlp12", "spiking"), ("vit12", "spiking")):
        torch.manual_seed(0)
        network = create_model(name, activation="qcfs", levels=levels, branches=branches, image_size=16).eval()
        nn.init.normal_(network.head.weight)
        for module in network.modules():
            if isinstance(module, QCFS):
                nn.init.constant_(module.raw_threshold, -1.0)
        images = torch.randn(8, 3, 16, 16)
        conversion = onespike.convert(network, images, population=levels)
        assert all(layer.relative_l2 == 0 for layer in conversion.layers)
        assert any(0.02 < layer.firing_rate < 0.98 for layer in conversion.layers)
        assert torch.equal(conversion.network(images), network(images))


@pytest.mark.slow
def test_qcfs_of_one_step_behind_batch_norm_converts_up_to_rounding():
    torch.manual_seed(0)
    network = create_model("resnet18", activation="qcfs", image_size=32).eval()
    nn.init.normal_(network.fc.weight)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
        elif isinstance(module, QCFS):
            nn.init.constant_(module.raw_threshold, -0.5)
    conversion = onespike.convert(network, torch.randn(16, 3, 32, 32))
    assert all(0.02 < layer.firing_rate < 0.98 for layer in conversion.layers)
    with torch.no_grad():
        others = torch.randn(64, 3, 32, 32)  # not those that were compared
        logits, expected = conversion.network(others), network(others)
        kept = onespike.convert(network, torch.randn(16, 3, 32, 32), batch_norm="kept").network
        assert torch.equal(kept(others), expected)
    errors = (logits - expected).norm(dim=1) / expected.norm(dim=1)
    assert (errors < 1e-4).float().mean() > 0.9  # rounding may turn one spike, which then counts as a whole one


def test_qcfs_is_not_refused_because_folding_rounds():
    """Every current lies on a step, to either side of which both ways of computing it round."""
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(1, 512, 1, bias=False), nn.BatchNorm2d(512)
    network = nn.Sequential(layer, norm, QCFS(1, 1.0), nn.Flatten()).eval()
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    nn.init.normal_(norm.running_mean)
    images = torch.ones(16, 1, 1, 1)
    with torch.no_grad():
        norm.bias += 0.5 - norm(layer(images))[0].flatten()
        conversion = onespike.convert(network, images)
        flipped = conversion.network.analog()(images) != network(images)
        assert 0.02 < flipped.float().mean() < 0.98


def test_qcfs_that_runs_for_fewer_steps_is_corrected(images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), QCFS(4, 1.0), nn.Flatten(), nn.Linear(576, 5)).eval()
    corrected, not_corrected = (
        onespike.convert(network, images, calibration=Calibration(correct=correct)).network
        for correct in ("weights", "none")
    )
    assert error(corrected, network, images) < 0.5 * error(not_corrected, network, images)
    for converted in (corrected, not_corrected):
        (neurons,) = converted.neurons.values()
        torch.testing.assert_close(neurons.threshold, torch.ones(16))


def test_qcfs_of_several_steps_is_right_on_average(images):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 64, 3),
        QCFS(4, 1.0),
        nn.Conv2d(64, 64, 3),
        QCFS(4, 1.0),
        nn.Flatten(),
        nn.Linear(1024, 5),
    )
    with torch.no_grad():
        network[0].weight *= 3
        network[2].weight *= 6
        converted = onespike.convert(network, images, time_steps=4).network
        wanted = outputs(converted.analog(), ("1", "3"), images)
        found = outputs(converted.body, ("1", "3"), images.repeat(4, 1, 1, 1))
    rates = {path: out.unflatten(0, (4, -1)).mean(0) for path, out in found.items()}
    for path in ("0", "2", "5"):  # nothing is corrected
        assert torch.equal(converted.body.get_submodule(path).weight, network.get_submodule(path).weight)
        assert torch.equal(converted.body.get_submodule(path).bias, network.get_submodule(path).bias)
    torch.testing.assert_close(rates["1"], wanted["1"])  # its input is the same at each step
    error = rates["3"] - wanted["3"]  # this one's is not
    assert error.abs().mean() > 0.01
    assert error.mean().abs() < 0.2 * error.abs().mean()
