"""Counts against counts by hand, and against the framework's own counter where that is right."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from onespike.counting.elementwise import work
from onespike.counting.operations import Operations, count_operations
from onespike.errors import OnespikeError
from onespike.neurons import make_neuron
from onespike.training.cost import CostMeter
from tests.forward import Forward


def spikes(*shape: int, rate: float = 0.3) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(1)) < rate).float()


def flops(model: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops()


def by_running(layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> int:
    """Synaptic operations by another way: the layer itself, all weights 1, on the mask of its input."""
    with torch.no_grad():
        layer.weight.fill_(1)
        assert layer.bias is not None
        layer.bias.zero_()
        return round(layer((x != 0).float()).sum().item())


def test_a_convolution_by_hand():
    # 1 channel to 2, 3x3 with padding, on a 3x3 map: the centre meets 9 taps, an edge 6, a corner 4; times 2.
    x = torch.zeros(1, 1, 3, 3)
    x[0, 0, 1, 1] = x[0, 0, 0, 1] = x[0, 0, 2, 2] = 1
    (product,) = count_operations(nn.Conv2d(1, 2, 3, padding=1), [x]).products
    assert product.macs == 9 * 9 * 2
    assert product.reached == 2 * (9 + 4 * 6 + 4 * 4)
    assert product.operations == 2 * (9 + 6 + 4)
    assert (product.arrives, product.step, product.rate) == ("binary", 1, pytest.approx(3 / 9))


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2},
        {"stride": 3, "padding": 2},
        {"groups": 2, "padding": 1},
        {"dilation": 2, "padding": 1},
        {"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1), "groups": 4},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
    ],
)
def test_synaptic_operations_of_convolutions(options):
    layer, x = nn.Conv2d(4, 8, 3, **options), spikes(2, 4, 7, 9)
    (product,) = count_operations(layer, [x]).products
    (real,) = count_operations(layer, [x * torch.rand(x.shape)]).products
    assert product.macs * 2 * 2 == flops(layer, x)  # two operations in a multiply-accumulate, two images
    assert product.operations * 2 == by_running(layer, x)
    assert product.reached * 2 == by_running(layer, torch.ones_like(x))
    assert (real.arrives, real.operations, real.macs) == ("real", product.reached, product.macs)
    assert (real.rate, real.nonzero) == (product.rate, product.operations)  # zeros are told, but not left out


def test_synaptic_operations_of_a_transposed_convolution():
    layer, x = nn.ConvTranspose2d(4, 10, 3, stride=2, padding=1, output_padding=1, groups=2), spikes(2, 4, 5, 6)
    (product,) = count_operations(layer, [x]).products
    assert product.macs * 4 == flops(layer, x)
    assert product.operations * 2 == by_running(layer, x)


def test_a_linear_layer():
    layer, x = nn.Linear(6, 5), spikes(4, 3, 6)
    operations = count_operations(layer, [x])
    (product,) = operations.products
    assert (product.macs, product.operations) == (3 * 6 * 5, x.sum() * 5 / 4)
    assert product.weights == 30
    assert not operations.elementwise  # a bias starts the sum


class Sine(nn.Linear):
    """A linear layer with a function of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(super().forward(x)) + x.mean()


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
def test_a_linear_layer_with_work_of_its_own(shape):
    layer, x = Sine(6, 5), spikes(*shape)
    if len(shape) == 3:
        x = x.movedim(1, 2)  # not contiguous: the framework adds the bias apart
    operations = count_operations(layer, [x])
    pixels = x[0].numel() // 6
    assert operations.macs == pixels * 6 * 5
    assert operations.elementwise == {"special": pixels * 5, "add": pixels * 6 + pixels * 5}


