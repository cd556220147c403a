"""What a conversion promises, on networks of every kind it knows."""

import copy
from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.models.vgg import ConvMlp
from torch import nn

import onespike
from onespike.conversion import Calibration, ConversionConfig
from onespike.conversion.calibration import SAMPLES, SHARES, set_thresholds
from onespike.conversion.network import spiking
from onespike.counting.operations import count_operations
from onespike.errors import OnespikeError
from onespike.models import create_model
from onespike.models.artificial import LAYERS
from onespike.neurons import IntegrateFire
from tests.forward import Forward
from tests.running import thorough
from tests.unit.conversion.networks import MAXIMA, error, outputs, three_layers


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8, 5)
    ).eval()


def test_with_maxima_the_error_falls_as_one_over_t(images):
    network, errors = plain(), []
    for steps in (16, 32, 64, 128, 256):
        converted = onespike.convert(network, images, time_steps=steps, calibration=MAXIMA).network
        errors.append((steps, error(converted, network, images)))
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
    assert len(repr(conversion)) < 500  # a notebook prints neither the network nor each layer


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
    thorough(
        [
            lambda: timm.create_model("resnet10t", num_classes=5),
            lambda: timm.create_model("regnetx_002", num_classes=5),
            lambda: timm.create_model("resnetv2_18", num_classes=5),
            lambda: nn.Sequential(nn.Conv2d(3, 8, 8, 8), ConvMlp(8, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            lambda: torchvision.models.squeezenet1_1(num_classes=5),
            lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=5),
            lambda: torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=5),
            lambda: torchvision.models.googlenet(
                num_classes=5, transform_input=True, aux_logits=False, init_weights=False
            ),
        ],
        1,
    ),
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
    for steps in (4, 64):
        conversion = onespike.convert(network, images, time_steps=steps, calibration=MAXIMA)
        errors.append(error(conversion.network, network, images))
    assert errors[1] < 0.5 * errors[0]
    assert [layer.layer for layer in conversion.layers] == list(converted.neurons)
    assert all(0 <= layer.firing_rate <= 1 for layer in conversion.layers)
    assert sum(layer.firing_rate > 0 for layer in conversion.layers) > 0.5 * len(conversion.layers)


def compiled(network):
    return torch.compile(network, backend="eager")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # the compiler does that itself
@pytest.mark.parametrize("form", [compiled, nn.DataParallel, lambda network: nn.DataParallel(compiled(network))])
def test_a_network_inside_another_form_of_it_is_converted(form, images):
    network = plain()
    logits = [onespike.convert(one, images).network(images) for one in (network, form(network))]
    assert torch.equal(*logits)


