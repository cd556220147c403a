"""Batch norm, folded or kept, and other weights that are computed before their use."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d, Conv2dSame, StdConv2d, convert_sync_batchnorm
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

import onespike
from onespike.conversion import ConversionConfig
from onespike.conversion.network import spiking
from onespike.errors import OnespikeError
from onespike.models.affine import Affine
from onespike.units.channel import ChannelLinear
from tests.unit.conversion.networks import MAXIMA, error


def test_a_convolution_that_pads_in_a_way_of_its_own_is_calibrated():
    torch.manual_seed(0)
    network = nn.Sequential(
        *(Conv2dSame(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU6()),
        *(Conv2dSame(8, 8, 3, stride=2, groups=8), nn.BatchNorm2d(8), nn.ReLU6(), nn.Flatten(), nn.Linear(128, 5)),
    ).eval()
    conversion = onespike.convert(network, torch.randn(16, 3, 15, 15))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in conversion.network.modules())
    assert all(torch.tensor(layer.relative_l2).isfinite() for layer in conversion.layers)


@pytest.mark.parametrize(("channels", "groups"), [(6, 1), (8, 1), (8, 2)])
def test_batch_norm_folds_into_transposed_convolutions_without_groups(channels, groups):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.ConvTranspose2d(8, channels, 2, groups=groups), nn.BatchNorm2d(channels), nn.ReLU()
    ).eval()
    nn.init.uniform_(network[1].running_var, 0.5, 2.0)
    nn.init.uniform_(network[1].weight, 0.5, 2.0)
    images = torch.randn(4, 8, 5, 5)
    converted = spiking(network, ConversionConfig(), images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    assert any(isinstance(module, Affine) for module in converted.modules()) is (groups > 1)
    with torch.no_grad():
        torch.testing.assert_close(converted.analog()(images), network(images))


@pytest.mark.parametrize("trained", [True, False])
def test_what_is_frozen_stays_frozen_when_batch_norm_is_folded(trained):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()).eval().requires_grad_(trained)
    folded = spiking(network, ConversionConfig(), torch.randn(2, 3, 5, 5)).body.get_submodule("0")
    assert [one.requires_grad for one in (folded.weight, folded.bias)] == [trained] * 2


def test_an_affine_map_is_as_exact_as_its_batch_norm():
    norm = nn.BatchNorm2d(2).eval()
    norm.running_mean.fill_(3e4)
    norm.running_var.fill_(4e8)
    torch.testing.assert_close(Affine.of(norm).scale, torch.full((2,), 1 / 2e4))


def test_batch_norm_is_folded_where_the_channels_are():
    torch.manual_seed(0)
    tokens, rows = torch.randn(64, 8, 8), torch.randn(64, 8)
    for points, folded in ((rows, True), (tokens, False)):
        network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
        nn.init.uniform_(network[1].running_var, 0.5, 2.0)
        nn.init.uniform_(network[1].weight, 0.5, 2.0)
        converted = onespike.convert(network, points, time_steps=64).network
        assert any(isinstance(module, Affine) for module in converted.modules()) is not folded
        assert error(converted, network, points) < 0.05


def standardised():
    return StdConv2d(3, 8, 3, padding=1)


def normed():
    return weight_norm(nn.Conv2d(3, 8, 3, padding=1))


def normed_by_a_hook():
    return nn.utils.weight_norm(nn.Conv2d(3, 8, 3, padding=1))


def bounded_by_a_hook():
    return nn.utils.spectral_norm(nn.Conv2d(3, 8, 3, padding=1))


def pruned():
    return prune.l1_unstructured(nn.Conv2d(3, 8, 3, padding=1), "weight", 0.3)


@pytest.mark.parametrize("make", [standardised, normed, normed_by_a_hook, bounded_by_a_hook, pruned])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_weights_that_are_computed_before_use(make, images):
    torch.manual_seed(0)
    network = nn.Sequential(make(), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3)).eval()
    nn.init.uniform_(network[1].weight, 0.5, 2.0)
    converted = onespike.convert(network, images, time_steps=128).network
    assert error(converted, network, images) < 0.05
    # Those of timm's layer are standardised at each call, and batch norm cannot be folded into them.
    assert any(isinstance(module, Affine) for module in converted.modules()) is (make is standardised)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("compute", [nn.utils.weight_norm, lambda layer: prune.identity(layer, "weight")])
def test_computed_weights_are_corrected_like_others(compute):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    same = copy.deepcopy(network)
    for layer in (same[2], same[4]):
        compute(layer)
    points = torch.randn(256, 8)
    with torch.no_grad():
        logits = [onespike.convert(one, points).network(points) for one in (network, same)]
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-4)


def twice_normed():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8), nn.Conv2d(8, 8, 3), nn.Identity(), nn.Flatten())
    network[3] = network[1]
    return network


@pytest.mark.parametrize("batch_norm", ["folded", "kept"])
@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (twice_normed, ["1.2", "1.2_2"]),
        (lambda: convert_sync_batchnorm(twice_normed()), ["1.2", "1.2_2"]),
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), BatchNormAct2d(8, affine=False), nn.Flatten()), ["1.2"]),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU()), ["3"]),
        (lambda: nn.Sequential(ChannelLinear(3, 8), BatchNormAct2d(8, affine=False), nn.Flatten()), ["1.2"]),
    ],
    ids=["twice", "synchronised", "not affine", "linear, not affine", "of channels, not affine"],
)
def test_activations_inside_batch_norm_become_neurons(make, layers, batch_norm, images):
    torch.manual_seed(0)
    network = make().eval()
    conversion = onespike.convert(network, images, batch_norm=batch_norm, time_steps=64, calibration=MAXIMA)
    assert [layer.layer for layer in conversion.layers] == layers
    assert not any(isinstance(module, nn.ReLU) for module in conversion.network.modules())
    assert error(conversion.network, network, images) < 0.1


def test_double_precision_with_batch_norm_that_is_not_folded():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 5))
    network, images = network.double().eval(), torch.randn(32, 3, 8, 8).double()
    converted = onespike.convert(network, images, time_steps=256, calibration=MAXIMA).network
    assert converted(images).dtype == torch.float64
    assert error(converted, network, images) < 0.02


def test_batch_norm_that_is_kept_computes_the_same_and_is_trained_on(convolutional, images):
    folded, kept = (
        onespike.convert(convolutional, images, time_steps=3, batch_norm=how, calibration=MAXIMA).network
        for how in ("folded", "kept")
    )
    with torch.no_grad():
        torch.testing.assert_close(kept(images), folded(images))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    norms = [module for module in kept.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [neurons.raw_threshold.shape for neurons in kept.neurons.values()] == [(8,), (8,)]
    before = norms[0].running_mean.clone()
    kept.train()(images).square().sum().backward()
    assert not torch.equal(norms[0].running_mean, before)
    assert all(norm.weight.grad.abs().sum() > 0 for norm in norms)
    assert torch.equal(convolutional.bn1.running_mean, before)


def test_batch_norm_without_statistics_of_its_own_is_not_linear():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()).eval()
    for how in ("folded", "kept"):
        with pytest.raises(OnespikeError, match=r"cannot be converted: 1 \(BatchNorm2d\)"):
            onespike.convert(network, torch.randn(8, 3, 6, 6), batch_norm=how)
    conversion = onespike.convert(network, torch.randn(8, 3, 6, 6), allow_real=True)
    assert conversion.real == ("1",)
    with pytest.raises(OnespikeError, match=r"rows of what 1 gives, .*, are not one image after the other"):
        onespike.convert(network, torch.randn(8, 3, 6, 6), allow_real=True, time_steps=2)
