"""What the forward pass of a network may do, and which layers of neurons come of it."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import StochasticDepth

import onespike
from onespike.conversion import ConversionConfig
from onespike.conversion.network import spiking
from onespike.conversion.over_time import PoolSpikes
from onespike.counting.operations import count_operations
from onespike.errors import OnespikeError
from tests.forward import Forward
from tests.unit.conversion.networks import MAXIMA, error, three_layers


def test_each_call_of_an_activation_has_neurons_of_its_own(convolutional, images):
    conversion = onespike.convert(convolutional, images)
    assert [layer.layer for layer in conversion.layers] == ["relu", "relu_1"]
    twice = nn.Sequential(nn.Linear(4, 4), shared := nn.ReLU(), nn.Linear(4, 4), shared, nn.Linear(4, 2))
    conversion = onespike.convert(twice, torch.randn(16, 4))
    assert [layer.layer for layer in conversion.layers] == ["1", "1_2"]


def test_a_function_of_timms_may_look_at_sizes():
    """This transformer fits its position embedding to the images."""
    network, images = timm.create_model("test_vit", num_classes=5).eval(), torch.randn(2, 3, 64, 64)
    converted = spiking(network, ConversionConfig(allow_real=True), images)
    with torch.no_grad():
        torch.testing.assert_close(converted.analog()(images), network(images))


def test_conditions_on_sizes_are_decided_as_for_the_images():
    def padded(net, x):
        hidden = net.act(net.first(x))
        if rest := hidden.shape[-1] % 4:
            hidden = F.pad(hidden, (0, 4 - rest))
        return net.last(net.act(net.first(hidden)).flatten(1))

    torch.manual_seed(0)
    layers = {"first": nn.Conv1d(1, 1, 3), "last": nn.Linear(6, 3), "act": nn.ReLU()}
    network, images = Forward(padded, **layers), torch.randn(64, 1, 8)
    converted = onespike.convert(network, images, time_steps=256, calibration=MAXIMA).network
    assert error(converted, network, images) < 0.03
    with torch.no_grad():
        network(torch.randn(2, 1, 10))
        with pytest.raises(AssertionError, match="expected images of the sizes that the network was converted for"):
            converted(torch.randn(2, 1, 10))


def twice_and_a_function(net, x):
    x = net.second(net.second(net.relu(net.first(x))))
    return net.last(torch.relu(net.second_2(net.relu(x))))


def test_no_two_layers_of_neurons_share_a_path():
    """A module's second call and a function could both be called relu_2, or its second call as another layer."""
    network, points = three_layers(twice_and_a_function), torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    network.relu = network.act
    network.second_2 = nn.Linear(16, 16)
    conversion = onespike.convert(network, points, time_steps=256, calibration=MAXIMA)
    assert len({layer.layer for layer in conversion.layers}) == 3
    assert error(conversion.network, network, points) < 0.03


def test_a_real_shortcut_takes_no_layers_path():
    def added_and_weighed(net, x):
        hidden = net.act(net.first(x))
        return net.last(net.act_shortcut(net.second(hidden) + hidden))

    network, points = three_layers(added_and_weighed), torch.randn(64, 6)
    network.act_shortcut = nn.Linear(16, 16)
    converted = onespike.convert(network, points, shortcuts="real", time_steps=256, calibration=MAXIMA).network
    assert isinstance(converted.body.act_shortcut, nn.Linear)
    assert error(converted, network, points) < 0.03


def in_place(net, x):
    hidden = net.first(x)
    return net.last(net.second(net.act(hidden)) + hidden)


def functional_in_place(net, x):
    hidden = net.first(x)
    return net.last(net.second(F.relu(hidden, inplace=True)) + hidden)


def told_in_place(net, x):
    hidden = net.first(x)
    return net.last(net.second(F.relu(hidden, True)) + hidden)


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


def constants_by_shape(net, x):
    hidden = net.first(x).relu()
    hidden = torch.ones_like(hidden) - hidden.new_full(hidden.shape, 0.5) + hidden * torch.full_like(hidden, 2)
    return net.last(net.second(hidden) + torch.zeros_like(hidden))


def dropped(net, x):
    hidden = net.first(x).relu()[:, :, None, None]
    return net.last(F.dropout2d(hidden, 0.5, net.training).flatten(1))


