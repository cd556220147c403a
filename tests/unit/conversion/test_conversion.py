"""The converter on networks of every kind it knows, and the promises of each route."""

import copy
from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import BatchNormAct2d, Conv2dSame, StdConv2d, convert_sync_batchnorm
from timm.models.vgg import ConvMlp
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torchvision.ops import StochasticDepth

import onespike
from onespike.conversion import Calibration, ConversionConfig
from onespike.conversion.calibration import SHARES, set_thresholds
from onespike.conversion.network import PoolSpikes, spiking
from onespike.counting.operations import count_operations
from onespike.errors import OnespikeError
from onespike.models import create_model
from onespike.models.affine import Affine
from onespike.models.artificial import LAYERS
from onespike.neurons import QCFS, IntegrateFire
from onespike.units.channel import ChannelLinear

MAXIMA = Calibration("maximum", correct="none")


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8, 5)
    ).eval()


def test_with_maxima_the_error_falls_as_one_over_t(images):
    network = plain()
    with torch.no_grad():
        expected = network(images)
        errors = []
        for steps in (16, 32, 64, 128, 256):
            out = onespike.convert(network, images, time_steps=steps, calibration=MAXIMA).network(images)
            errors.append((steps, ((out - expected).norm() / expected.norm()).item()))
    # error <= c / T with one c, and the slope in logarithms is -1
    scaled = [steps * error for steps, error in errors]
    assert max(scaled) / min(scaled) < 2
    slope = torch.tensor(errors[-1][1] / errors[0][1]).log() / torch.tensor(256 / 16).log()
    assert -1.2 < slope < -0.8


def test_a_network_with_all_there_is_converges(convolutional, images):
    with torch.no_grad():
        expected = convolutional(images)
        distances = [
            (onespike.convert(convolutional, images, time_steps=steps, calibration=MAXIMA).network(images) - expected)
            .abs()
            .max()
            for steps in (8, 64, 512)
        ]
    assert distances[2] < distances[0] / 8
    assert distances[2] < 0.01 * expected.abs().max()


def test_the_artificial_network_stays_as_it_is_and_its_twin_computes_the_same(convolutional, images):
    before = copy.deepcopy(convolutional.state_dict())
    conversion = onespike.convert(convolutional, images, calibration=MAXIMA)
    for key, value in convolutional.state_dict().items():
        assert torch.equal(value, before[key])
    torch.testing.assert_close(conversion.network.analog()(images), convolutional(images), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in conversion.network.modules())


def test_the_errors_of_a_layer_by_hand(images):
    network = plain()
    with torch.no_grad():
        conversion = onespike.convert(network, images, time_steps=3)
        converted = conversion.network
        found = outputs(converted.body, ("1", "3"), images.repeat(3, 1, 1, 1))
        wanted = outputs(copy.deepcopy(network), ("1", "3"), images)
        for layer in conversion.layers:
            neurons = converted.body.get_submodule(layer.layer)
            spikes = found[layer.layer].unflatten(0, (3, -1))
            rates, target = spikes.mean(0).flatten().double(), wanted[layer.layer].flatten().double()
            assert layer.activation == "ReLU"
            assert layer.thresholds == 8
            assert layer.threshold == pytest.approx(neurons.raw_threshold.exp().sum().item() / 8)
            assert layer.relative_l2 == pytest.approx(((rates - target) @ (rates - target) / (target @ target)) ** 0.5)
            assert layer.cosine == pytest.approx(rates @ target / ((rates @ rates) * (target @ target)) ** 0.5)
            assert layer.firing_rate == pytest.approx((spikes > 0).sum().item() / spikes.numel())


def test_each_call_of_an_activation_has_neurons_of_its_own(convolutional, images):
    conversion = onespike.convert(convolutional, images)
    assert [layer.layer for layer in conversion.layers] == ["relu", "relu_1"]
    twice = nn.Sequential(nn.Linear(4, 4), shared := nn.ReLU(), nn.Linear(4, 4), shared, nn.Linear(4, 2))
    conversion = onespike.convert(twice, torch.randn(16, 4))
    assert [layer.layer for layer in conversion.layers] == ["1", "1_2"]


