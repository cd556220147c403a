"""What every registered neuron promises, against loops written down independently."""

import copy
import shutil
from itertools import product

import pytest
import torch
from torch import nn

from onespike import create_model, export
from onespike.errors import OnespikeError
from onespike.exporting import FORMATS
from onespike.functional import SURROGATES, fuse
from onespike.neurons import NEURONS, Incoming, Neuron, NeuronConfig, OverTime, make_neuron
from onespike.neurons.adaptive import AdaptiveLIF
from tests.forward import losses_of
from tests.reference import plain_neurons

CHANNELS = 3
SHAPES = {"vectors": (5, CHANNELS), "maps": (5, CHANNELS, 4, 4), "windows": (4, 5, CHANNELS, 2, 2)}
SPIKING = [name for name, kind in NEURONS.items() if kind.spiking]

every_neuron = pytest.mark.parametrize("name", list(NEURONS))
every_reset = pytest.mark.parametrize(
    ("name", "reset"), [*((name, "none") for name in NEURONS), *product(SPIKING, ("zero", "subtract"))]
)
every_shape = pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))


def values(*shape, seed=0):
    """Currents of either sign, about half of them beyond the threshold."""
    return 1.5 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(name, integrates=True, **config):
    return make_neuron(CHANNELS, NeuronConfig(name, **config), integrates).double()


def constants(neuron):
    """Threshold and decay as numbers, the first channel's, as they come out of their parameters."""
    return [
        torch.as_tensor(value, dtype=torch.float64).flatten()[0].item() for value in (neuron.threshold, neuron.decay)
    ]


def learnable(name):
    """Settings with a threshold and decay for each channel, where the neuron has a threshold."""
    return {"learnable_decay": "channel"} | ({"learnable_threshold": "channel"} if NEURONS[name].spiking else {})


@every_neuron
@every_shape
@pytest.mark.parametrize("each", [False, True])
def test_spikes_have_the_shape_of_the_currents(name, shape, each):
    neuron = make(name, **(learnable(name) if each else {}))
    assert isinstance(neuron, Neuron)
    spikes = neuron(values(*shape))
    assert spikes.shape == shape
    assert spikes.dtype == torch.float64
    if neuron.spiking:
        assert set(spikes.unique().tolist()) <= set(range(-neuron.levels, neuron.levels + 1))
        assert 0.1 < spikes.abs().mean() < 0.9
    else:
        assert torch.equal(spikes, values(*shape).relu())


@every_neuron
def test_it_says_how_many_values_it_keeps_over_time(name):
    neuron = make(name)
    assert len(neuron.charge_and_fire(values(5, CHANNELS))) == neuron.values_kept + 1  # and its spikes


@every_neuron
def test_a_parameter_for_each_channel_belongs_to_that_channel(name):
    neuron = make(name, **learnable(name))
    with torch.no_grad():
        for parameter in neuron.parameters():
            parameter.copy_(torch.linspace(-1, 1, CHANNELS).view(-1, 1, 1))
    vectors = values(4, CHANNELS)
    maps = vectors[..., None, None].expand(4, CHANNELS, 2, 2)
    for run in (lambda x: neuron(x), lambda x: neuron.over_time(torch.stack([x, x, x]))[-1]):
        assert torch.equal(run(maps)[..., 0, 0], run(vectors))


@pytest.mark.parametrize("name", SPIKING)
def test_where_channels_are_not_told_it_refuses_unless_all_are_alike(name):
    for shape in ((2, CHANNELS, 4), (CHANNELS, 2, 4), (CHANNELS,)):
        with pytest.raises(ValueError, match=r"for each channel: expected potentials .*got \("):
            make(name, learnable_threshold="channel")(values(*shape))
        assert make(name)(values(*shape)).shape == shape


@every_neuron
@pytest.mark.parametrize("incoming", [None, Incoming(), Incoming(values(4, 2, CHANNELS, 2, 2, seed=5), 1)])
def test_the_gradient_reaches_the_currents_and_every_parameter(name, incoming):
    neuron, currents = make(name, **learnable(name)), values(4, 2, CHANNELS, 2, 2).requires_grad_()
    state, total = None, 0.0
    for _ in range(2):
        state = neuron.charge_and_fire(currents, incoming, state)
        total = total + (state[1] * values(4, 2, CHANNELS, 2, 2, seed=3)).sum()
    total.backward()
    for label, leaf in {"currents": currents, **dict(neuron.named_parameters())}.items():
        assert leaf.grad is not None, label
        assert leaf.grad.isfinite().all(), label
        assert leaf.grad.any(), label