@torch.no_grad()
def test_thresholds_are_found_on_all_columns_of_a_map():
    """Every 16th value of a map with 16 columns would be its first column."""
    activations = torch.rand(256, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    activations[..., 0] = 0
    neurons = IntegrateFire(1, 1, 1, "rectangle")
    set_thresholds(neurons, activations[None], activations, Calibration("percentile", percentile=50.0))
    assert neurons.threshold.item() == pytest.approx(0.47, abs=0.03)  # the median, a sixteenth of them being 0


@torch.no_grad()
@pytest.mark.parametrize("correct", ["none", "bias"])
@pytest.mark.parametrize(("steps", "population"), [(4, 1), (1, 3)])
def test_the_thresholds_with_the_least_error_are_found_over_the_steps_as_they_come(steps, population, correct):
    torch.manual_seed(0)
    currents = torch.randn(4, 512, 2)  # steps, samples, channels: more at the end, as spikes arrive in deep layers
    currents += torch.tensor([-0.5, 0.0, 0.5, 1.0]).view(4, 1, 1)
    currents = currents[:steps]
    activations = currents.mean(0).relu()
    neurons = IntegrateFire(2, 1, steps, "rectangle", population)
    options = Calibration("error", percentile=100.0, correct=correct)
    set_thresholds(neurons, currents, activations, options)
    chosen, errors = neurons.threshold.detach().clone(), []
    for share in SHARES:
        neurons.raw_threshold.data = (activations.amax(0) * share).log()
        distance = neurons(currents.flatten(0, 1)).unflatten(0, (steps, -1)).mean(0) - activations
        errors.append(distance.var(0, correction=0) if correct == "bias" else distance.square().mean(0))
    best = activations.amax(0) * SHARES[torch.stack(errors).argmin(0)]
    torch.testing.assert_close(chosen, best)


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
    points, squares = torch.randn(512, 6), []
    for correct in ("none", "bias", "weights"):
        converted = onespike.convert(network, points, time_steps=8, calibration=Calibration(correct=correct)).network
        squares.append(error(converted, network, points) ** 2)
    assert squares[1] < 0.7 * squares[0]  # the negative part is mostly a shift, which a bias takes back
    assert squares[2] < squares[1]


@pytest.mark.parametrize("between", ["identity", "max", "average and cat", "pad"])
def test_real_shortcuts_reach_through_what_has_no_weights(between):
    ways = {
        "identity": nn.Identity(),  # at net.between, for tracing
        "max": lambda x: F.max_pool2d(x, 2),
        "average and cat": lambda x: (lambda pooled: torch.cat([pooled, pooled], 1))(F.avg_pool2d(x, 2)),
        "pad": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 6)),
    }
    way, whole = ways[between], between in ("identity", "max")  # of these the convolution reads what is pooled, too

    def residual(net, x):
        x = net.first(x).relu()
        short = net.between(x) if between == "identity" else way(x)
        return net.last((net.second(short if whole else x) + short).relu().mean((2, 3)))

    torch.manual_seed(0)
    width, stride = (8, 1) if whole else (16, 2)
    second = nn.Conv2d(8, width, 3, padding=1, stride=stride)
    layers = {"first": nn.Conv2d(3, 8, 3), "second": second, "last": nn.Linear(width, 3), "between": nn.Identity()}
    network = Forward(residual, **layers).eval()
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    one = onespike.convert(network, images, shortcuts="real", calibration=MAXIMA).network.body
    with torch.no_grad():
        current = one.first(images)
        spikes = one.get_submodule("relu")(current)
        added = one.second(way(spikes) if whole else spikes) + way(current.relu())
        torch.testing.assert_close(one(images), one.last(one.get_submodule("relu_1")(added).mean((2, 3))))
    assert all(node.users for node in one.graph.nodes if node.op not in ("output", "placeholder"))
    many = onespike.convert(network, images, shortcuts="real", time_steps=64, calibration=MAXIMA).network
    assert error(many, network, images) < 0.05


@pytest.mark.parametrize(("downsample", "reached"), [("conv", 5), ("pool", 8)])
def test_pooled_shortcuts_of_resnet18_carry_real_values_from_the_first_layer_to_the_last(downsample, reached):
    torch.manual_seed(0)
    network = create_model("resnet18", image_size=20, downsample=downsample).eval()  # maps of 10, 5, 3 and 2 pixels
    images = torch.randn(4, 3, 20, 20)
    body = onespike.convert(network, images, shortcuts="real").network.body
    assert [layer for layer in body.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)] == (
        [] if downsample == "pool" else [body.get_submodule(f"layer{stage}.0.downsample.0") for stage in (2, 3, 4)]
    )
    origins = []
    for node in body.graph.nodes:
        if node.name.startswith("add"):  # branch and shortcut: back to what made the shortcut
            source = node.args[1]
            while source.op == "call_function" or "pool" in str(source.target):
                source = source.all_input_nodes[0]
            origins.append(str(source.target))
    assert len(origins) == 8
    assert sum(origin.endswith("_shortcut") for origin in origins) == reached