@pytest.mark.parametrize(
    ("layer", "gates", "directions"),
    [
        (nn.LSTM(3, 5, batch_first=True), 4, 1),
        (nn.LSTM(3, 5, batch_first=True, bidirectional=True), 4, 2),
        (nn.GRU(3, 5, batch_first=True), 3, 1),
        (nn.GRU(3, 5, batch_first=True, bidirectional=True), 3, 2),
        (nn.RNN(3, 5, batch_first=True), 1, 1),
        (nn.RNN(3, 5, batch_first=True, bidirectional=True, nonlinearity="relu"), 1, 2),
    ],
)
def test_recurrent_layers(layer, gates, directions):
    x = spikes(2, 7, 3)
    operations = count_operations(layer, [x])
    inner, state = operations.products
    assert (inner.name, inner.arrives, inner.macs) == ("input", "binary", 7 * directions * gates * 5 * 3)
    assert inner.operations == x.sum() / 2 * directions * gates * 5
    assert (state.name, state.arrives, state.macs) == ("state", "real", 7 * directions * gates * 5 * 5)
    assert state.operations == state.reached == state.nonzero == state.macs
    assert state.rate == 1
    assert (inner.weights, state.weights) == (directions * gates * 5 * 3, directions * gates * 5 * 5)
    assert (inner.inputs, state.inputs) == (7 * 3, 7 * directions * 5)
    units = 7 * 5 * directions
    expected = {
        "LSTM": {"add": 5, "multiply": 3, "special": 5},
        "GRU": {"add": 5, "multiply": 3, "special": 3},
        "RNN_TANH": {"add": 1, "special": 1},
        "RNN_RELU": {"add": 1, "compare": 1},
    }[layer.mode]
    assert operations.elementwise == {kind: times * units for kind, times in expected.items()}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_a_recurrent_layer_whose_weights_are_normalised():
    layer = nn.utils.weight_norm(nn.LSTM(3, 5, batch_first=True), "weight_ih_l0")
    assert [one.macs for one in count_operations(layer, [spikes(2, 7, 3)]).products] == [7 * 20 * 3, 7 * 20 * 5]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_stacked_recurrent_layers_with_projection():
    layer = nn.LSTM(3, 5, num_layers=2, proj_size=2, batch_first=True, bidirectional=True)
    weights = sum(p.numel() for name, p in layer.named_parameters() if name.startswith("weight"))
    operations = count_operations(layer, [spikes(1, 7, 3)])
    assert operations.macs == 7 * weights == 7 * sum(product.weights for product in operations.products)
    assert [product.arrives for product in operations.products] == ["binary", "real", "real"]
    assert [product.inputs for product in operations.products] == [7 * 3, 7 * 2 * 2, 7 * 2 * 2 * 2]
    assert operations.elementwise == {
        kind: 7 * 2 * 2 * 5 * n for kind, n in (("add", 5), ("multiply", 3), ("special", 5))
    }


@pytest.mark.parametrize(
    ("function", "out"),
    [
        (lambda net, x: x @ net.w[0], 1),
        (lambda net, x: torch.stack([one.dot(net.w[0]) for one in x]), 1),
        (lambda net, x: torch.stack([torch.addmv(net.b, net.w, one) for one in x]), 5),
        (lambda net, x: (net.w @ x.T).T, 5),
    ],
)
def test_products_of_weights_and_vectors(function, out):
    x = spikes(4, 6)
    (product,) = count_operations(Forward(function, w=torch.randn(5, 6), b=torch.randn(5)), [x]).products
    assert (product.arrives, product.macs, product.weights) == ("binary", 6 * out, 6 * out)
    assert product.operations == x.sum() * out / 4


def test_products_of_two_vectors():
    x = spikes(4, 6)
    operations = count_operations(Forward(lambda _, x: torch.stack([one.dot(one) for one in x])), [x])
    assert (operations.macs, operations.synaptic_operations) == (6, x.sum() / 4)
    assert {product.weights for product in operations.products} == {0}


def test_a_cell_is_counted_by_its_parts():
    def forward(net, x):
        state = (x.new_zeros(len(x), 5), x.new_zeros(len(x), 5))
        for token in x.unbind(1):
            state = net.cell(token, state)
        return state[0]

    operations = count_operations(Forward(forward, cell=nn.LSTMCell(3, 5)), [spikes(2, 4, 3)])
    assert operations.macs == 4 * (3 * 20 + 5 * 20)


def test_attention_by_hand():
    attention = Forward(lambda _, x: F.scaled_dot_product_attention(*x.unflatten(-1, (6, 8)).unbind(1)))
    x = torch.randn(2, 3, 4, 6, 8, generator=torch.Generator().manual_seed(2))  # (B, 3, heads, tokens, channels)
    operations = count_operations(attention, [x.flatten(-2)])
    assert operations.macs == 2 * 4 * 6 * 6 * 8
    x[:, 2] = (x[:, 2] > 0).float()  # binary values: probabilities are added up where a value is 1
    products = count_operations(attention, [x.flatten(-2)]).products
    assert [product.arrives for product in products] == ["real", "binary"]
    assert products[1].operations == x[:, 2].sum() * 6 / 2
    x[:, :2] = (x[:, :2] > 0).float()  # binary queries and keys: a pair counts where both are 1
    scores, _ = count_operations(attention, [x.flatten(-2)]).products
    assert scores.operations == pytest.approx((x[:, 0] @ x[:, 1].transpose(-1, -2)).sum() / 2)