@pytest.mark.parametrize(
    "forward",
    [
        *(in_place, functional_in_place, told_in_place, method_in_place, sliced, with_keywords, called_twice),
        *(pooled_with_keywords, constants_by_shape, dropped),
    ],
    ids=lambda forward: forward.__name__,
)
def test_forward_passes_of_all_kinds(forward):
    network, points = three_layers(forward), torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
    assert error(onespike.convert(network, points, time_steps=256, calibration=MAXIMA).network, network, points) < 0.02


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.clamp(0, 6),
        lambda x: torch.clip(x, min=0),
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: F.relu6(3 * x),
    ],
)
def test_a_function_is_the_activation_that_it_computes(function):
    network, points = three_layers(lambda net, x: net.last(function(net.first(x)))), 9 * torch.randn(64, 6)
    converted = spiking(network, ConversionConfig(surrogate="triangle", surrogate_width=0.25), points)
    with torch.no_grad():
        torch.testing.assert_close(converted.analog()(points), network(points), rtol=1e-6, atol=1e-6)
    (neurons,) = converted.neurons.values()
    assert (neurons.firing.surrogate.name, neurons.firing.surrogate.width) == ("triangle", 0.25)


@pytest.mark.parametrize(
    "function",
    [
        lambda _, x: torch.div(x, 0.3, rounding_mode="floor"),
        lambda _, x: F.batch_norm(x, None, None, training=True),
        lambda net, x: net.pool(x[:, None])[0][:, 0],
        lambda _, x: x.clamp(0, 5),
        lambda net, x: net.norm(x),
    ],
)
def test_what_is_not_linear_is_no_linear_function(function):
    network = three_layers(lambda net, x: net.last(net.second(function(net, net.first(x).relu())).relu()))
    network.norm, network.pool.return_indices = nn.BatchNorm1d(16, track_running_stats=False), True
    with pytest.raises(OnespikeError, match=r"cannot be converted: .* leaves these real-valued"):
        spiking(network, ConversionConfig(), torch.randn(64, 6))


@pytest.mark.parametrize(
    "leaky",
    [
        *(lambda x: F.leaky_relu(x, 0.1, inplace=True), lambda x: F.leaky_relu_(x, 0.1), lambda x: torch.tanh_(x)),
        *(lambda x: x + x.zero_(), lambda x: x + torch.zero_(x)),  # there is no function `zero`
    ],
)
def test_a_function_left_real_valued_changes_nothing_in_place_either(leaky):
    def through_a_view(net, x):
        hidden = net.act(net.first(x))
        seen = hidden.view(-1, 4, 4)
        F.dropout(F.hardtanh(hidden, 0.1, 0.2, True), 0.5, False)
        return net.last(seen.flatten(1))

    points = torch.randn(64, 6)
    before = points.clone()
    network = three_layers(lambda net, x: net.last(net.act(net.first(leaky(x)))))
    found = onespike.convert(network, points, time_steps=256, calibration=MAXIMA, allow_real=True).network
    assert torch.equal(points, before)
    with torch.no_grad():
        expected = network(points.clone())
        assert (found(points) - expected).norm() < 0.02 * expected.norm()
    with pytest.raises(OnespikeError, match="computes something else"):
        onespike.convert(three_layers(through_a_view), points, time_steps=4, allow_real=True)


def test_logical_operators_change_nothing_in_place():
    def masked(net, x):
        above, below = x > -1, x < 1
        both = above & below
        return net.last(net.first(x * both + (above | below) + above).relu())

    points, network = torch.randn(64, 6), three_layers(masked)
    found = onespike.convert(network, points, time_steps=1, population=16, allow_real=True).network
    with torch.no_grad():
        expected = network(points)
        assert (found(points) - expected).norm() < 0.1 * expected.norm()


def test_a_network_that_changes_its_input_leaves_the_images_as_they_are():
    network, points = three_layers(lambda net, x: net.last(net.first(x.mul_(2)).relu())), torch.randn(64, 6)
    before = points.clone()
    with torch.no_grad():
        out = onespike.convert(network, points, time_steps=256, calibration=MAXIMA).network(points)
        assert torch.equal(points, before)
        assert (out - network(points)).norm() < 0.02 * out.norm()


def test_each_call_of_a_layer_has_weights_of_its_own_and_so_have_tied_ones():
    network, points = (
        three_layers(lambda net, x: called_twice(net, x) + net.last(net.third(net.first(x).relu()).relu())),
        torch.randn(64, 6),
    )
    network.third = nn.Linear(16, 16)
    network.third.weight = network.second.weight
    graph = onespike.convert(network.eval(), points).network.body
    weights = [module.weight for module in graph.modules() if isinstance(module, nn.Linear)]
    assert len(weights) == 7  # as many as there are calls
    assert len({weight.data_ptr() for weight in weights}) == 7
    before = network.second.weight
    assert not any(torch.equal(weight, before) for weight in weights if weight.shape == before.shape)


def read_again(net, x):
    hidden = net.second(net.first(x).relu()).relu()
    return net.last(F.linear(hidden, net.second.weight.t()).relu())