def test_real_shortcuts_add_the_activation_and_weigh_its_spikes():
    def residual(net, x):
        x = net.first(x).relu()
        x = (x + net.second(x)).relu()
        return net.last(x.mean((2, 3)))

    torch.manual_seed(0)
    layers = {"first": nn.Conv2d(3, 8, 3), "second": nn.Conv2d(8, 8, 3, padding=1), "last": nn.Linear(8, 3)}
    network = Forward(residual, **layers).eval()
    images, errors = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1)), {}
    options = {"calibration": Calibration(correct="none")}
    for shortcuts in ("spikes", "real"):
        for steps in (1, 64):
            converted = onespike.convert(network, images, time_steps=steps, shortcuts=shortcuts, **options).network
            errors[shortcuts, steps] = error(converted, network, images)
            assert len(converted.neurons) == 2
    assert any(name.endswith("_shortcut") for name, _ in converted.body.named_modules())
    with torch.no_grad():  # by hand, at one step: the addition reads the ReLU, the convolution its spikes
        one = onespike.convert(network, images, shortcuts="real", calibration=MAXIMA).network.body
        current = one.first(images)
        spikes = one.get_submodule("relu")(current)
        second = one.get_submodule("relu_1")(current.relu() + one.second(spikes))
        torch.testing.assert_close(one(images), one.last(second.mean((2, 3))))
    assert errors["real", 1] < errors["spikes", 1]
    assert errors["real", 64] < 0.1 * errors["real", 1]
    with pytest.raises(OnespikeError, match="shortcuts: expected spikes: no activation of this network is both"):
        onespike.convert(plain(), images, shortcuts="real")
    added = three_layers(lambda net, x: net.last(((hidden := net.first(x).relu()) + 1).view(hidden.size(0), -1)))
    with pytest.raises(OnespikeError, match="shortcuts: expected spikes: no activation of this network is both"):
        onespike.convert(added, torch.randn(8, 6), shortcuts="real")
    for wrong in ({"shortcuts": "rael"}, {"neurons": "none"}, {"batch_norm": "fold"}):
        with pytest.raises(OnespikeError, match=f"unknown conversion.{next(iter(wrong))} "):
            onespike.convert(network, images, **wrong)


def test_more_neurons_for_each_activation_come_closer_to_it(convolutional, images):
    errors = []
    for population in (1, 2, 4, 8):
        conversion = onespike.convert(convolutional, images, population=population)
        errors.append(error(conversion.network, convolutional, images))
        products = count_operations(conversion.network, [images]).products
        (product,) = (one for one in products if "8 -> 8" in one.name)
        assert product.arrives == ("binary" if population == 1 else "graded")
        assert product.levels <= population
        assert all(0 < layer.firing_rate < 1 for layer in conversion.layers)
    assert all(after < before for before, after in pairwise(errors))
    assert errors[-1] < 0.4 * errors[0]


@pytest.mark.slow
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


@torch.no_grad()
@pytest.mark.parametrize("thresholds", ["maximum", "percentile", "error"])
@pytest.mark.parametrize(("activation", "scale"), [(4.0, 4.0), (0.0, 1.0), (-1.0, 1.0)])
def test_thresholds_of_layers_that_are_seldom_active_are_those_of_what_is(thresholds, activation, scale):
    neurons, activations = IntegrateFire(3, 1, 1, "rectangle"), torch.zeros(100, 3)
    activations[0] = activation  # half of all are 0, so a median is
    chosen = Calibration(thresholds) if thresholds == "maximum" else Calibration(thresholds, percentile=50)
    set_thresholds(neurons, activations[None], activations, chosen)
    shares = SHARES if thresholds == "error" else torch.ones(1)
    assert (neurons.threshold[:, None] / scale - shares).abs().amin(1).max() < 1e-6


@pytest.mark.parametrize("calibration", [Calibration(), Calibration(correct="none"), MAXIMA])
def test_quiet_channels_count_as_much_as_the_weights_behind_them_make_of_them(calibration, images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    errors = []
    for factor in (1, 2**-14):  # of some channels; the network stays the same function
        with torch.no_grad():
            network[1].weight[:6] *= factor
            network[1].bias[:6] *= factor
            network[3].weight[:, :6] /= factor
        found = onespike.convert(network, images, time_steps=32, calibration=calibration).network
        errors.append(error(found, network, images))
    assert errors[1] == pytest.approx(errors[0], rel=0.3)


@torch.no_grad()
@pytest.mark.parametrize("thresholds", ["maximum", "percentile", "error"])
@pytest.mark.parametrize("rows", [1000, 40 * SAMPLES])  # of the latter no active one may be looked at
def test_channels_that_are_seldom_active_have_their_own_maximum(rows, thresholds):
    activations = torch.rand(rows, 2)
    activations[:, 1] = 0
    activations[7, 1] = 0.02
    neurons = IntegrateFire(2, 1, 1, "rectangle")
    set_thresholds(neurons, activations[None], activations, Calibration(thresholds))
    assert 0.2 < neurons.threshold[0] <= 1
    assert 0.2 * 0.02 < neurons.threshold[1] < 0.0201


def test_thresholds_of_dead_channels_stay_finite():
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    network[0].bias.data[0] = -1e3
    conversion = onespike.convert(network, torch.randn(64, 4))
    (neurons,) = [module for module in conversion.network.modules() if isinstance(module, IntegrateFire)]
    assert neurons.threshold.isfinite().all()
    assert (neurons.threshold > 0).all()
