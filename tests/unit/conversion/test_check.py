"""Networks, images and options that are refused, and why."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import onespike
from onespike.conversion import ConversionConfig
from onespike.conversion.network import spiking
from onespike.errors import OnespikeError
from tests.forward import Forward
from tests.unit.conversion.networks import MAXIMA, error, three_layers


def enlarging(net, x):
    return net.last(net.first(x).relu(), output_size=x.shape[-2:])


def test_a_weight_layer_that_is_told_how_large_its_output_is_cannot_be_fitted():
    layers = {"first": nn.Conv2d(3, 8, 3, 2, padding=1), "last": nn.ConvTranspose2d(8, 3, 3, 2, padding=1)}
    network, images = Forward(enlarging, **layers).eval(), torch.randn(8, 3, 8, 8)
    with pytest.raises(OnespikeError, match=r"layer last takes more than its input: expected output_padding"):
        onespike.convert(network, images)
    assert onespike.convert(network, images, calibration=MAXIMA).network(images).shape == images.shape


def through_a_view(net, x):
    hidden = net.first(x)
    hidden.view(-1, 4, 4).relu_()
    return net.last(net.second(hidden).relu())


def by_an_operator(net, x):
    hidden = same = net.first(x).relu()
    hidden += net.second(hidden)  # to torch.fx the same as hidden = hidden + ...
    return net.last(same.relu())


@pytest.mark.parametrize("forward", [through_a_view, by_an_operator], ids=lambda forward: forward.__name__)
def test_a_graph_that_computes_something_else_is_refused(forward):
    with pytest.raises(OnespikeError, match=r"computes something else, by .*; on CUDA set torch"):
        onespike.convert(three_layers(forward), torch.randn(8, 6))


def in_front_of_the_images(net, x):
    both = torch.cat([x, 2 * x], 0)
    one, other = net.second(net.first(both).relu()).relu().chunk(2, 0)
    return net.last(one + other)


def beside_each_other(net, x):
    both = torch.stack([x, 2 * x], 1).flatten(0, 1)  # two rows for each image, one image after the other
    both = net.second(net.first(both).relu()).relu().unflatten(0, (-1, 2))
    return net.last(both.sum(1))


def test_time_steps_are_not_stacked_between_rows_of_an_image():
    points = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(OnespikeError, match=r"what first gives, \(4, 16\) for 2 images, are not one image after"):
        onespike.convert(three_layers(in_front_of_the_images), points, time_steps=4)
    network = three_layers(beside_each_other)
    assert error(onespike.convert(network, points, time_steps=256, calibration=MAXIMA).network, network, points) < 0.02


@pytest.mark.parametrize("tokens", [2, 5, 64])
@pytest.mark.parametrize("images", [1, 64])
def test_tokens_before_images_are_refused(tokens, images):
    network = three_layers(lambda net, x: net.last(net.first(x.transpose(0, 1)).relu()).transpose(0, 1))
    with pytest.raises(OnespikeError, match=rf"what first gives, \({tokens}, .* \(batch_first\)"):
        onespike.convert(network, torch.randn(images, tokens, 6), time_steps=2)


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (lambda x: x.max(), r"rows of what max_1 gives, \(\) for 2 images, are not one image after the other"),
        (lambda x: x.mean().item(), r"item gives one float for all images$"),
    ],
)
def test_one_value_of_all_images_is_refused(scale, message):
    network = three_layers(lambda net, x: net.last(net.first(x / scale(x)).relu()))
    with pytest.raises(OnespikeError, match=message):
        onespike.convert(network, torch.rand(8, 6), allow_real=True)


def recurrent(cell):
    torch.manual_seed(0)
    layers = {"first": nn.Linear(6, 6), "last": nn.Linear(8, 3), "cell": cell(6, 8, batch_first=True)}
    return Forward(lambda net, x: net.last(net.cell(net.first(x).relu())[0][:, -1]), **layers).eval()


@pytest.mark.parametrize(("cell", "message"), [(nn.GRU, "rows of what cell gives"), (nn.LSTM, "tensors within tuples")])
def test_recurrent_layers_are_left_real_valued_at_one_time_step_alone(cell, message):
    network, tokens = recurrent(cell), torch.randn(32, 5, 6)
    conversion = onespike.convert(network, tokens, allow_real=True)
    assert conversion.real == ("cell",)
    assert conversion.network(tokens).isfinite().all()
    with pytest.raises(OnespikeError, match=message):
        onespike.convert(network, tokens, allow_real=True, time_steps=2)


def test_more_time_steps_than_a_recurrent_layer_was_converted_for_are_refused():
    network, tokens = recurrent(nn.LSTM), torch.randn(4, 5, 6)
    longer = spiking(network, ConversionConfig(time_steps=2, allow_real=True), tokens)
    with pytest.raises(OnespikeError, match="over several time steps: LSTM gives tensors within tuples"):
        longer(tokens)


def test_a_spiking_network_that_divides_by_no_spikes_is_refused():
    network = three_layers(lambda net, x: net.last((y := net.first(x).relu() ** 2) / y.sum(1, keepdim=True)))
    nn.init.constant_(network.first.bias, -1.5)
    nn.init.constant_(network.first.weight[0], 0.1)  # never silent, seldom at its maximum
    network.first.bias.data[0] = 0.05
    points = torch.randn(64, 6, generator=torch.Generator().manual_seed(0)).abs()
    for steps in (1, 4):
        with pytest.raises(OnespikeError, match="layer last of the spiking network reads values that are not finite"):
            onespike.convert(network, points, allow_real=True, time_steps=steps, calibration=MAXIMA)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_steps": 2.5}, "time_steps: expected a whole number, got 2.5"),
        ({"population": 2.0}, "population: expected a whole number, got 2.0"),
        ({"neurons": "map"}, "unknown conversion.neurons 'map'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(OnespikeError, match=message):
        onespike.convert(three_layers(lambda net, x: net.last(net.first(x).relu())), torch.randn(8, 6), **options)


def test_weights_of_half_precision_and_what_is_no_calibration():
    network, points = three_layers(lambda net, x: net.last(net.first(x).relu())), torch.randn(8, 6)
    with pytest.raises(OnespikeError, match="calibration: expected a Calibration, got a str"):
        onespike.convert(network, points, calibration="error")
    with pytest.raises(OnespikeError, match=r"float32 or float64, got torch\.bfloat16: use model\.float\(\)"):
        spiking(network.bfloat16(), ConversionConfig(), points)


def test_images_that_are_no_tensor():
    with pytest.raises(OnespikeError, match=r"images: expected a tensor \(N, C, H, W\), got a list"):
        onespike.convert(nn.ReLU(), [[0.0, 1.0]])


def test_what_a_networks_own_code_raises_is_said_in_one_line():
    def particular(_, x):
        assert x.shape[-1] == 4, "expected rows of 4"
        return x.relu()

    with pytest.raises(
        OnespikeError, match=r"does not take a batch of \(2, 3\), torch\.float32: AssertionError: expected rows of 4"
    ):
        onespike.convert(Forward(particular), torch.randn(2, 3))

    def of_tensors(_, x):
        return x.relu() if isinstance(x, torch.Tensor) else x.rectified()

    with pytest.raises(OnespikeError, match=r"graph by torch\.fx does not take 2 images: ") as error:
        onespike.convert(Forward(of_tensors), torch.randn(2, 3))
    assert "any number" not in str(error.value)


def test_the_number_of_images_is_not_blamed_for_their_values():
    network = nn.Sequential(nn.Embedding(9, 6), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(OnespikeError, match=r"does not take 8 images: index out of range in self$"):
        onespike.convert(network, torch.arange(32).view(8, 4), allow_real=True)


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
        onespike.convert(three_layers(forward), torch.randn(8, 6))


def test_what_gives_no_real_numbers_is_left_at_one_time_step_alone():
    network = three_layers(lambda net, x: net.last((hidden := net.second(net.first(x).relu())) * (hidden > 0)))
    points = torch.randn(64, 6)
    conversion = onespike.convert(network, points, allow_real=True)
    assert conversion.real == ("gt", "mul")
    with pytest.raises(OnespikeError, match=r"several time steps: gt gives torch\.bool; expected one time step"):
        onespike.convert(network, points, allow_real=True, time_steps=2)


def test_what_reads_no_real_numbers_is_left_at_one_time_step_alone():
    network = nn.Sequential(nn.Embedding(9, 6), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(OnespikeError, match=r"time steps: Embedding reads torch\.int64; expected one time step"):
        onespike.convert(network, torch.randint(9, (8, 4)), allow_real=True, time_steps=2)


@pytest.mark.parametrize(
    ("forward", "images", "steps", "most"),
    [
        (lambda net, x: net.layers(x.view(2, 6)), 12, 1, 4),
        (lambda net, x: net.layers(x + net.shift[: x.shape[0]]), 12, 1, 12),
        (lambda net, x: net.layers(x + net.shift[: x.shape[0]]), 6, 2, 12),
        (lambda net, x: net.layers(x + net.shift[:3][torch.arange(x.shape[0])]), 12, 1, 4),
        (lambda net, x: net.layers(x if x.shape[0] == 2 else 2 * x), 12, 1, 4),
    ],
    ids=["twice as many", "all", "several steps of all", "by an index", "by a condition"],
)
def test_a_graph_that_takes_only_some_numbers_of_images_is_refused(forward, images, steps, most):
    layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    network = Forward(forward, layers=layers, shift=torch.rand(8, 6))
    with pytest.raises(OnespikeError, match=rf"fx does not take {most} images: .*; expected a forward pass"):
        onespike.convert(network, torch.rand(images, 6), time_steps=steps)


def test_a_random_draw_does_not_become_a_constant():
    layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    network = Forward(lambda net, x: net.layers(x + torch.rand(6)), layers=layers)
    for seed in range(3):
        torch.manual_seed(seed)
        with pytest.raises(OnespikeError, match=r"computes something else, .* draws nothing"):
            onespike.convert(network, torch.rand(12, 6))


spiking_already = nn.Sequential(nn.Linear(4, 4), Forward(lambda _, x: (x >= 0.5).float()))


@pytest.mark.parametrize(
    ("network", "points", "message"),
    [
        (nn.Linear(4, 2), torch.randn(8, 4), "no activation to convert"),
        (spiking_already, torch.randn(8, 4), r"1\.ge \(ge\): .* a network that spikes already"),
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
    def unpooling(net, x):
        pooled = net.pool(x.relu())
        return F.max_unpool2d(pooled[0], pooled[1], 2).flatten(1)

    network = Forward(unpooling, pool=nn.MaxPool2d(2, return_indices=True))
    with pytest.raises(OnespikeError, match=r"cannot be converted: pool \(MaxPool2d\)"):
        onespike.convert(network, torch.randn(2, 3, 4, 4))


def test_a_forward_pass_that_looks_at_values_cannot_be_traced():
    def looking(_, x):
        return x.relu() if x.sum() > 0 else x

    place = r"test_check\.py, line \d+: return x\.relu\(\) if x\.sum\(\) > 0 else x"
    with pytest.raises(OnespikeError, match=rf"cannot be traced by torch\.fx: .* control flow \({place}\)"):
        onespike.convert(Forward(looking), torch.randn(2, 3))


def test_layers_of_spikingjelly_in_single_step_mode_are_pytorchs():
    layer = pytest.importorskip("spikingjelly.activation_based.layer")
    torch.manual_seed(0)
    own = (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3))
    theirs = [layer.Conv2d(1, 4, 3), layer.BatchNorm2d(4), nn.ReLU(), layer.MaxPool2d(2), layer.Flatten()]
    plain, jelly = nn.Sequential(*own), nn.Sequential(*theirs, layer.Linear(36, 3))
    jelly.load_state_dict(plain.state_dict())
    images = torch.rand(16, 1, 8, 8)
    made = [onespike.convert(one.eval(), images).network(images) for one in (plain, jelly)]
    assert torch.equal(*made)