def twice_and_a_function(net, x):
    x = net.second(net.second(net.relu(net.first(x))))
    return net.last(torch.relu(net.second_2(net.relu(x))))


def test_no_two_layers_of_neurons_share_a_path():
    """A module's second call and a function could both be called relu_2, or its second call as another layer."""
    network, points = Forward(twice_and_a_function), torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    network.relu = network.act
    network.pass_on = lambda net, x: net.last(
        torch.relu(net.second_2(net.relu(net.second(net.second(net.relu(net.first(x)))))))
    )
    network.second_2 = nn.Linear(16, 16)
    with torch.no_grad():
        expected = network.eval()(points)
        conversion = onespike.convert(network, points, time_steps=256, calibration=MAXIMA)
        assert len({layer.layer for layer in conversion.layers}) == 3
        assert (conversion.network(points) - expected).norm() < 0.03 * expected.norm()


def test_every_weight_layer_behind_a_neuron_reads_zeros_and_thresholds(convolutional, images):
    network = onespike.convert(convolutional, images, time_steps=3).network
    seen = []
    for name, neurons in network.neurons.items():
        assert neurons.raw_threshold.shape == (8,), name
        neurons.register_forward_hook(
            lambda module, _, out: seen.append(torch.stack([out, module.threshold.view(-1, 1, 1).expand_as(out)]))
        )
    network(images)
    for out, threshold in seen:
        assert ((out == 0) | (out == threshold)).all()
        assert (out != 0).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: timm.create_model("resnet10t", num_classes=5),
        lambda: timm.create_model("regnetx_002", num_classes=5),
        lambda: timm.create_model("resnetv2_18", num_classes=5),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 8, 8), ConvMlp(8, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: torchvision.models.squeezenet1_1(num_classes=5),
        lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=5),
        lambda: torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=5),
        lambda: torchvision.models.googlenet(num_classes=5, transform_input=True, aux_logits=False, init_weights=False),
    ],
    ids=["resnet", "regnet", "preactivation", "vgg", "squeezenet", "shufflenet", "densenet", "googlenet"],
)
def test_other_peoples_networks(make):
    torch.manual_seed(0)
    network = make().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    images = torch.randn(1, 3, 64, 64)
    converted = spiking(network, ConversionConfig(), images)
    assert converted.real == ()
    with torch.no_grad():
        torch.testing.assert_close(converted.analog()(images), network(images), rtol=1e-3, atol=1e-4)
        errors = []
        for steps in (4, 32):
            conversion = onespike.convert(network, images, time_steps=steps, calibration=MAXIMA)
            errors.append((conversion.network(images) - network(images)).norm())
    assert errors[1] < 0.6 * errors[0]
    assert [layer.layer for layer in conversion.layers] == list(converted.neurons)
    assert all(0 <= layer.firing_rate <= 1 for layer in conversion.layers)
    assert sum(layer.firing_rate > 0 for layer in conversion.layers) > 0.5 * len(conversion.layers)


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


def test_a_real_shortcut_takes_no_layers_path():
    network, points = Forward(lambda net, x: added_and_weighed(net, net.act(net.first(x)))), torch.randn(64, 6)
    network.act_shortcut = nn.Linear(16, 16)
    with torch.no_grad():
        expected = network.eval()(points)
        converted = onespike.convert(network, points, shortcuts="real", time_steps=256, calibration=MAXIMA).network
        assert isinstance(converted.body.act_shortcut, nn.Linear)
        assert (converted(points) - expected).norm() < 0.03 * expected.norm()


def added_and_weighed(net, hidden):
    return net.last(net.act_shortcut(net.second(hidden) + hidden))