def graded(*levels: float) -> Tensor:
    """A whole number of spikes in each of 6x6 values, most of them 0."""
    values = torch.tensor([0.0, 0.0, 0.0, *levels])
    return values[torch.randint(len(values), (6, 6), generator=torch.Generator().manual_seed(len(levels)))]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (graded(1, 2, 3), graded(1)),
        (graded(1), graded(1, 2, 3)),
        (graded(1, -2), graded(1, 2, 3)),
        (graded(1, 2, 3), torch.zeros(6, 6)),
        (graded(1, 2, 3), -graded(1)),
    ],
)
def test_graded_values_that_meet_spikes(a, b):
    """By looping: n spikes that meet m spikes are n times m, and none where one side has none."""
    by_hand = sum(abs(a[i, k] * b[k, j]).item() for i in range(6) for k in range(6) for j in range(6))
    halves = Forward(lambda _, x: x[:, 0] @ x[:, 1])
    (product,) = count_operations(halves, [torch.stack([0.25 * a, 0.5 * b])[None]]).products
    assert (product.arrives, product.operations) == ("graded", pytest.approx(by_hand))


def test_several_spikes_of_each_channels_own_size_are_counted_however_many_sizes_there_are():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(4, (8, 40, 3, 3), generator=generator).float()
    sizes = torch.rand(40, 1, 1, generator=generator) + 0.5
    (product,) = count_operations(nn.Conv2d(40, 2, 1), [counts * sizes]).products
    assert (product.arrives, product.step, product.levels) == ("graded", None, 3)
    assert product.operations == pytest.approx(2 * counts.sum().item() / 8)
    assert product.rate == pytest.approx(counts.mean().item())


def test_multi_head_attention():
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    network = Forward(lambda net, x: net.attention(x, x, x, need_weights=False)[0], attention=layer)
    operations = count_operations(network, [torch.randn(3, 5, 8)])
    assert operations.macs == 5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 8 * 8
    assert sum(product.weights for product in operations.products) == 8 * 24 + 8 * 8


def small_net() -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 8, 3, groups=4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)]
    return nn.Sequential(*first, *second)


def test_equal_to_the_frameworks_counter():
    model, x = small_net(), torch.randn(2, 3, 10, 10)
    assert count_operations(model, [x]).macs * 2 * 2 == flops(model.eval(), x)


def test_elementwise_work_by_hand():
    operations = count_operations(small_net(), [torch.randn(2, 3, 10, 10)])
    work = {layer.path: layer.elementwise for layer in operations.layers if layer.elementwise}
    assert work == {
        "1": {"multiply": 800, "add": 800},
        "2": {"compare": 800},
        "3": {"compare": 800},
        "5": {"special": 72},
        "6": {"add": 72},
    }


def in_inference_mode(model: nn.Module, x: Tensor) -> Operations:
    with torch.inference_mode():
        return count_operations(model, [x])


def in_bfloat16(model: nn.Module, x: Tensor) -> Operations:
    with torch.autocast("cpu", torch.bfloat16):
        model(x)  # fills autocast's cache of weights
        return count_operations(model, [x])


def compiled(model: nn.Module, x: Tensor) -> Operations:
    return count_operations(torch.compile(model, backend="aot_eager"), [x])


def compiled_in_parts(model: nn.Module, x: Tensor) -> Operations:
    model.eval()
    for module in model.children():
        module.compile(backend="aot_eager")
    with torch.no_grad():
        model(x)
    return count_operations(model, [x])


@pytest.mark.parametrize("way", [in_inference_mode, in_bfloat16, compiled, compiled_in_parts])
def test_the_same_however_it_runs(way):
    x = spikes(2, 3, 10, 10)
    plain, other = count_operations(small_net(), [x]), way(small_net(), x)
    for one, same in zip(plain.products, other.products, strict=True):
        assert (one.name, one.arrives, one.macs, one.weights) == (same.name, same.arrives, same.macs, same.weights)
    assert [layer.path for layer in plain.layers] == [layer.path for layer in other.layers]
    assert plain.products[0].operations == other.products[0].operations
    assert plain.elementwise == other.elementwise


