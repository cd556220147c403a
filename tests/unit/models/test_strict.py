"""Strictly spiking networks: what their layers compute and read, their sizes, and what is refused."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from onespike import OnespikeError, create_model
from onespike.audit.result import read_spikes
from onespike.counting import count_operations
from onespike.models import model_config
from onespike.models.spiking_resnet import Residual, RPReLU
from onespike.models.stem import Whitening
from onespike.models.strict_layers import Attended, Firing, Head, Thresholds, TiedConv, Windows, adding_up
from onespike.neurons import NEURONS, Neuron, NeuronConfig
from onespike.units.layers import BatchNorm, Conv3x3, MaxPool

FAMILIES = ["spiking-vgg-m", "spiking-resnet-m"]
every_family = pytest.mark.parametrize("name", FAMILIES)


def images(count=4, size=32, channels=3):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def config(**overrides):
    return model_config("spiking-vgg-m", width=4, **overrides)


def trained_a_little(name, **overrides):
    """A network whose batch norms have seen images, in evaluation mode."""
    torch.manual_seed(0)
    network = create_model(name, **{"width": 8, **overrides})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network(images(16))
    return network.eval()


def test_each_neuron_of_a_population_fires_where_the_normalised_current_exceeds_its_own_threshold():
    firing = Firing(4, config(population=3)).double()
    with torch.no_grad():
        firing[0].shift.add_(torch.linspace(-1, 1, 12))
    current = 3 * images(8, 5, 4).double() + 1
    normalised = (current - current.mean((0, 2, 3), keepdim=True)) / (
        current.var((0, 2, 3), keepdim=True, correction=0) + 1e-5
    ).sqrt()
    spikes = firing(current)
    for k in range(3):
        for c in range(4):
            expected = normalised[:, c] + firing[0].shift[k * 4 + c] > 0.5
            assert torch.equal(spikes[:, k * 4 + c], expected.double())


@pytest.mark.parametrize("population", [1, 2, 3])
@pytest.mark.parametrize("rate", [0.5, 0.2])
@pytest.mark.parametrize(("neuron", "threshold"), [("lif", 0.5), ("relu", 0.0)])
def test_the_neurons_of_a_population_start_at_even_shares_whose_mean_is_the_firing_rate(
    population, rate, neuron, threshold
):
    chosen = config(population=population, firing_rate=rate, neuron=neuron, strict=False)
    shares = (Thresholds(1, chosen)(torch.randn(200, 1, 20, 20)) > threshold).float().mean((0, 2, 3))
    expected = 2 * rate * torch.arange(1, population + 1) / (population + 1)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize(("neuron", "spacing"), [("lif", 0.5), ({"name": "plif", "decay": 0.6}, 0.3)])
def test_with_a_spacing_the_neurons_of_a_channel_together_round_its_current(neuron, spacing):
    firing = Firing(3, config(population=4, spacing=spacing, tied=True, head="mean", neuron=neuron)).double()
    currents = torch.randn(50, 3, 8, 8, dtype=torch.float64)
    normalised = nn.BatchNorm2d(3, affine=False).double()(currents)
    assert torch.equal(firing(currents), (normalised / spacing).round().clamp(0, 4))


@pytest.mark.parametrize("learnable", ["none", "channel"])
def test_neurons_that_weigh_their_current_start_at_the_firing_rate_too(learnable):
    firing = Firing(1, config(population=2, neuron={"name": "plif", "decay": 0.6, "learnable_decay": learnable}))
    assert firing(torch.randn(200, 1, 20, 20)).mean().item() == pytest.approx(0.25, abs=0.01)


def test_at_one_time_step_a_neuron_charges_by_what_it_overrides(monkeypatch):
    class Deaf(Neuron):
        def charge_and_fire(self, currents, incoming=None, before=None):
            return super().charge_and_fire(currents - 100, incoming, before)

    monkeypatch.setitem(NEURONS, "deaf", Deaf)
    made, seen = config(neuron="deaf"), images(2, 8)
    assert not Firing(3, made)(seen).any()


def test_whitened_patches_are_uncorrelated_and_of_variance_one():
    layer, seen = Whitening(3, 2, 1), images(64, 8)
    seen = seen + 3 * seen.mean(1, keepdim=True)  # correlated over channels
    layer.learn_from(seen)
    values = layer(seen).movedim(1, -1).flatten(0, 2)
    assert torch.equal(values[:, :12], -values[:, 12:])
    covariance = values[:, :12].T @ values[:, :12] / len(values)
    torch.testing.assert_close(covariance, torch.eye(12), rtol=0, atol=0.02)


def test_what_patches_do_not_vary_in_is_whitened_by_a_finite_factor_and_no_weight_is_trained():
    layer = Whitening(3, 2, 1)
    layer.learn_from(torch.zeros(4, 3, 8, 8))
    torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), torch.full((24,), 5e-4**-0.5))
    assert not layer.weight.requires_grad


def test_whitening_by_a_few_images_at_a_time_is_the_same(monkeypatch):
    whole, parts, seen = Whitening(3, 2, 1), Whitening(3, 2, 1), images(64, 8)
    whole.learn_from(seen)
    numbers, unfold = [], F.unfold
    monkeypatch.setattr(F, "unfold", lambda some, side: numbers.append(len(some)) or unfold(some, side))
    monkeypatch.setattr("onespike.models.stem._AT_ONCE", 9 * 3 * 8 * 8 * 4)  # nine images
    parts.learn_from(seen)
    assert numbers == [9] * 7 + [1]
    # A component is known but for its sign.
    first, second = (layer.weight[:12].flatten(1) for layer in (whole, parts))
    torch.testing.assert_close((first @ second.T).abs(), (first @ first.T).abs(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stem", "layer"), [("whitening", 0), ("rectified", 1)])
def test_the_stem_computes_its_whitened_patches_again_from_images_that_stay(stem, layer):
    network, seen, kept = create_model("spiking-vgg-xs", stem=stem), images(2), []
    network.stem[layer].register_forward_hook(lambda *given: kept.append(StorageWeakRef(given[2].untyped_storage())))
    loss = network(seen).sum()
    assert kept[0].expired()
    loss.backward()
    loss = network(seen).sum()
    seen.add_(1)
    with pytest.raises(RuntimeError, match="images were changed in place before the backward pass"):
        loss.backward()
    create_model("spiking-vgg-xs")(images(2)[:0]).sum().backward()  # its tensors of nothing are all at one place


@every_family
@pytest.mark.parametrize(("stem", "times"), [("whitening", 1), ("rectified", 1), ("spiking", 2)])
def test_whitened_patches_go_into_the_stem_as_they_are_or_rectified_or_as_spikes(name, stem, times):
    network = create_model(name, stem=stem).eval()
    layers = [layer for layer in network.stem.modules() if isinstance(layer, nn.Conv2d)]
    read, white = [], []
    layers[0].register_forward_hook(lambda _layer, _given, out: white.append(out))
    layers[1].register_forward_pre_hook(lambda _layer, given: read.append(given[0]))
    network(images(2))
    if stem == "spiking":
        firing = next(layer for layer in network.stem.modules() if isinstance(layer, Firing))
        shifts = firing[0].shift.detach()[:, None, None]
        above = firing[0].norm(white[0]).repeat(1, times, 1, 1) + shifts > network.config.neuron.threshold
        assert torch.equal(read[0], above.float())
    else:
        assert torch.equal(read[0], white[0].relu() if stem == "rectified" else white[0])


def test_each_further_convolution_of_a_stem_stands_behind_a_norm_and_a_relu_or_neurons():
    kinds = [type(layer) for layer in create_model("spiking-vgg-xs", stem_layers=3, stem="none").stem]
    assert kinds == [Conv3x3, MaxPool, *(BatchNorm, nn.ReLU, Conv3x3) * 2]
    kinds = [type(layer) for layer in create_model("spiking-vgg-xs", stem_layers=2, stem="spiking").stem]
    assert kinds == [Whitening, Firing, Conv3x3, MaxPool, Firing, Conv3x3]


def test_heads_read_whether_a_neuron_fired_anywhere_or_the_mean_of_all_places():
    spikes = (torch.rand(2, 6, 3, 3) > 0.8).float()
    for kind, reduced in (("or", spikes.amax((2, 3))), ("mean", spikes.mean((2, 3)))):
        head = Head(6, 5, kind)
        torch.testing.assert_close(head(spikes), F.linear(reduced, head.weight, head.bias))


def test_a_shortcut_halves_the_map_by_means_and_repeats_channels_as_far_as_there_is_room():
    x = images(2, 4, 3)
    block = Residual(nn.Conv2d(3, 7, 1), MaxPool())
    pooled = F.avg_pool2d(x, 2)
    expected = torch.cat([pooled, pooled, pooled[:, :1]], 1) + block.branch(x)
    torch.testing.assert_close(block(x), expected)


@every_family
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"population": 1},
        {"population": 3},
        {"head": "mean"},
        {"stem_layers": 3, "stem": "none"},
        {"stem": "rectified"},
        {"stem": "spiking", "stem_layers": 2},
        {"tied": True, "population": 3, "head": "mean", "stem": "spiking", "stem_layers": 2},
        {"preset": "windows"},
        {"preset": "windows", "windows": "dilated", "fusion": "none"},
        {"attention": 4},
        {"neuron": {"name": "lif", "learnable_threshold": "channel"}},
    ],
    ids=str,
)
def test_behind_the_stem_every_layer_reads_zeros_and_ones(name, overrides):
    network = trained_a_little(name, **overrides)
    readings = read_spikes(count_operations(network, [images(16)]))
    behind = [reading for reading in readings if not reading.stem]
    assert len(behind) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules()) - sum(
        isinstance(m, nn.Conv2d) for m in network.stem.modules()
    )
    if overrides.get("stem") == "spiking":  # but for the whitening, which the image is read by
        behind += [reading for reading in readings if reading.stem][1:]
    assert all(reading.product.arrives == "binary" and reading.product.step == 1 for reading in behind)


@every_family
@pytest.mark.parametrize("time_steps", [1, 2])
def test_tied_neurons_are_neurons_with_the_same_weights(name, time_steps):
    options = {"width": 4, "population": 3, "head": "mean", "stem": "spiking", "stem_layers": 2}
    tied, own = (create_model(name, tied=one, time_steps=time_steps, **options).double() for one in (True, False))
    state = tied.state_dict()
    for key, value in own.state_dict().items():
        if value.shape != state[key].shape:
            state[key] = state[key].repeat(1, 3, *[1] * (value.ndim - 2))
    own.load_state_dict(state)
    x = images(8).double()
    for network in (tied, own):
        network(x).square().sum().backward()
    gradients = {key: one.grad for key, one in own.named_parameters()}
    for key, one in tied.named_parameters():
        if one.grad is not None:
            alike = len(gradients[key].flatten()) == len(one.flatten())
            summed = gradients[key] if alike else gradients[key].unflatten(1, (3, -1)).sum(1)
            torch.testing.assert_close(one.grad, summed, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tied.eval()(x), own.eval()(x), rtol=1e-10, atol=1e-10)
    assert tied(x).std() > 0
    times = []  # how many channels arrive for one channel of weights
    for layer in (one for one in tied.modules() if isinstance(one, TiedConv)):
        layer.register_forward_pre_hook(lambda layer, read: times.append(read[0].shape[-3] / layer.in_channels))
    with adding_up(tied):
        with adding_up(tied):
            pass
        torch.testing.assert_close(tied(x), own(x), rtol=1e-10, atol=1e-10)
    assert set(times) == {1}
    times.clear()
    tied(x)
    assert set(times) == {3}


def test_where_dilated_windows_overlap_spikes_with_a_sign_are_whole():
    windows = Windows(4, "dilated", config(preset="windows", windows="dilated", neuron="ternary"))
    assert set(windows(torch.randint(-1, 2, (4, 4, 8, 8)).float()).unique().tolist()) == {-1, 0, 1}


@every_family
@pytest.mark.parametrize("stem", ["whitening", "rectified", "spiking"])
def test_the_twin_of_relu_has_the_same_weights(name, stem):
    network = create_model(name, width=8, population=2, stem=stem)
    twin = create_model(name, width=8, population=2, stem=stem, preset="ann")
    twin.load_state_dict(network.state_dict())
    readings = read_spikes(count_operations(twin.eval(), [images(4)]))
    assert {one.product.arrives for one in readings if one.path.startswith(("layers", "blocks"))} == {"real"}


@every_family
def test_what_is_chosen_by_default_and_by_a_preset_does_not_drift(name):
    usual = model_config(name)
    chosen = (usual.firing_rate, usual.stem, usual.head, usual.fusion, usual.theta, usual.region_threshold)
    assert chosen == (0.25, "whitening", "or", "sincos", 0.5, 0.1)
    assert (usual.neuron, usual.time_steps) == (NeuronConfig(surrogate="triangle", surrogate_width=2.0), 1)
    windows = {"windows": "alternating", "depth": 3, "stem": "none", "population": 1}
    for preset, changes in (("windows", windows), ("ann", {"neuron": NeuronConfig("relu"), "strict": False})):
        assert model_config(name, preset) == replace(usual, preset=preset, **changes)


@every_family
def test_in_windows_potentials_reach_the_next_window_and_without_fusion_they_do_not(name):
    for fusion, meets in (("sincos", True), ("none", False)):
        network = trained_a_little(name, preset="windows", windows="average", fusion=fusion)
        unit = next(module for module in network.modules() if isinstance(module, Windows))
        spikes = (torch.rand(1, 8, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.5).float()
        other = spikes.clone()
        other[..., :8, :8] = 1 - other[..., :8, :8]
        with torch.no_grad():
            same = torch.equal(unit(spikes)[..., 8:, 8:], unit(other)[..., 8:, 8:])
        assert same != meets


def test_attention_scales_currents_by_what_its_spikes_say_and_begins_with_a_gain_of_one():
    conv, chosen = nn.Conv2d(6, 8, 3, padding=1), config(attention=4, population=3)
    layer = Attended(conv, chosen).double().eval()
    spikes = (torch.rand(2, 6, 5, 5) > 0.5).double()
    torch.testing.assert_close(layer(spikes), conv(spikes))
    nn.init.normal_(layer.excite.weight)
    squeezed = torch.einsum("hc,bcxy->bh", layer.squeeze.weight, spikes) / 25
    thresholds = layer.fire[0]
    normalised = squeezed / (1 + 1e-5) ** 0.5  # of fresh running statistics
    fired = torch.cat([(normalised + thresholds.shift[2 * k : 2 * k + 2] > 0.5).double() for k in range(3)], 1)
    gain = 2 / (1 + torch.exp(-(fired @ layer.excite.weight.T + layer.excite.bias)))
    torch.testing.assert_close(layer(spikes), conv(spikes) * gain[..., None, None])


def test_the_stream_may_pass_a_prelu_with_shifts():
    network = create_model("spiking-resnet-m", width=8, stream="rprelu")
    layers = [module for module in network.blocks if isinstance(module, RPReLU)]
    assert len(layers) == sum(isinstance(module, Residual) for module in network.blocks) == 5
    layer, x = layers[0], images(2, 4, 8)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-1, 1)
    moved, slope = x + layer.before, layer.prelu.weight[:, None, None]
    torch.testing.assert_close(layer(x), torch.where(moved > 0, moved, slope * moved) + layer.behind)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("spiking-vgg-xs", 249_834, 16_672_160),
        ("spiking-vgg-m", 2_214_250, 127_900_320),
        ("spiking-resnet-m", 2_215_978, 127_900_320),
        ("spiking-vgg-xl", 14_300_266, 682_104_864),
    ],
)
def test_sizes_do_not_drift(name, parameters, macs):
    network = create_model(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert count_operations(network, [images(1)]).macs == macs


@every_family
@pytest.mark.parametrize(("size", "side"), [(32, 3), (64, 4), (128, 4), (224, 7), (28, 3)])
@pytest.mark.parametrize("stem", ["whitening", "spiking"])
def test_images_of_other_sizes_are_taken(name, size, side, stem):
    network = create_model(name, width=8, image_size=size, stem=stem)
    seen = []
    hook = network.head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-1]))
    assert network(images(2, size)).shape == (2, 10)
    hook.remove()
    assert seen == [side]


@every_family
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"width": 0}, "width: expected at least 1, got 0"),
        ({"depth": 0}, "depth: expected at least 1, got 0"),
        ({"stem_layers": 0}, "stem_layers: .* got 0"),
        ({"stages": ()}, "stages: expected the channels of at least one stage"),
        ({"stages": (2, 4)}, "stages: expected 1 as the first"),
        ({"stages": (1, 0)}, "stages: expected at least 1, got 0"),
        ({"attention": -1}, "attention: expected 0 or up to width, 48, got -1"),
        ({"firing_rate": 0.6}, "firing_rate: expected 1e-6 <= firing_rate <= 0.5, got 0.6"),
        ({"firing_rate": 0.0}, "firing_rate: expected 1e-6 <= firing_rate <= 0.5, got 0"),
        ({"spacing": -0.5}, "spacing: expected 0 <= spacing <= 4, got -0.5"),
        ({"spacing": 5.0}, "spacing: expected 0 <= spacing <= 4, got 5.0"),
        ({"population": 0}, "population: expected 1..16, got 0"),
        ({"population": 17}, "population: expected 1..16, got 17"),
        ({"tied": True}, "tied: expected head mean, attention 0 and windows none; set them, or tied false"),
        ({"tied": True, "head": "mean", "attention": 4}, "tied: expected head mean, attention 0"),
        ({"image_size": 8}, "image_size: spiking-.*-m halves the map 3 times, which leaves no pixel of 8"),
        ({"stages": (1, 1, 1, 1, 1)}, "halves the map 5 times, which leaves no pixel of 32; .*--model.stages"),
        ({"attention": 49}, "attention: expected 0 or up to width, 48, got 49"),
        ({"windows": "average"}, "depth: with windows expected an odd number from 3 on .* got 2"),
        ({"windows": "average", "depth": 4}, "depth: with windows expected an odd number from 3 on .* got 4"),
        ({"preset": "windows", "depth": 1}, "depth: with windows expected an odd number from 3 on .* got 1"),
        ({"preset": "windows", "attention": 8}, "attention: expected 0 with windows, whose units have none, got 8"),
        (
            {"preset": "ann", "windows": "average", "depth": 3},
            "preset ann: with windows expected --model.fusion none, got sincos",
        ),
        (
            {"preset": "ann", "windows": "dilated", "depth": 3, "fusion": "none"},
            "neuron relu: expected region_threshold null, .*, got 0.1; set --model.region_threshold null",
        ),
        (
            {"preset": "windows", "neuron": "relu", "strict": False},
            "neuron relu: expected region_threshold null, since a threshold makes 1 of all that is larger, got 0.1",
        ),
        ({"neuron": "relu"}, "neuron relu: behind the stem a layer would read real values; set --model.strict false"),
        ({"windows": "dilated", "depth": 3, "region_threshold": None}, "region_threshold null .expected below 0.25.: "),
        ({"windows": "dilated", "depth": 3, "region_threshold": 0.25}, "region_threshold 0.25 .expected below 0.25.: "),
        ({"region_threshold": 1.0}, "region_threshold: expected 0 <= region_threshold < 1, got 1.0"),
        ({"theta": 2}, "theta: .*got 2"),
        ({"stem": "patch"}, "unknown model.stem .patch."),
        ({"neuron": {"reset": "subtract"}}, "neuron.reset: no potential is handed .*; expected none, got subtract"),
        ({"preset": "windows", "fusion": "none", "neuron": {"reset": "zero"}}, "neuron.reset: .*, got zero"),
    ],
)
def test_what_makes_no_network_or_none_that_is_strict_is_refused_in_a_line(name, overrides, message):
    with pytest.raises(OnespikeError, match=message) as error:
        create_model(name, **overrides)
    assert "\n" not in str(error.value)


def test_in_windows_neurons_take_a_reset():
    assert model_config("spiking-vgg-m", preset="windows", neuron={"reset": "zero"}).neuron.reset == "zero"


def test_the_papers_twin_in_average_windows_takes_any_region_threshold():
    options = {"neuron": "relu", "encoding": "direct", "windows": "average", "fusion": "none"}
    assert model_config("conv-tiny", **options).region_threshold == 0.1
    with pytest.raises(OnespikeError, match="region_threshold null"):
        model_config("conv-tiny", **options | {"windows": "dilated"})


def test_a_twin_in_average_windows_takes_any_region_threshold():
    twin = model_config("spiking-vgg-m", preset="ann", windows="average", depth=3, fusion="none")
    assert twin.region_threshold == 0.1


def test_a_resnet_in_windows_takes_one_neuron_a_channel():
    with pytest.raises(OnespikeError, match=r"population: with windows expected 1 .* got 2"):
        create_model("spiking-resnet-m", preset="windows", population=2)