class Forward(nn.Module):
    """Three linear layers, and any forward pass over them."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.act, self.pass_on = nn.ReLU(inplace=True), forward
        self.pool = nn.MaxPool1d(3, 1, 1)

    def forward(self, x):
        return self.pass_on(self, x)


def in_place(net, x):
    hidden = net.first(x)
    return net.last(net.second(net.act(hidden)) + hidden)


def functional_in_place(net, x):
    hidden = net.first(x)
    return net.last(net.second(F.relu(hidden, inplace=True)) + hidden)


def method_in_place(net, x):
    hidden = same = net.first(x)
    hidden.relu_().add_(net.second(hidden))
    return net.last(same.relu())


def sliced(net, x):
    hidden = net.first(x).relu()[:, :8]
    return net.last(torch.cat([hidden, hidden[:, ...]], 1))


def with_keywords(net, x):
    hidden = F.relu(input=net.first(input=x))
    return net.last(torch.mul(hidden, other=net.second(hidden).clamp(min=0)))


def pooled_with_keywords(net, x):
    hidden = torch.max_pool1d(input=net.first(x).relu()[:, None], kernel_size=3, stride=1, padding=1)
    return net.last(net.second(net.pool(input=hidden).flatten(1)))


def called_twice(net, x):
    return net.last(net.second(net.second(net.first(x).relu()).relu()).relu())


FORWARD_PASSES = (in_place, functional_in_place, method_in_place, sliced, with_keywords, called_twice)
FORWARD_PASSES += (pooled_with_keywords,)


@pytest.mark.parametrize("forward", FORWARD_PASSES, ids=lambda forward: forward.__name__)
def test_forward_passes_of_all_kinds(forward):
    network, points = Forward(forward).eval(), torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(points)
        out = onespike.convert(network, points, time_steps=256, calibration=MAXIMA).network(points)
    assert (out - expected).norm() < 0.02 * expected.norm()


def test_a_network_that_changes_its_input_leaves_the_images_as_they_are():
    network, points = Forward(lambda net, x: net.last(net.first(x.mul_(2)).relu())).eval(), torch.randn(64, 6)
    before = points.clone()
    with torch.no_grad():
        out = onespike.convert(network, points, time_steps=256, calibration=MAXIMA).network(points)
        assert torch.equal(points, before)
        assert (out - network(points)).norm() < 0.02 * out.norm()


def test_each_call_of_a_layer_has_weights_of_its_own_and_so_have_tied_ones():
    network, points = Forward(called_twice).eval(), torch.randn(64, 6)
    network.third = nn.Linear(16, 16)
    network.third.weight = network.second.weight
    network.pass_on = lambda net, x: called_twice(net, x) + net.last(net.third(net.first(x).relu()).relu())
    graph = onespike.convert(network.eval(), points).network.body
    weights = [module.weight for module in graph.modules() if isinstance(module, nn.Linear)]
    assert len(weights) == 7  # as many as there are calls
    assert len({weight.data_ptr() for weight in weights}) == 7
    before = network.second.weight
    assert not any(torch.equal(weight, before) for weight in weights if weight.shape == before.shape)


def test_batch_norm_is_folded_where_the_channels_are():
    torch.manual_seed(0)
    tokens, rows = torch.randn(64, 8, 8), torch.randn(64, 8)
    for points, folded in ((rows, True), (tokens, False)):
        network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
        nn.init.uniform_(network[1].running_var, 0.5, 2.0)
        nn.init.uniform_(network[1].weight, 0.5, 2.0)
        converted = onespike.convert(network, points, time_steps=64).network
        assert any(isinstance(module, Affine) for module in converted.modules()) is not folded
        with torch.no_grad():
            assert (converted(points) - network(points)).norm() < 0.05 * network(points).norm()


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
    with torch.no_grad():
        converted = onespike.convert(network, images, time_steps=128).network
        assert (converted(images) - network(images)).norm() < 0.05 * network(images).norm()
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


def read_again(net, x):
    hidden = net.second(net.first(x).relu()).relu()
    return net.last(F.linear(hidden, net.second.weight.t()).relu())


def test_a_weight_that_a_function_reads_as_well_stays_there():
    network = Forward(read_again).eval()
    graph = onespike.convert(network, torch.randn(64, 6)).network.body
    assert torch.equal(graph.second.weight, network.second.weight)
    assert not torch.equal(graph.second_2.weight, network.second.weight)


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
    with torch.no_grad():
        expected = network(images)
        assert (conversion.network(images) - expected).norm() < 0.1 * expected.norm()


class Rectified(nn.Conv2d):
    """A convolution by its class, an activation by its forward pass."""

    def forward(self, x):
        return super().forward(x).relu()


def test_a_subclass_of_a_known_layer_is_looked_into():
    torch.manual_seed(0)
    network = nn.Sequential(Rectified(3, 8, 3), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)).eval()
    images = torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        conversion = onespike.convert(network, images, time_steps=256, calibration=MAXIMA)
        assert len(conversion.layers) == 2
        assert (conversion.network(images) - network(images)).norm() < 0.02 * network(images).norm()


def test_double_precision_with_batch_norm_that_is_not_folded():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 5))
    images = torch.randn(32, 3, 8, 8).double()
    with torch.no_grad():
        network = network.double().eval()
        out = onespike.convert(network, images, time_steps=256, calibration=MAXIMA).network(images)
        assert out.dtype == torch.float64
        assert (out - network(images)).norm() < 0.02 * network(images).norm()


@pytest.mark.parametrize(("axis", "spikes"), [(1, True), (-1, False)])
def test_max_pooling_where_neurons_of_several_thresholds_meet(axis, spikes):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
            self.pool, self.last = nn.MaxPool2d((1, 12)), nn.Linear(48 if axis == 1 else 24, 5)

        def forward(self, x):
            joined = torch.cat([self.one(x).relu(), self.other(x).relu()], axis)
            return self.last(self.pool(joined)[..., :6, 0].flatten(1))

    network, images = Joined().eval(), torch.randn(64, 3, 8, 14)
    network.other.weight.data *= 5
    with torch.no_grad():
        expected = network(images)
        converted = onespike.convert(network, images, time_steps=512, calibration=MAXIMA).network
        assert (converted(images) - expected).norm() < 0.01 * expected.norm()
    assert isinstance(converted.body.pool, PoolSpikes) is spikes


def test_attention_as_a_module_is_right_over_all_steps_where_images_come_first():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            x = self.first(x).relu()
            return self.last(self.attention(x, x, x)[0])

    tokens = torch.randn(64, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network = Attending().eval()
        out = onespike.convert(network, tokens, time_steps=128, allow_real=True, calibration=MAXIMA).network(tokens)
        assert (out - network(tokens)).norm() < 0.02 * network(tokens).norm()


def test_layers_that_images_do_not_reach_are_left_alone():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
            self.bias = nn.Linear(2, 3)
            self.register_buffer("constant", torch.ones(2))

        def forward(self, x):
            return self.layers(x) + self.bias(self.constant)

    network, points = Biased().eval(), torch.randn(64, 4)
    converted = onespike.convert(network, points, time_steps=4).network
    assert torch.equal(converted.body.bias.weight, network.bias.weight)


def test_an_activation_of_a_parameter_stays_an_activation():
    network, points = (
        Forward(lambda net, x: net.last(net.act(net.first(x)) * net.act(net.gain))).eval(),
        torch.randn(64, 6),
    )
    network.gain = nn.Parameter(torch.randn(1, 16))
    conversion = onespike.convert(network, points, time_steps=256, calibration=MAXIMA)
    assert [layer.layer for layer in conversion.layers] == ["act_2"]
    assert isinstance(conversion.network.body.act, nn.ReLU)
    with torch.no_grad():
        assert (conversion.network(points) - network(points)).norm() < 0.02 * network(points).norm()


def compiled(network):
    return torch.compile(network, backend="eager")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # the compiler does that itself
@pytest.mark.parametrize("form", [compiled, nn.DataParallel, lambda network: nn.DataParallel(compiled(network))])
def test_a_network_inside_another_form_of_it_is_converted(form, images):
    network = plain()
    logits = [onespike.convert(one, images).network(images) for one in (network, form(network))]
    assert torch.equal(*logits)


def test_only_a_network_of_qcfs_alone_is_left_uncorrected():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 32), QCFS(1), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    points = torch.randn(256, 6)
    with torch.no_grad():
        corrected, not_corrected = (
            (
                onespike.convert(network, points, calibration=Calibration(correct=correct)).network(points)
                - network(points)
            ).norm()
            for correct in ("weights", "none")
        )
    assert corrected < 0.8 * not_corrected


def test_spikes_stay_spikes_behind_max_pooling_at_any_number_of_steps():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()).eval()
    images = torch.randn(16, 3, 12, 12)
    for steps in (1, 7, 16):
        converted = onespike.convert(network, images, time_steps=steps).network
        products = count_operations(converted, [images]).products
        assert [product.arrives for product in products] == ["real", "binary"]


def test_a_spike_train_times_itself_is_a_product():
    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.last(x * x)

    torch.manual_seed(0)
    network, points = Squared().eval(), torch.randn(64, 4)
    with torch.no_grad():
        expected = network(points)
        out = onespike.convert(network, points, time_steps=256, calibration=MAXIMA).network(points)
    assert (out - expected).norm() < 0.02 * expected.norm()


@torch.no_grad()
def test_thresholds_are_found_on_all_columns_of_a_map():
    """Every 16th value of a map with 16 columns would be its first column."""
    activations = torch.rand(256, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    activations[..., 0] = 0
    neurons = IntegrateFire(1, 1, 1, "rectangle")
    set_thresholds(neurons, activations[None], activations, Calibration("percentile", percentile=50.0))
    assert neurons.threshold.item() == pytest.approx(0.47, abs=0.03)  # the median, a sixteenth of them being 0


@torch.no_grad()
def test_the_thresholds_with_the_least_error_are_found_over_the_steps_as_they_come():
    torch.manual_seed(0)
    currents = torch.randn(4, 512, 2)  # steps, samples, channels: more at the end, as spikes arrive in deep layers
    currents += torch.tensor([-0.5, 0.0, 0.5, 1.0]).view(4, 1, 1)
    activations = currents.mean(0).relu()
    neurons = IntegrateFire(2, 1, 4, "rectangle")
    options = Calibration("error", percentile=100.0, correct="none")
    set_thresholds(neurons, currents, activations, options)
    chosen, errors = neurons.threshold.detach().clone(), []
    for share in SHARES:
        neurons.raw_threshold.data = (activations.amax(0) * share).log()
        rates = neurons(currents.flatten(0, 1)).unflatten(0, (4, -1)).mean(0)
        errors.append((rates - activations).square().mean(0))
    best = activations.amax(0) * SHARES[torch.stack(errors).argmin(0)]
    torch.testing.assert_close(chosen, best)


def test_what_cannot_be_converted_is_named_by_its_path():
    network = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.LayerNorm(4), nn.ReLU()), nn.Linear(4, 2), nn.Softmax(-1))
    with pytest.raises(OnespikeError, match=r"cannot be converted: 1\.0 \(LayerNorm\), 3 \(Softmax\); --allow-real"):
        onespike.convert(network, torch.randn(8, 4))
    conversion = onespike.convert(network, torch.randn(8, 4), allow_real=True)
    assert conversion.real == ("1.0", "3")


@pytest.mark.parametrize(
    ("forward", "name"),
    [
        (lambda net, x: net.last(F.batch_norm(net.first(x).relu(), None, None, training=True)), "batch_norm"),
        (lambda net, x: net.last(torch.div(net.first(x).relu(), 0.5, rounding_mode="floor")), "div"),
    ],
)
def test_linear_functions_are_not_linear_with_every_argument(forward, name):
    with pytest.raises(OnespikeError, match=rf"cannot be converted: {name} \({name}\)"):
        onespike.convert(Forward(forward), torch.randn(8, 6))


def test_what_gives_no_real_numbers_is_left_at_one_time_step_alone():
    network = Forward(lambda net, x: net.last((hidden := net.second(net.first(x).relu())) * (hidden > 0))).eval()
    points = torch.randn(64, 6)
    conversion = onespike.convert(network, points, allow_real=True)
    assert conversion.real == ("gt", "mul")
    with pytest.raises(OnespikeError, match=r"several time steps: gt gives torch\.bool; expected one time step"):
        onespike.convert(network, points, allow_real=True, time_steps=2)


def test_paths_that_are_dropped_in_training_alone_are_none_at_test_time(images):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), StochasticDepth(0.5, "row"), nn.Conv2d(8, 5, 6), nn.Flatten()
    )
    conversion = onespike.convert(network.eval(), images)
    assert (conversion.real, conversion.layers[0].thresholds) == ((), 8)


def test_what_is_left_real_valued_is_right_over_all_steps():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3), nn.Softmax(-1)).eval()
    points = torch.randn(64, 4)
    with torch.no_grad():
        out = onespike.convert(network, points, time_steps=512, allow_real=True, calibration=MAXIMA).network(points)
        torch.testing.assert_close(out, network(points), rtol=0, atol=0.02)


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU])
def test_signed_activations_become_thresholds(activation):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 3)).eval()
    points = torch.randn(512, 6)
    with torch.no_grad():
        expected = network(points)
        errors = []
        for correct in ("none", "bias", "weights"):
            out = onespike.convert(network, points, time_steps=8, calibration=Calibration(correct=correct)).network(
                points
            )
            errors.append((out - expected).square().mean())
    assert errors[1] < 0.7 * errors[0]  # the negative part is mostly a shift, which a bias takes back
    assert errors[2] < errors[1]


@pytest.mark.parametrize("levels", [1, 3])
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


def test_real_shortcuts_add_the_activation_and_weigh_its_spikes():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.last = (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3))

        def forward(self, x):
            x = self.first(x).relu()
            x = (x + self.second(x)).relu()
            return self.last(x.mean((2, 3)))

    network, images = Residual().eval(), torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, errors = network(images), {}
        for shortcuts in ("spikes", "real"):
            for steps in (1, 64):
                options = Calibration(correct="none")
                conversion = onespike.convert(
                    network, images, time_steps=steps, shortcuts=shortcuts, calibration=options
                )
                errors[shortcuts, steps] = ((conversion.network(images) - expected).norm() / expected.norm()).item()
                assert len(conversion.network.neurons) == 2
        # By hand, at one step: the addition reads the ReLU, the convolution its spikes.
        graph = conversion.network.body
        one = onespike.convert(network, images, shortcuts="real", calibration=MAXIMA).network.body
        current = one.first(images)
        spikes = one.get_submodule("relu")(current)
        second = one.get_submodule("relu_1")(current.relu() + one.second(spikes))
        torch.testing.assert_close(one(images), one.last(second.mean((2, 3))))
    assert any(name.endswith("_shortcut") for name, _ in graph.named_modules())
    assert errors["real", 1] < errors["spikes", 1]
    assert errors["real", 64] < 0.1 * errors["real", 1]
    with pytest.raises(OnespikeError, match="shortcuts: expected spikes: no activation of this network is both"):
        onespike.convert(plain(), images, shortcuts="real")
    added = Forward(lambda net, x: net.last(((hidden := net.first(x).relu()) + 1).view(hidden.size(0), -1)))
    with pytest.raises(OnespikeError, match="shortcuts: expected spikes: no activation of this network is both"):
        onespike.convert(added, torch.randn(8, 6), shortcuts="real")
    for wrong in ({"shortcuts": "rael"}, {"neurons": "none"}, {"batch_norm": "fold"}):
        with pytest.raises(OnespikeError, match=f"unknown conversion.{next(iter(wrong))} "):
            onespike.convert(network, images, **wrong)


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


def outputs(root, paths, *inputs):
    """What the modules of a graph gave in one forward pass."""
    found = {}
    for path in paths:
        root.get_submodule(path).register_forward_hook(lambda _m, _i, out, path=path: found.update({path: out}))
    root(*inputs)
    return found


def test_more_neurons_for_each_activation_come_closer_to_it(convolutional, images):
    with torch.no_grad():
        expected, errors = convolutional(images), []
        for population in (1, 2, 4, 8):
            conversion = onespike.convert(convolutional, images, population=population)
            errors.append((conversion.network(images) - expected).norm() / expected.norm())
            products = count_operations(conversion.network, [images]).products
            (product,) = (one for one in products if "8 -> 8" in one.name)
            assert product.arrives == ("binary" if population == 1 else "graded")
            assert product.levels <= population
            assert all(0 < layer.firing_rate < 1 for layer in conversion.layers)
    assert all(after < before for before, after in pairwise(errors))
    assert errors[-1] < 0.4 * errors[0]


def test_qcfs_that_runs_for_fewer_steps_is_corrected(images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), QCFS(4, 1.0), nn.Flatten(), nn.Linear(576, 5)).eval()
    with torch.no_grad():
        expected = network(images)
        corrected, not_corrected = (
            onespike.convert(network, images, calibration=Calibration(correct=correct)).network
            for correct in ("weights", "none")
        )
        assert (corrected(images) - expected).norm() < 0.5 * (not_corrected(images) - expected).norm()
    for network in (corrected, not_corrected):
        (neurons,) = network.neurons.values()
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


def test_spiking_attention_has_a_binary_side_in_every_product():
    network = create_model("vit12", activation="relu", branches="spiking", image_size=16)
    images = torch.randn(8, 3, 16, 16)
    for steps in (1, 8):
        conversion = onespike.convert(network, images, time_steps=steps)
        assert conversion.real == ()
        products = count_operations(conversion.network, [images]).products
        attention = [product for product in products if product.name.startswith("matmul")]
        assert len(attention) == 2 * sum(layer.isdecimal() for layer in LAYERS)
        assert all(product.arrives != "real" for product in attention)  # spikes, or several steps' spike counts
    with pytest.raises(OnespikeError, match=r"layers\.0\.matmul \(matmul\), layers\.0\.softmax \(softmax\)"):
        onespike.convert(create_model("vit12", activation="relu", image_size=16), images)


class Step(nn.Module):
    def forward(self, x):
        return (x >= 0.5).float()


@pytest.mark.parametrize(
    ("network", "points", "message"),
    [
        (nn.Linear(4, 2), torch.randn(8, 4), "no activation to convert"),
        (nn.Sequential(nn.Linear(4, 4), Step()), torch.randn(8, 4), r"1\.ge \(ge\): .* a network that spikes already"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(0, 4), "expected at least one image"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.full((8, 4), torch.nan), "expected finite images"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(8, 5), r"does not take a batch of \(2, 5\)"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()).bfloat16(), torch.randn(8, 4).bfloat16(), "use model.float()"),
    ],
)
def test_bad_input(network, points, message):
    with pytest.raises(OnespikeError, match=message):
        onespike.convert(network, points)


def test_max_pooling_that_says_where_is_not_converted():
    class Unpooling(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.MaxPool2d(2, return_indices=True)

        def forward(self, x):
            pooled = self.pool(x.relu())
            return F.max_unpool2d(pooled[0], pooled[1], 2).flatten(1)

    with pytest.raises(OnespikeError, match=r"cannot be converted: pool \(MaxPool2d\)"):
        onespike.convert(Unpooling(), torch.randn(2, 3, 4, 4))


def test_a_forward_pass_that_looks_at_values_cannot_be_traced():
    class Branching(nn.Module):
        def forward(self, x):
            return x.relu() if x.sum() > 0 else x

    with pytest.raises(OnespikeError, match=r"cannot be traced by torch\.fx"):
        onespike.convert(Branching(), torch.randn(2, 3))


def test_thresholds_of_dead_channels_stay_finite():
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    network[0].bias.data[0] = -1e3
    conversion = onespike.convert(network, torch.randn(64, 4))
    (neurons,) = [module for module in conversion.network.modules() if isinstance(module, IntegrateFire)]
    assert neurons.threshold.isfinite().all()
    assert (neurons.threshold > 0).all()