def test_batches_add_up_and_the_model_stays_as_it_was():
    model, x = small_net().train(), spikes(6, 3, 10, 10)
    assert count_operations(model, x.split(4)) == count_operations(model, [x])
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_frozen_parts_stay_frozen():
    model = small_net().train()
    model[1].eval()
    count_operations(model, [spikes(2, 3, 10, 10)])
    assert [module.training for module in model] == [number != 1 for number in range(len(model))]
    assert model.training


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_firing_rates(rate):
    """No spike, no operation; all spikes, all of them; in between the rate's share, within sampling error."""
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 18 * 18, 10))
    x = spikes(8, 8, 20, 20, rate=rate)
    first, _ = count_operations(model, [x]).products
    assert first.arrives == "binary"
    assert first.operations == pytest.approx(rate * first.macs, rel=0.03 if 0 < rate < 1 else 0)


def test_a_loader_of_pairs_is_told_what_to_pass():
    pairs = [[torch.zeros(2, 3, 8, 8), torch.zeros(2)]]
    with pytest.raises(
        OnespikeError, match=r"batches: .* got a list; of a loader pass \(images for images, _ in loader"
    ):
        count_operations(nn.Conv2d(3, 4, 3), pairs)


@pytest.mark.parametrize("name", ["cudnn_batch_norm", "miopen_batch_norm"])
def test_batch_norms_of_gpus_cost_what_those_of_cpus_cost(name):
    x, channels = torch.zeros(2, 3, 4, 4), [torch.zeros(3)] * 4
    theirs, ours = getattr(torch.ops.aten, name).default, torch.ops.aten._native_batch_norm_legit_no_training.default
    found = work(theirs, (x, *channels, False, 0.1, 1e-5), {}, (x,))
    assert found == work(ours, (x, *channels, 0.1, 1e-5), {}, (x,)) == {"multiply": 96, "add": 96}
    assert work(theirs, (x, *channels, True, 0.1, 1e-5), {}, (x,)) is None, "statistics of the batch"


def same_count(one: Operations, other: Operations) -> None:
    names = ("name", "macs", "reached", "operations", "inputs", "rate")
    (first,), (second,) = one.products, other.products
    assert [getattr(first, name) for name in names] == [getattr(second, name) for name in names]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_zeros_put_around_a_map_are_padding():
    x = spikes(2, 4, 7, 9)
    padded = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(4, 8, 3, stride=2))
    same_count(count_operations(padded, [x]), count_operations(nn.Conv2d(4, 8, 3, stride=2, padding=1), [x]))
    layer = nn.Conv2d(4, 8, 4, padding="same")  # padded on one side by PyTorch itself
    (product,) = count_operations(layer, [x]).products
    assert product.inputs == 4 * 7 * 9
    assert product.reached * 2 == by_running(layer, torch.ones_like(x))
    assert product.operations * 2 == by_running(layer, x)


def test_a_map_that_is_cut_by_padding_is_a_smaller_map():
    layer, x = nn.Conv2d(4, 8, 3), spikes(2, 4, 7, 9)
    cut = Forward(lambda net, x: net.layer(F.pad(x, (-1, -1, 0, -2))), layer=layer)
    same_count(count_operations(cut, [x]), count_operations(layer, [x[..., :-2, 1:-1]]))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: F.pad(x, (1, 1, 1, 1), value=1.0),
        lambda x: F.pad(x, (1, 1, 1, 1)).fill_(1),
        lambda x: F.pad(x, (1, 1, 1, 1)) + 0,
        lambda x: F.pad(x[:, :2], (1, 1, 1, 1, 0, 2)),  # zeros as channels meet weights
    ],
)
def test_other_values_around_a_map_are_inputs(change):
    network = Forward(lambda net, x: net.layer(change(x)), layer=nn.Conv2d(4, 8, 3))
    (product,) = count_operations(network, [spikes(2, 4, 7, 9)]).products
    assert product.inputs == 4 * 9 * 11


