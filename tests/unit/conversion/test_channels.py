"""Which neurons have a threshold for each channel: where it is a factor of the weights behind."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import onespike
from onespike.conversion import Calibration, ConversionConfig
from onespike.conversion.network import spiking
from onespike.counting.operations import count_operations
from onespike.models import create_model
from tests.forward import Forward


def neurons_before(between, first, second) -> nn.Module:
    """Neurons between two weight layers, and what lies between the neurons and the second one."""
    torch.manual_seed(0)
    parts = {"first": first(), "second": second(), "weight": torch.randn(5, 6)}
    parts |= {"pool": nn.MaxPool1d(2), "shuffle": nn.PixelShuffle(2), "flat": nn.Flatten(2)}
    return Forward(lambda net, x: net.second(between(net, net.first(x).relu())), **parts).eval()


def conv(before, behind):
    return lambda: nn.Conv2d(before, behind, 3, padding=1)


def conv1(before, behind):
    return lambda: nn.Conv1d(before, behind, 3, padding=1)


def linear(before, behind):
    return lambda: nn.Linear(before, behind)


MAPS, TOKENS = (3, 4, 4), (3, 6)


@pytest.mark.parametrize(
    ("shape", "first", "second", "between", "thresholds"),
    [
        (MAPS, conv(3, 8), conv(8, 5), lambda _, x: x, 8),
        (MAPS, conv(3, 8), conv(8, 5), lambda _, x: F.max_pool2d(x, 2), 8),
        (MAPS, conv(3, 8), conv(8, 5), lambda _, x: torch.roll(x, (1, 1), (2, 3)), 8),
        (MAPS, conv(3, 8), conv(8, 5), lambda _, x: torch.roll(x, 1, 1), 0),
        (MAPS, conv(3, 8), conv(16, 5), lambda _, x: torch.cat([x, x], 1), 8),
        (MAPS, conv(3, 8), conv(8, 5), lambda _, x: torch.cat([x, x], dim=-1), 0),
        (MAPS, conv(3, 8), conv(8, 5), lambda _, x: 2 * x / 3, 8),
        pytest.param(
            *(MAPS, conv(3, 8), conv(8, 5), lambda _, x: torch.cat(x.split(4, 1)[::-1], 1), 8),
            marks=pytest.mark.skipif(torch.__version__ < "2.7.dev0", reason="PyTorch 2.6 cannot trace the slice"),
        ),
        (MAPS, conv(3, 8), conv(8, 5), lambda _, x: torch.cat([x.split(4, 1)[1], x.split(4, 1)[0]], 1), 8),
        (MAPS, conv(3, 8), conv(4, 5), lambda _, x: x.chunk(2, 1)[1], 8),
        (MAPS, conv(3, 8), conv(2, 5), lambda net, x: net.shuffle(x), 0),
        (MAPS, conv(3, 8), linear(128, 5), lambda _, x: x.flatten(1), 8),
        (MAPS, conv(3, 8), linear(128, 5), lambda _, x: x.view(x.size(0), -1), 8),
        (MAPS, conv(3, 8), linear(16, 5), lambda net, x: net.flat(x), 0),
        (MAPS, conv(3, 8), linear(8, 5), lambda _, x: x.mean((2, 3)), 8),
        (MAPS, conv(3, 8), linear(16, 5), lambda _, x: x.mean(1).flatten(1), 0),
        (MAPS, conv(3, 8), conv(8, 5), lambda _, x: x.mean((2, 3), keepdim=True) + x, 8),
        (MAPS, conv(3, 8), conv(8, 5), lambda _, x: x.mean((2, 3), True), 8),
        (MAPS, conv(3, 8), linear(4, 5), lambda _, x: x, 4),  # it reads along rows: a threshold for each place in one
        (TOKENS, linear(6, 8), linear(8, 5), lambda _, x: x, 8),
        (TOKENS, linear(6, 8), linear(4, 5), lambda net, x: net.pool(x), 0),  # pools across the features
        (TOKENS, linear(6, 8), linear(3, 5), lambda _, x: x.transpose(1, 2), 0),
        (TOKENS, conv1(3, 8), conv1(8, 5), lambda net, x: net.pool(x), 8),
        (TOKENS, conv1(3, 8), linear(6, 5), lambda _, x: x, 6),
    ],
)
def test_thresholds_are_where_they_fold(shape, first, second, between, thresholds):
    network = neurons_before(between, first, second)
    images = torch.randn(32, *shape, generator=torch.Generator().manual_seed(1))
    conversion = onespike.convert(network, images, calibration=Calibration(correct="none"))
    (neurons,) = conversion.network.neurons.values()
    assert neurons.raw_threshold.shape == ((thresholds,) if thresholds else ())
    seen = []
    for channel in range(thresholds):  # by brute force: every input of the weights hears of one channel alone
        reading = conversion.network.body.second
        hooks = [
            neurons.register_forward_hook(lambda _m, _i, out, c=channel: alone(out, neurons.axis, c)),
            reading.register_forward_hook(lambda layer, args, _: seen.append(heard(layer, args[0]))),
        ]
        conversion.network(images)
        for hook in hooks:
            hook.remove()
    assert not sum(seen, torch.zeros(())).gt(1).any()


def test_what_reads_the_next_neurons_does_not_matter():
    def residual(net, x):
        x = net.first(x).relu()
        x = (x + net.second(x)).relu()
        return net.last(x.mean(1).flatten(1))  # a sum over channels

    torch.manual_seed(0)
    network = Forward(residual, first=conv(3, 8)(), second=conv(8, 8)(), last=nn.Linear(16, 5)).eval()
    converted = onespike.convert(network, torch.randn(8, *MAPS)).network
    assert [neurons.raw_threshold.shape for neurons in converted.neurons.values()] == [(8,), ()]


def test_a_channel_that_an_addition_stretches_is_not_one_of_several():
    def stretched():
        return Forward(lambda net, x: net.narrow(x) + net.wide(x), narrow=conv(3, 1)(), wide=conv(3, 8)())

    network = neurons_before(lambda _, x: x, stretched, conv(8, 5))
    (neurons,) = onespike.convert(network, torch.randn(8, *MAPS)).network.neurons.values()
    assert neurons.raw_threshold.shape == (8,)


@pytest.mark.parametrize(("passes", "thresholds"), [(True, (8,)), (False, ())])
def test_long_chains_of_additions_are_followed_once(passes, thresholds):
    def chain(net, x):
        x = net.first(x).relu()
        for _ in range(40):  # 2^40 ways through it
            x = x + net.pool(x)
        return net.last(1e-12 * x if passes else x.transpose(2, 3))

    network = Forward(chain, first=conv(3, 8)(), last=conv(8, 5)(), pool=nn.AvgPool2d(3, 1, 1)).eval()
    (neurons,) = onespike.convert(network, torch.randn(8, *MAPS)).network.neurons.values()
    assert neurons.raw_threshold.shape == thresholds


def alone(out, axis, channel):
    """Ones in one channel, zeros in the others."""
    mask = torch.zeros_like(out)
    mask.select(axis, channel).fill_(1)
    return mask


def heard(layer, x):
    """Which inputs of a weight layer are not 0 anywhere."""
    x = x.movedim(1, -1) if isinstance(layer, nn.Conv1d | nn.Conv2d) else x
    return (x != 0).flatten(0, -2).any(0).float()


@pytest.mark.parametrize(("first", "shape", "thresholds"), [(linear(6, 6), (6,), (6,)), (conv(3, 4), (3, 6, 6), ())])
def test_functions_that_weigh_read_along_their_axis(first, shape, thresholds):
    network = neurons_before(lambda net, x: F.linear(x, net.weight), first, linear(5, 5))
    (neurons,) = onespike.convert(network, torch.randn(8, *shape)).network.neurons.values()
    assert neurons.raw_threshold.shape == thresholds  # of the convolution the channels lie elsewhere


def test_a_threshold_for_each_channel_where_weights_read_what_no_weights_made():
    """vit12: between its products and the projection, and where windows are shifted."""
    network = create_model("vit12", activation="relu6", branches="spiking", image_size=16)
    converted = spiking(network, ConversionConfig(allow_real=True), torch.randn(2, 3, 16, 16))
    assert network.layers[0].spiking
    for path, neurons in converted.neurons.items():
        whole = any(part in path for part in ("query", "key", "value"))  # sums over channels are taken of these
        assert neurons.raw_threshold.ndim == (not whole), path


def test_spikes_behind_channel_thresholds_are_spikes_to_the_audit():
    def pooled(_, x):
        return F.max_pool2d(x, 2).mean((2, 3), keepdim=True).flatten(1)

    images = torch.randn(64, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    converted = onespike.convert(neurons_before(pooled, conv(3, 8), linear(8, 5)), images).network
    products = count_operations(converted, [images]).products
    assert [product.arrives for product in products] == ["real", "binary"]