def test_a_weight_that_a_function_reads_as_well_stays_there():
    network = three_layers(read_again)
    graph = onespike.convert(network, torch.randn(64, 6)).network.body
    assert torch.equal(graph.second.weight, network.second.weight)
    assert not torch.equal(graph.second_2.weight, network.second.weight)


class Rectified(nn.Conv2d):
    """A convolution by its class, an activation by its forward pass."""

    def forward(self, x):
        return super().forward(x).relu()


def test_a_subclass_of_a_known_layer_is_looked_into():
    torch.manual_seed(0)
    network = nn.Sequential(Rectified(3, 8, 3), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)).eval()
    images = torch.randn(64, 3, 8, 8)
    conversion = onespike.convert(network, images, time_steps=256, calibration=MAXIMA)
    assert len(conversion.layers) == 2
    assert error(conversion.network, network, images) < 0.02


class Doubled(nn.BatchNorm2d):
    """A batch norm with a forward pass of its own."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("batch_norm", ["folded", "kept"])
def test_a_batch_norm_with_a_forward_pass_of_its_own_is_looked_into(batch_norm):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), Doubled(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
    images = torch.randn(64, 3, 8, 8)
    network(images)
    conversion = onespike.convert(network.eval(), images, time_steps=256, calibration=MAXIMA, batch_norm=batch_norm)
    assert error(conversion.network, network, images) < 0.02
    with pytest.raises(ValueError, match="expected 4D input"):
        network[1](images[0])  # it still looks at its input itself


class Optional(nn.Module):
    """A forward pass with options, each with a default."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x, mask=None, features=False, *, scale=2.0):
        hidden = scale * self.first(x).relu()
        hidden = hidden if mask is None else hidden * mask
        return hidden if features else self.last(hidden)


def test_options_of_the_forward_pass_keep_their_defaults(tmp_path):
    torch.manual_seed(0)
    network, images = Optional().eval(), torch.randn(64, 6)
    conversion = onespike.convert(network, images, time_steps=256, calibration=MAXIMA)
    assert error(conversion.network, network, images) < 0.02
    assert type(network) is Optional
    conversion.save(tmp_path / "snn")
    loaded = onespike.load_converted(tmp_path / "snn", Optional()).network
    assert torch.equal(loaded(images), conversion.network(images))


class SameSize(nn.Conv2d):
    """Its constructor alone is its own."""

    def __init__(self, channels):
        super().__init__(channels, channels, 3, padding=1, bias=False)

    def reset_parameters(self):
        super().reset_parameters()


class Normalised(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels, eps=1e-3, momentum=0.01)


class Rectifier(nn.ReLU):
    pass


def test_a_subclass_that_changes_the_constructor_alone_is_the_known_layer():
    def converted(conv, norm, act):
        torch.manual_seed(0)
        layers = (*(conv(3), norm(3), act()) * 2, nn.Flatten(), nn.Linear(48, 5))
        return onespike.convert(nn.Sequential(*layers).eval(), images).network

    images = torch.randn(64, 3, 4, 4)
    ours = converted(lambda c: nn.Conv2d(c, c, 3, padding=1, bias=False), lambda c: nn.BatchNorm2d(c, 1e-3), nn.ReLU)
    theirs = converted(SameSize, Normalised, Rectifier)
    assert theirs.outline() == ours.outline()
    assert torch.equal(theirs(images), ours(images))


@pytest.mark.slow
@pytest.mark.parametrize(("axis", "spikes"), [(1, True), (-1, False)])
def test_max_pooling_where_neurons_of_several_thresholds_meet(axis, spikes):
    def joined(net, x):
        both = torch.cat([net.one(x).relu(), net.other(x).relu()], axis)
        return net.last(net.pool(both)[..., :6, 0].flatten(1))

    torch.manual_seed(0)
    layers = {"one": nn.Conv2d(3, 4, 3), "other": nn.Conv2d(3, 4, 3), "last": nn.Linear(48 if axis == 1 else 24, 5)}
    network, images = Forward(joined, **layers, pool=nn.MaxPool2d((1, 12))).eval(), torch.randn(64, 3, 8, 14)
    network.other.weight.data *= 5
    converted = onespike.convert(network, images, time_steps=512, calibration=MAXIMA).network
    assert error(converted, network, images) < 0.01
    assert isinstance(converted.body.pool, PoolSpikes) is spikes


@pytest.mark.parametrize("cut", [lambda x: x[:, :, 1:5, ..., 1:5], lambda x: x.chunk(2, 1)[0], lambda x: x.roll(1, 2)])
def test_channels_of_several_layers_may_be_cut_before_they_are_pooled(cut):
    def joined(net, x):
        return net.last(net.pool(cut(torch.cat([net.one(x).relu(), net.other(x).relu()], 1))).mean((2, 3))[:, :4])

    layers = {"one": nn.Conv2d(3, 4, 3), "other": nn.Conv2d(3, 4, 3), "last": nn.Linear(4, 5)}
    network, images = Forward(joined, **layers, pool=nn.MaxPool2d(2)).eval(), torch.randn(8, 3, 8, 8)
    converted = onespike.convert(network, images, time_steps=4, neurons="layer", calibration=MAXIMA).network
    assert isinstance(converted.body.pool, PoolSpikes)