def test_two_products_of_equal_shapes_are_two():
    def attention(net, x):  # tokens are as many as channels
        x = (net.stem(x) > 0).float()
        return (x @ x.transpose(-1, -2)).softmax(-1) @ x

    *products, _ = count_operations(Forward(attention, stem=nn.Linear(6, 6)), [torch.randn(3, 6, 6)] * 2).products
    assert [(one.name, one.arrives, one.beside, one.macs) for one in products] == [
        ("matmul 6 x 6 x 6", "binary", "binary", 216),
        ("matmul 6 x 6 x 6", "binary", "real", 216),
    ]


def test_a_last_batch_of_fewer_images_makes_no_second_product():
    def forward(net, x):
        return (net.a(x) > 0).float() @ (net.a(x) > 0).float()[:3].T

    batches = torch.randn(11, 6).split(8)
    product, _ = count_operations(Forward(forward, a=nn.Linear(6, 4)), batches).products
    assert (product.name, product.macs) == ("matmul 4 x 3", 12)


def test_weights_in_buffers_are_weights_and_shared_ones_are_counted_once():
    def twice(net, x):
        return F.linear(F.linear(x, net.w).relu(), net.w)

    def in_parts(net, x):
        return twice(net, x) + F.linear(x, net.w[:3]).repeat(1, 2) + F.linear(x, net.w[2:5]).repeat(1, 2)

    for forward in (twice, in_parts):
        network = Forward(forward, w=nn.Buffer(torch.randn(6, 6)))
        assert count_operations(network, [torch.randn(3, 6)]).weights == 36
    assert count_operations(nn.Linear(6, 6), [torch.randn(3, 6)]).weights == 42


@pytest.mark.parametrize(
    "weights",
    [
        lambda net: [net.w[0].sign(), net.w[1].sign(), net.w[2].sign()],  # copies, which all begin at 0
        lambda net: [net.gain * net.v, net.gain * net.u, net.gain * net.t],
    ],
)
def test_what_is_made_of_other_weights_is_another_weight(weights):
    def forward(net, x):
        first, second, third = weights(net)
        x = 3 * (F.linear(x, first) > 0).float()
        return F.linear(2 * (F.linear(x, second) > 0).float(), third)

    made = {name: torch.randn(6, 6) for name in "vut"}
    network = Forward(forward, w=torch.randn(3, 6, 6), gain=torch.ones(1), **made)
    products = count_operations(network, [torch.randn(3, 6), torch.randn(3, 6)]).products
    assert [(one.arrives, one.step, one.macs, one.weights) for one in products[1:]] == [
        ("binary", 3.0, 36, 36),
        ("binary", 2.0, 36, 36),
    ]


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(
    ("function", "shape", "weight"),
    [
        (lambda net, x: torch.matmul(x[:, None], net.w), (6, 8), (3, 8, 5)),  # which copies them for each image
        (lambda net, x: x @ net.w.repeat(len(x), 1, 1), (6, 8), (8, 5)),
        (lambda net, x: (x * net.w.expand_as(x)).sum(-1), (24, 8), (8,)),
        (lambda net, x: F.conv2d(x, net.w.expand(16, -1, -1, -1), groups=16), (16, 6, 6), (1, 1, 3, 3)),
    ],
)
def test_weights_that_are_expanded_or_repeated_are_read_once(function, shape, weight, batch):
    operations = count_operations(Forward(function, w=torch.randn(weight)), [torch.randn(batch, *shape)])
    assert [product.weights for product in operations.products] == [math.prod(weight)]


def test_copies_of_weights_that_are_changed_are_no_copies():
    def forward(net, x):
        return x @ net.w.repeat(6, 1, 1).mul_(net.each)

    network = Forward(forward, w=torch.randn(8, 5), each=torch.randn(6, 1, 1))
    assert [one.weights for one in count_operations(network, [torch.randn(6, 3, 8)]).products] == [6 * 40]


def test_a_layer_may_be_told_its_input_by_name():
    network = Forward(lambda net, x: net.fc(input=net.fire(potential=x)), fire=make_neuron(6), fc=nn.Linear(6, 5))
    x = torch.randn(3, 6)
    operations = count_operations(network, [x])
    meter = CostMeter(network, (6,))
    with meter.watch():
        network(x)
    assert meter.read(3).operations.item() == pytest.approx(operations.synaptic_operations) == (x > 0.5).sum() * 5 / 3
