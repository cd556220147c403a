"""Networks over time: a stream gives the bits of all frames together; gradients are those of a plain loop."""

import functools
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

import onespike
from onespike.errors import OnespikeError
from onespike.functional import spike
from onespike.models import MODELS, create_model
from onespike.models.block import BlockState
from onespike.models.strict_layers import Attended
from tests.running import thorough

SMALL = {
    "conv-tiny": {"channels": (6, 8, 8)},
    "lstm12": {"channels": (4, 4, 4, 4), "depths": (1, 1, 1, 1), "preset": "modern", "neuron": {"threshold": 0.05}},
    "spiking-vgg-xs": {"width": 8, "firing_rate": 0.4},
    "spiking-resnet-xs": {"width": 8, "attention": 4, "stream": "rprelu"},
    "spiking-vgg11": {"width": 4, "time_steps": 1},
    "spiking-resnet19": {"width": 4, "time_steps": 1},
    "spiking-mlp": {"width": 16, "unit": "lstm", "neuron": {"threshold": 0.1}},
}
FEW = SMALL | {"conv12": {"channels": (4, 4, 8, 8), "depths": (1, 1, 1, 1)}}
WINDOWS = {"preset": "windows", "width": 8}
CASES = [*SMALL.items(), ("spiking-vgg-xs", WINDOWS), ("spiking-resnet-xs", WINDOWS)]
CASES += [("spiking-vgg-xs", {"width": 8, "stem": "spiking"}), ("spiking-resnet-xs", {"width": 8, "stem": "rectified"})]
CASES += [("spiking-mlp", SMALL["spiking-mlp"] | {"unit": unit}) for unit in ("linear", "rnn", "gru")]


def frames(steps=4, batch=3, side=32):
    return torch.randn(steps, batch, 2, side, side, generator=torch.Generator().manual_seed(1))


def make(name, side=32, passes=3, **overrides):
    """A network that fires, in evaluation mode."""
    torch.manual_seed(0)
    network = create_model(name, num_classes=5, in_channels=2, image_size=side, **overrides)
    nn.init.normal_(network.head.weight)
    for attended in network.modules():
        if isinstance(attended, Attended):
            nn.init.normal_(attended.excite.weight)  # which starts at 0
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.momentum = None  # the mean over all passes
    with torch.no_grad():
        for _ in range(passes):
            network.train()(frames(side=side))
    return network.eval()


@pytest.mark.parametrize(("name", "overrides"), CASES)
def test_a_stream_gives_the_bits_of_all_frames_together_and_its_state_can_be_saved(name, overrides, tmp_path: Path):
    network, given = make(name, **overrides), frames()
    with torch.no_grad():
        together, first = network(given), network(given[0])
    stream, other = onespike.stream(network.train()), onespike.stream(network)
    for number, frame in enumerate(given[:2]):
        logits = stream(frame)
        assert torch.equal(logits, together[number])
        assert not logits.requires_grad, "what it keeps would grow with each frame"
        other(torch.zeros_like(frame))  # another stream on the same network is no matter
    stream.save(tmp_path / "state.safetensors")
    later = onespike.stream(network)
    later.load(tmp_path / "state.safetensors")
    assert later.frames == 2
    assert torch.equal(later(given[2]), together[2])
    assert torch.equal(together[0], first)  # reset by construction
    assert not torch.equal(network(given[2:3])[0], together[2]), "the state does not matter"


@pytest.mark.parametrize("name", ["spiking-vgg-xs", "spiking-resnet-xs"])
@pytest.mark.parametrize("stem", ["whitening", "rectified", "spiking"])
def test_an_image_that_stands_still_is_an_image_that_is_shown_as_often(name, stem):
    network = make(name, width=8, stem=stem, time_steps=4)
    image = frames(1)[0]
    with torch.no_grad():
        torch.testing.assert_close(network(image.expand(4, *image.shape)).mean(0), network(image))