@pytest.mark.parametrize(("moved", "spikes"), [(True, False), (False, True)])
def test_max_pooling_over_an_axis_that_joins_neurons_of_several_thresholds(moved, spikes):
    def joined(net, x):
        both = torch.cat([net.one(x).relu(), net.other(x).relu()], 1).contiguous()
        return net.last(net.pool(both.flatten(2).transpose(1, 2) if moved else both).flatten(1))

    torch.manual_seed(0)
    pool = nn.MaxPool1d(8) if moved else nn.MaxPool2d(2)
    layers = {"one": nn.Conv2d(3, 4, 3), "other": nn.Conv2d(3, 4, 3), "last": nn.Linear(16 if moved else 32, 5)}
    network, images = Forward(joined, **layers, pool=pool).eval(), torch.randn(64, 3, 6, 6)
    network.other.weight.data *= 10
    converted = onespike.convert(network, images, time_steps=64, neurons="layer", calibration=MAXIMA).network
    assert isinstance(converted.body.pool, PoolSpikes) is spikes
    assert error(converted, network, images) < 0.05


def test_attention_as_a_module_is_right_over_all_steps_where_images_come_first():
    def forward(net, x):
        x = net.first(x).relu()
        return net.last(net.attention(x, x, x)[0])

    torch.manual_seed(0)
    layers = {"first": nn.Linear(8, 8), "last": nn.Linear(8, 3)}
    network = Forward(forward, **layers, attention=nn.MultiheadAttention(8, 2, batch_first=True)).eval()
    tokens = torch.randn(64, 5, 8, generator=torch.Generator().manual_seed(0))
    converted = onespike.convert(network, tokens, time_steps=128, allow_real=True, calibration=MAXIMA).network
    assert error(converted, network, tokens) < 0.02


def test_layers_that_images_do_not_reach_are_left_alone():
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    parts = {"layers": layers, "bias": nn.Linear(2, 3), "constant": nn.Buffer(torch.ones(2))}
    network = Forward(lambda net, x: net.layers(x) + net.bias(net.constant), **parts).eval()
    points = torch.randn(64, 4)
    converted = onespike.convert(network, points, time_steps=4).network
    assert torch.equal(converted.body.bias.weight, network.bias.weight)


def test_an_activation_of_a_parameter_stays_an_activation():
    network = three_layers(lambda net, x: net.last(net.act(net.first(x)) * net.act(net.gain)))
    points = torch.randn(64, 6)
    network.gain = nn.Parameter(torch.randn(1, 16))
    conversion = onespike.convert(network, points, time_steps=256, calibration=MAXIMA)
    assert [layer.layer for layer in conversion.layers] == ["act_2"]
    assert isinstance(conversion.network.body.act, nn.ReLU)
    assert error(conversion.network, network, points) < 0.02


def test_spikes_stay_spikes_behind_max_pooling_at_any_number_of_steps():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()).eval()
    images = torch.randn(16, 3, 12, 12)
    for steps in (1, 7, 16):
        converted = onespike.convert(network, images, time_steps=steps).network
        products = count_operations(converted, [images]).products
        assert [product.arrives for product in products] == ["real", "binary"]


def test_a_spike_train_times_itself_is_a_product():
    def squared(net, x):
        x = torch.relu(net.first(x))
        return net.last(x * x)

    network, points = three_layers(squared), torch.randn(64, 6)
    assert error(onespike.convert(network, points, time_steps=256, calibration=MAXIMA).network, network, points) < 0.02


def test_paths_that_are_dropped_in_training_alone_are_none_at_test_time(images):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), StochasticDepth(0.5, "row"), nn.Conv2d(8, 5, 6), nn.Flatten()
    )
    conversion = onespike.convert(network.eval(), images)
    assert (conversion.real, conversion.layers[0].thresholds) == ((), 8)


@pytest.mark.parametrize("cast", [lambda x: x.to(torch.int64).float(), lambda x: x.sum(1, dtype=torch.int32)[:, None]])
def test_whole_numbers_are_not_linear(cast):
    """Of a mean over time they keep the whole part; of each spike's size, nothing."""
    network = three_layers(lambda net, x: net.last(net.second(net.first(x).relu()) + cast(net.first(x).relu())))
    with pytest.raises(OnespikeError, match=r"allow_real=True"):
        onespike.convert(network, torch.randn(64, 6), time_steps=4)