@every_neuron
def test_a_hook_sees_potentials_and_spikes(name):
    neuron, seen = make(name), []
    neuron.register_forward_hook(lambda _, inputs, spikes: seen.append((inputs[0], spikes)))
    potential, spikes, *_ = neuron.charge_and_fire(values(4, 2, CHANNELS, 2, 2), Incoming())
    neuron.over_time(values(3, 2, CHANNELS))
    assert len(seen) == 4
    assert torch.equal(seen[0][0], potential)
    assert torch.equal(seen[0][1], spikes)


@every_reset
@pytest.mark.parametrize("time_steps", [1, 3])
@pytest.mark.parametrize("trained", [False, True])
def test_windows_and_time_steps_are_those_of_a_plain_loop(name, reset, time_steps, trained):
    neuron = make(name, reset=reset, **(learnable(name) if trained else {}))
    for chained in (True, False):
        steps = values(time_steps, 4, 2, CHANNELS, 2, 2).requires_grad_()
        found, state = [], None
        for currents in steps:
            state = neuron.charge_and_fire(currents, Incoming() if chained else None, state)
            found.append(state[:2])
        ours = [torch.stack(maps) for maps in zip(*found, strict=True)]
        plain = plain_neurons.run(name, steps, *constants(neuron), reset, chained)
        for one, other in zip(ours, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        weights = values(*steps.shape, seed=4)
        gradients = [torch.autograd.grad(((v + s) * weights).sum(), steps)[0] for v, s in (ours, plain)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@every_reset
@pytest.mark.parametrize("behind", [0, 1])
def test_what_lies_beside_meets_what_the_window_before_hands_on(name, reset, behind):
    neuron, currents = make(name, reset=reset), values(4, 2, CHANNELS, 2, 2)
    beside = values(4, 2, CHANNELS, 2, 2, seed=1)
    v, s, *_ = neuron.charge_and_fire(currents, Incoming(beside, behind, "sinsum", 0.3))
    driven = neuron.driven(currents, None)
    for window in range(1, 4):
        handed = neuron.handed_on(v[window - 1], s[window - 1])
        expected = driven[window] + neuron.decay * fuse(beside[window - behind], handed, "sinsum", 0.3)
        torch.testing.assert_close(v[window], expected)
    first = driven[0] if behind else driven[0] + neuron.decay * fuse(beside[0], beside[1], "sinsum", 0.3)
    torch.testing.assert_close(v[0], first)


@every_neuron
@pytest.mark.parametrize("shape", [(6, 2, CHANNELS), (6, 2, CHANNELS, 3, 3)])
def test_over_time_is_a_plain_loop(name, shape):
    neuron, currents = make(name), values(*shape)
    _, spikes = plain_neurons.run(name, currents[:, None], *constants(neuron))
    torch.testing.assert_close(neuron.over_time(currents), spikes[:, 0], rtol=0, atol=1e-12)
    assert torch.equal(OverTime(neuron)(currents), neuron.over_time(currents))


@every_neuron
def test_without_potentials_to_integrate_there_is_no_decay(name):
    neuron = make(name, integrates=False, **learnable(name))
    assert "raw_decay" not in neuron.state_dict()
    currents = values(2, CHANNELS)
    assert torch.equal(neuron(currents), make(name)(currents))


@pytest.mark.parametrize("name", SPIKING)
@pytest.mark.parametrize("each", [False, True])
def test_the_surrogate_is_as_wide_as_asked_for_wherever_it_fires(name, each, monkeypatch):
    monkeypatch.setitem(SURROGATES, "wide", lambda d: (1 - (d / 1.7).abs()).clamp(min=0) / 1.7)
    gradients = []
    for surrogate in ({"surrogate": "triangle", "surrogate_width": 1.7}, {"surrogate": "wide"}):
        neuron = make(name, **surrogate, **(learnable(name) if each else {}))
        currents = values(4, 5, CHANNELS, 2, 2).requires_grad_()
        beside = values(4, 5, CHANNELS, 2, 2, seed=1)
        spikes = neuron(currents), neuron.over_time(currents), neuron.charge_and_fire(currents, Incoming(beside, 1))[1]
        wanted = [currents, *(one for one in (neuron.raw_threshold,) if one is not None)]
        gradients += [[torch.autograd.grad((one * beside).sum(), wanted) for one in spikes]]
    torch.testing.assert_close(*gradients)
    assert all(gradient.abs().max() > 0 for each in gradients[0] for gradient in each)


@every_neuron
def test_copies_and_state_dicts_are_whole_and_it_keeps_no_state(name):
    neuron, currents = make(name, **learnable(name)), values(3, 2, CHANNELS, 2, 2)
    with torch.no_grad():
        for parameter in neuron.parameters():
            parameter.add_(0.3)
    twin, fresh = copy.deepcopy(neuron), make(name, **learnable(name))
    fresh.load_state_dict(neuron.state_dict())
    for other in (neuron, twin, fresh):
        assert torch.equal(other.over_time(currents), neuron.over_time(currents))


@every_neuron
def test_it_trains_in_a_plain_network(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 16), make_neuron(16, NeuronConfig(name), integrates=False), nn.Linear(16, 2))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.5)
    x, y = torch.randn(8, 4), torch.tensor([0, 1] * 4)
    losses = losses_of(network, x, y, optimiser, steps=100)
    assert losses[-1] < 0.7 * losses[0]