TAMPERED = {
    "a number for a state": {"layout": lambda _: {"state": 5}},
    "no state": {"layout": lambda _: {"state": None}},
    "nothing in it": {"layout": lambda saved: {"state": [None] * len(saved["state"])}},
    "twice the layers": {"layout": lambda saved: {"state": saved["state"] * 2}},
    "lists in lists": {"layout": lambda _: {"state": functools.reduce(lambda inner, _: [inner], range(700), [])}},
    "less than no frames": {"layout": lambda _: {"frames": -5}},
    "half a frame": {"layout": lambda _: {"frames": 1.5}},
    "no shape": {"layout": lambda _: {"shape": None}},
    "no numbers": {"tensor": lambda one: one * math.nan},
    "whole numbers": {"tensor": lambda one: one.to(torch.int8)},
    "single numbers": {"tensor": lambda one: one.sum()},
}


def test_a_state_of_something_else_is_refused(tmp_path):
    network = make("spiking-vgg-xs", **SMALL["spiking-vgg-xs"])
    stream = onespike.stream(network)
    stream(frames()[0])
    stream.save(tmp_path / "state")
    with pytest.raises(OnespikeError, match="expected a frame of the shape"):
        stream(frames(batch=2)[0])
    with pytest.raises(OnespikeError, match=r"^stream: expected a frame of floats, normalised, got torch.int64"):
        stream(frames()[0].long())
    with pytest.raises(OnespikeError, match=r"^stream: expected a frame of finite numbers, got some that are not"):
        stream(frames()[0] * math.nan)
    with pytest.raises(OnespikeError, match="the network refuses this frame"):
        onespike.stream(network)(frames()[0][:, :1])
    (tmp_path / "broken").write_bytes((tmp_path / "state").read_bytes()[:-20])
    with pytest.raises(OnespikeError, match="not the state of a stream"):
        stream.load(tmp_path / "broken")
    with pytest.raises(OnespikeError, match="has no over_time"):
        onespike.stream(nn.Linear(2, 2))


def test_a_state_of_a_network_with_another_decay_is_refused(tmp_path):
    options = SMALL["spiking-vgg-xs"]
    network, other = (make("spiking-vgg-xs", **options, neuron={"decay": decay}) for decay in (0.4, 0.9))
    other.load_state_dict(network.state_dict())
    stream = onespike.stream(network)
    stream(frames()[0])
    stream.save(tmp_path / "state")
    onespike.stream(network).load(tmp_path / "state")
    with pytest.raises(OnespikeError, match="a state of another network"):
        onespike.stream(other).load(tmp_path / "state")


def test_a_state_of_another_family_is_refused(tmp_path):
    names = ("conv-tiny", "spiking-vgg-xs", "spiking-resnet-xs", "spiking-mlp")
    streams = {name: onespike.stream(make(name, passes=0, **SMALL[name])) for name in names}
    for name, stream in streams.items():
        stream(frames()[0])
        stream.save(tmp_path / name)
    for name, stream in itertools.permutations(streams, 2):
        with pytest.raises(OnespikeError, match="a state of another network"):
            streams[name].load(tmp_path / stream)
    states = {name: (one.frames, one.shape, one.state) for name, one in streams.items()}
    for name, stream in itertools.permutations(streams, 2):
        streams[name].frames, streams[name].shape, streams[name].state = states[stream]
        with pytest.raises(OnespikeError, match=r"^stream: the state does not suit this network and batch"):
            streams[name](frames()[0])


