"""Networks that are refused before anything is converted, since their graph or its rows are not what they seem."""

import pytest
import torch
from torch import nn

import onespike
from onespike.conversion import Calibration, ConversionConfig
from onespike.conversion.network import spiking
from onespike.errors import OnespikeError

MAXIMA = Calibration("maximum", correct="none")


class Enlarging(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 2, padding=1), nn.ConvTranspose2d(8, 3, 3, 2, padding=1)

    def forward(self, x):
        return self.last(self.first(x).relu(), output_size=x.shape[-2:])


def test_a_weight_layer_that_is_told_how_large_its_output_is_cannot_be_fitted():
    network, images = Enlarging().eval(), torch.randn(8, 3, 8, 8)
    with pytest.raises(OnespikeError, match=r"layer last takes more than its input: expected output_padding"):
        onespike.convert(network, images)
    assert onespike.convert(network, images, calibration=MAXIMA).network(images).shape == images.shape


class Forward(nn.Module):
    """Three layers, and a forward pass to try."""

    def __init__(self, forward):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.pass_on = forward

    def forward(self, x):
        return self.pass_on(self, x)


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
        onespike.convert(Forward(forward), torch.randn(8, 6))


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
        onespike.convert(Forward(in_front_of_the_images).eval(), points, time_steps=4)
    network = Forward(beside_each_other).eval()
    with torch.no_grad():
        out = onespike.convert(network, points, time_steps=256, calibration=MAXIMA).network(points)
        assert (out - network(points)).norm() < 0.02 * network(points).norm()


@pytest.mark.parametrize("tokens", [2, 5, 64])
@pytest.mark.parametrize("images", [1, 64])
def test_tokens_before_images_are_refused(tokens, images):
    network = Forward(lambda net, x: net.last(net.first(x.transpose(0, 1)).relu()).transpose(0, 1)).eval()
    with pytest.raises(OnespikeError, match=rf"what first gives, \({tokens}, .* \(batch_first\)"):
        onespike.convert(network, torch.randn(images, tokens, 6), time_steps=2)


def recurrent(cell):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(6, 6), nn.Linear(8, 3)
            self.cell = cell(6, 8, batch_first=True)

        def forward(self, x):
            states, _ = self.cell(self.first(x).relu())
            return self.last(states[:, -1])

    return Recurrent().eval()


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
    network = Forward(lambda net, x: net.last((y := net.first(x).relu() ** 2) / y.sum(1, keepdim=True))).eval()
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
        onespike.convert(Forward(lambda net, x: net.last(net.first(x).relu())), torch.randn(8, 6), **options)


def test_images_that_are_no_tensor():
    with pytest.raises(OnespikeError, match=r"images: expected a tensor \(N, C, H, W\), got a list"):
        onespike.convert(nn.ReLU(), [[0.0, 1.0]])


def test_what_a_networks_own_code_raises_is_said_in_one_line():
    class Particular(nn.Module):
        def forward(self, x):
            assert x.shape[-1] == 4, "expected rows of 4"
            return x.relu()

    with pytest.raises(
        OnespikeError, match=r"does not take a batch of \(2, 3\), torch\.float32: AssertionError: expected rows of 4"
    ):
        onespike.convert(Particular(), torch.randn(2, 3))

    class Masked(nn.Module):
        def forward(self, x, mask=None):
            return x.relu() if mask is None else x.relu() * mask

    with pytest.raises(OnespikeError, match=r"graph by torch\.fx does not take images: "):
        onespike.convert(Masked(), torch.randn(2, 3))