@every_neuron
def test_it_trains_in_our_network(name):
    torch.manual_seed(0)
    preset = {} if NEURONS[name].spiking else {"preset": "ann"}
    network = create_model("conv-tiny", channels=(4, 4, 8), image_size=16, **{**preset, "neuron": name})
    nn.init.normal_(network.head.weight)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    x, y = torch.randn(8, 3, 16, 16), torch.arange(8)
    losses = losses_of(network, x, y, optimiser, steps=8)
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert losses[-1] < losses[0]


@every_neuron
@pytest.mark.parametrize("learnable", ["none", "layer"])
def test_what_arrives_is_as_the_currents_are(name, learnable):
    neuron, currents = make(name, learnable_decay=learnable), values(*SHAPES["windows"])
    for odd in (Incoming(behind=2), Incoming(currents[:, :1]), Incoming(values(5, 5, CHANNELS, 2, 2))):
        with pytest.raises(ValueError, match=r"^(behind|beside): expected"):
            neuron.charge_and_fire(currents, odd)


@every_neuron
@pytest.mark.parametrize("shape", [(2, 1), (2, 4), (2, 1, 4, 4), (4, 2, 1, 4, 4)])
def test_parameters_of_each_channel_take_potentials_of_these_channels(name, shape):
    neuron = make(name, **learnable(name))
    with pytest.raises(ValueError, match=r"for each channel: expected potentials .* of 3 channels"):
        neuron(values(*shape)) if neuron.spiking else neuron.leak(*values(2, *shape))


def test_an_adaptive_neuron_reads_its_config_unless_told_otherwise():
    config = NeuronConfig("adaptive", options={"adaptation": 5.0})
    for given, expected in (({}, (5.0, 0.8)), ({"adaptation": 1.0, "adaptation_decay": 0.5}, (1.0, 0.5))):
        neuron = AdaptiveLIF(3, config, **given)
        assert (neuron.adaptation, neuron.adaptation_decay) == expected
    assert "adaptation=1.0, adaptation_decay=0.5" in repr(neuron)
    assert AdaptiveLIF(3).adaptation == 0.2
    with pytest.raises(OnespikeError, match=r"^adaptation_decay: expected 0 <= adaptation_decay <= 1, got 1.5"):
        AdaptiveLIF(3, adaptation_decay=1.5)


def test_options_reach_the_neuron_and_change_it():
    quiet = make("adaptive", options={"adaptation": 5.0, "adaptation_decay": 1.0})
    assert quiet.over_time(torch.full((6, 1, CHANNELS), 2.0).double()).sum() == CHANNELS  # each fires once
    currents = values(6, 2, CHANNELS)
    plain = make("adaptive", options={"adaptation": 0.0}).over_time(currents)
    assert torch.equal(plain, make("lif").over_time(currents))


@pytest.mark.parametrize("name", SPIKING)
def test_a_network_of_them_sees_in_an_image_what_it_sees_in_a_frame(name):
    torch.manual_seed(0)
    network = create_model("spiking-vgg-xs", in_channels=1, image_size=16, width=8, neuron=name, head="mean")
    images = torch.rand(8, 1, 16, 16)
    with torch.no_grad():  # in training mode, where batch norm makes every layer fire
        logits, frame = network(images), network(images[None])[0]
    torch.testing.assert_close(logits, frame, rtol=0, atol=1e-5)
    assert logits.std(0).min() > 0.01, "no spike reaches the head"


#: Formats, and neurons that they have no words for.
CANNOT = {("nir", "relu"), ("c", "relu"), ("c", "ternary")}


@pytest.mark.slow
@every_neuron
@pytest.mark.parametrize("to", FORMATS)
def test_every_format_computes_it_or_says_that_it_cannot(name, to, tmp_path):
    if to in (needed := {"onnx": "onnxruntime", "nir": "nir"}):
        pytest.importorskip(needed[to])
    if to == "c" and not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler")
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(16, 12), make_neuron(12, NeuronConfig(name), integrates=False), nn.Linear(12, 3)]
    images = torch.randint(256, (20, 4, 4, 1), dtype=torch.uint8)
    try:
        made = export(nn.Sequential(*layers), tmp_path / "out", to, images=images, mean=[0.5], std=[0.1])
    except OnespikeError as error:
        assert (to, name) in CANNOT
        assert str(error).startswith(f"{to}: ")  # noqa: PT017
        assert not (tmp_path / "out").exists()
    else:
        assert made.holds, made.parity