@pytest.mark.parametrize("what", TAMPERED)
def test_a_state_that_was_tampered_with_is_refused(what, tmp_path):
    def as_it_is(value):
        return value

    network = make("spiking-vgg-xs", **SMALL["spiking-vgg-xs"])
    stream, changes = onespike.stream(network), TAMPERED[what]
    stream(frames()[0])
    stream.save(tmp_path / "state")
    with safe_open(tmp_path / "state", "pt") as file:
        saved = json.loads(file.metadata()["layout"])
        tensors = {name: changes.get("tensor", as_it_is)(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    saved |= changes.get("layout", as_it_is)(saved)
    save_file(tensors, tmp_path / "odd", {"layout": json.dumps(saved)})

    def go_on():
        stream.load(tmp_path / "odd")
        stream(frames()[0])

    with pytest.raises(OnespikeError):
        go_on()
    assert stream.frames == 1


@pytest.mark.parametrize(("name", "overrides"), CASES)
def test_an_image_that_is_shown_is_frames_that_are_alike(name, overrides):
    network, image = make(name, **overrides | {"time_steps": 3}), frames()[0]
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(image.expand(3, *image.shape)).mean(0))


#: One of each family; others' may be registered besides.
FAMILIES = {
    ours.config: name for name, ours in reversed(MODELS.items()) if ours.builder.__module__.startswith("onespike.")
}


@pytest.mark.parametrize("side", thorough([48, 34, 128], 1))
@pytest.mark.parametrize("name", FAMILIES.values())
def test_every_family_takes_frames_of_two_channels_and_every_size_that_its_stages_allow(name, side):
    try:
        network = create_model(name, num_classes=3, in_channels=2, image_size=side, **FEW.get(name, {}))
    except OnespikeError as error:
        assert (name, side) in [*((one, 34) for one in FAMILIES.values()), ("vit12", 48)], error  # noqa: PT017
        assert "needs a multiple of" in str(error)  # noqa: PT017
        return
    given = torch.randn(2, 2, 2, side, side)
    with torch.no_grad():
        assert network.train()(given[0]).shape == (2, 3)
        if hasattr(network, "over_time"):
            assert network(given).shape == (2, 2, 3)


def plain_vgg(network, given):
    """The strict VGG at T frames, written out: time outside, layers inside, potentials in a list."""
    kept, logits = {}, []
    for frame in given:
        x = network.stem(frame)
        for number, layer in enumerate(network.layers):
            if not isinstance(layer, nn.Sequential):
                x = layer(x)
                continue
            potential = layer[0](x)
            if number in kept:
                before, fired = kept[number]
                potential = potential + layer[1].decay * before * (1 - fired)
            x = spike(potential, 0.5, layer[1].surrogate)
            kept[number] = potential, x
        logits.append(network.head(x))
    return torch.stack(logits)


@pytest.mark.parametrize("learnable", ["none", "layer", "channel"])
def test_gradients_over_four_frames_are_those_of_a_plain_loop(learnable):
    neuron = {"decay": 0.7, "learnable_decay": learnable, "surrogate": "gaussian"}
    network = make("spiking-vgg-xs", width=4, stages=(1, 2), head="mean", neuron=neuron).double()
    given = frames(side=32).double()
    found = []
    for run in (network, lambda x: plain_vgg(network, x)):
        network.zero_grad()
        run(given).square().sum().backward()
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-9, atol=1e-9, msg=name)
        assert gradient.any(), name
    assert any("raw_decay" in name for name in found[0]) == (learnable != "none")


def plain_standard(network, given):
    """VGG-11, ResNet-19 or the MLP at T frames, written out: time outside, layers inside."""
    kept, logits = {}, []

    def fire(neurons, currents):
        potential = currents + 0.4 * kept.get(neurons, 0)
        spikes = (potential > neurons.neuron.threshold).double()
        kept[neurons] = potential * (1 - spikes)
        return spikes

    def spiking(layer, x, residual=0):
        return fire(layer.neuron, layer.norm(layer.conv(x)) + residual)

    for x in given:
        if network.config.name == "spiking-mlp":
            for layer in network.layers:
                x = fire(layer, x) if hasattr(layer, "neuron") else layer(x)
        elif network.config.name == "spiking-vgg11":
            for layer in network.layers:
                x = nn.functional.max_pool2d(x, 2) if isinstance(layer, nn.MaxPool2d) else spiking(layer, x)
            x = x.mean((2, 3))
        else:
            x = spiking(network.stem, x)
            for block in network.blocks:
                x = spiking(block.second, spiking(block.first, x), x if block.shortcut is None else block.shortcut(x))
            x = fire(network.hidden_neuron, network.hidden(x.mean((2, 3))))
        logits.append(x @ network.head.weight.T + network.head.bias)
    return torch.stack(logits)


@pytest.mark.parametrize("name", ["spiking-vgg11", "spiking-resnet19", "spiking-mlp"])
def test_standard_networks_are_those_of_a_plain_loop(name):
    network, given = make(name, width=8, neuron={"threshold": 0.05}).double(), frames().double()
    with torch.no_grad():
        logits, expected = network(given), plain_standard(network, given)
    torch.testing.assert_close(logits, expected)
    assert not torch.equal(logits[1], logits[2])


def kept_bytes(network, given):
    """Bytes that autograd keeps for the backward pass, weights apart; each once."""
    own, seen = {p.untyped_storage()._cdata for p in network.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            seen[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(given).square().sum()
    loss.backward()
    return sum(seen.values())


def test_memory_grows_by_the_frame_and_recompute_bounds_it():
    network = make("conv-tiny", channels=(8, 8, 8)).train()
    whole = [kept_bytes(network, frames(steps)) for steps in (1, 2, 4, 8)]
    steps = [(b - a) / n for a, b, n in zip(whole, whole[1:], (1, 2), strict=False)]
    assert max(steps) < 1.1 * min(steps)  # linear in T
    network.recompute = True  # that it computes the same is seen to elsewhere
    assert kept_bytes(network, frames(8)) < 0.5 * whole[-1]


@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_wide_in_a_block_that_runs_again_is_not_kept(recompute):
    network, kept = make("conv-tiny", channels=(8, 8, 8)).train(), []
    network.recompute = recompute
    for block in network.blocks():
        block.mlp[1].register_forward_hook(lambda _, __, out: kept.append(StorageWeakRef(out.untyped_storage())))
    out = network(frames(2))
    assert kept
    assert all(one.expired() == recompute for one in kept)
    out.sum().backward()


@pytest.mark.parametrize("name", ["spiking-vgg-xs", "spiking-resnet-xs", "spiking-mlp"])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_strict_network_that_runs_again_computes_the_same_in_less_memory(name, steps):
    small = {"spiking-mlp": {"unit": "lstm"}}.get(name, {"width": 8, "stages": (1, 2)})
    given = frames(steps, 2, side=32) if steps > 1 or name == "spiking-mlp" else torch.randn(4, 2, 32, 32)
    kept, found = [], []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = make(name, **small).train()
        network.recompute = recompute
        kept.append(kept_bytes(network, given))
        found.append(
            {key: p.grad for key, p in network.named_parameters() if p.grad is not None} | network.state_dict()
        )
    assert found[0].keys() == found[1].keys()
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected, rtol=1e-5, atol=1e-6, msg=key)
    assert kept[1] < 0.75 * kept[0], kept


def test_a_graph_that_is_kept_runs_again_for_every_backward_pass():
    network = make("spiking-mlp", width=8).train()
    network.recompute = True
    loss, parameters = network(frames(2)).square().sum(), list(network.parameters())
    first, second = (torch.autograd.grad(loss, parameters, retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_recomputed_it_goes_on_from_a_state():
    network = make("spiking-vgg-xs", width=4, stages=(1, 2)).train()
    found = []
    for network.recompute in (False, True):
        _, state = network.over_time(frames(2, side=32))
        given = [None if one is None else tuple(tensor.detach() for tensor in one) for one in state]
        network.zero_grad()
        logits, after = network.over_time(frames(4, side=32)[2:], given)
        logits.square().sum().backward()
        found.append([logits, len(after), [p.grad for p in network.parameters() if p.grad is not None]])
    torch.testing.assert_close(found[0], found[1])


def test_a_state_is_a_list_that_anybody_may_hold():
    network = make("conv-tiny", **SMALL["conv-tiny"])
    with torch.no_grad():
        logits, state = network.over_time(frames()[:2])
        assert all(isinstance(one, BlockState) for one in state)
        rest, _ = network.over_time(frames()[2:], state)
        assert torch.equal(torch.cat([logits, rest]), network(frames()))


def test_a_state_of_another_network_or_batch_is_refused():
    deep, flat = (make("spiking-mlp", width=8, depth=depth) for depth in (3, 2))
    _, state = deep.over_time(frames(2, 3))
    with pytest.raises(ValueError, match=r"state: expected that of 2 layers, got 3"):
        flat.over_time(frames(2, 3), state)
    with pytest.raises(ValueError, match=r"state: of 2 layers, this network has more"):
        deep.over_time(frames(2, 3), state[:2])
    with pytest.raises(
        ValueError, match=r"state: expected tensors of the shapes \[\(5, 8\), \(5, 8\)\], got \[\(3, 8\), \(3, 8\)\]"
    ):
        deep.over_time(frames(2, 5), state)
