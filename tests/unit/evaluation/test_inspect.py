"""What an inspection says, against numbers taken by other means."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from onespike import OnespikeError, create_model
from onespike.classpath import ClassPath
from onespike.evaluation import inspect_image, inspect_network
from onespike.evaluation.drawing import draw_inspection, save_figure
from onespike.functional import partition, recompose, region_threshold
from onespike.models import MODELS, model_config
from onespike.neurons import LIF, Neuron, NeuronConfig
from onespike.neurons.watch import answer_and_calls
from onespike.training import load
from onespike.training.checkpoint import ModelCard
from onespike.units import ConvUnit
from tests.forward import Forward
from tests.running import thorough


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
    return path


def reference(run, image: Path, seed: int = 0):
    """Probabilities, and of each unit (potentials and spikes of both layers at each time step), by plain hooks."""
    network = load(run.folder)
    memories = []
    for module in network.modules():
        if isinstance(module, ConvUnit):
            module.register_forward_hook(lambda _, __, output: memories.append(output.memory))
    pixels = torch.from_numpy(np.asarray(Image.open(image)).astype(np.float32))
    with torch.no_grad():
        logits = network(((pixels / 255 - 0.4) / 0.3)[None, None], generator=torch.Generator().manual_seed(seed))
    count = len(list(network.blocks()))
    return network, logits.softmax(1)[0], [memories[number::count] for number in range(count)]


def test_without_known_neurons_it_says_why_none_is_shown(image: Path, capsys: pytest.CaptureFixture):
    network = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 2))
    card = ModelCard(ClassPath.of(network), ("ant", "bee"), 1, 16, (0.4,), (0.3,), "noise")
    view = inspect_network(network, card, image)
    assert view.blocks == ()
    assert capsys.readouterr().err.startswith("warning: inspect: no layers of neurons are known")
    draw_inspection(view)


def test_a_network_that_knows_floats_is_warned_of_bytes(image: Path, capsys: pytest.CaptureFixture):
    network = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 2))
    inspect_network(network, ModelCard(ClassPath.of(network), ("ant", "bee"), 1, 16, (0.0,), (1.0,), "noise"), image)
    said = "noise.png has bytes, taken as 0 to 1; the network knows floats that their owner normalised"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {
            "encoding": "bernoulli",
            "time_steps": 2,
            "neuron": {"learnable_threshold": "channel"},
            "region_threshold": None,
        },
        {"mlp_activation": "spiking", "neuron": {"surrogate": "triangle"}, "windows": "dilated"},
    ],
)
def test_numbers_of_every_block(make_run, image: Path, overrides):
    run = make_run(**overrides)
    view = inspect_image(run, image)
    assert max(map(len, map(repr, [view, *view.blocks]))) < 500  # a notebook prints no tensors
    content = view.to_json()
    network, probabilities, memories = reference(run, image)
    assert list(content["probabilities"].values()) == pytest.approx(probabilities.tolist(), rel=1e-5)
    assert list(content["probabilities"]) == ["ant", "bee", "cat", "dog", "emu", "fly", "gnu"]
    assert content["probabilities"][content["prediction"]] == pytest.approx(probabilities.max().item(), rel=1e-5)
    assert len(content["blocks"]) == 6
    for block, described, steps in zip(network.blocks(), content["blocks"], memories, strict=True):
        assert described["map_side"] == block.size
        assert described["windows"] == block.window_kind
        layers = {layer["name"]: layer for layer in described["layers"]}
        for number in (0, 1):
            layer, neuron = layers[f"unit.neuron{number + 1}"], getattr(block.unit, f"neuron{number + 1}")
            potentials = torch.stack([memory[number][0] for memory in steps])  # (T, V, 1, C, M, M)
            spikes = torch.stack([memory[number][1] for memory in steps])
            distances = potentials - neuron.threshold
            assert layer["firing_rate"] == pytest.approx(spikes.mean().item(), abs=1e-6)
            assert layer["above_threshold"] == pytest.approx(layer["firing_rate"], abs=1e-6)
            silent = 1 - spikes.amax(0).mean().item()
            assert layer["silent_neurons"] == pytest.approx(silent, abs=1e-6)
            reach = 1 - 0.01 if neuron.surrogate.name == "triangle" else 0.5
            assert layer["in_support"] == pytest.approx((distances.abs() < reach).float().mean().item(), abs=1e-6)
            assert layer["potential"]["mean"] == pytest.approx(potentials.mean().item(), abs=1e-5)
            assert layer["potential"]["std"] == pytest.approx(potentials.std(correction=0).item(), abs=1e-5)
            assert layer["potential"]["quantiles"]["0.25"] == pytest.approx(potentials.quantile(0.25).item(), abs=1e-5)
        rates = [layers[f"unit.neuron{number}"]["firing_rate"] for number in (1, 2)]
        assert described["firing_rate"] == pytest.approx(sum(rates) / 2, abs=1e-6)
        assert ("encoder" in layers) == (network.config.encoding == "threshold")
        assert ("mlp.3" in layers) == (network.config.mlp_activation == "spiking")
    assert sum(block["firing_rate"] for block in content["blocks"]) > 0


@pytest.mark.parametrize("name", ["ternary", "adaptive", "relu"])
def test_what_the_picture_says_of_neurons_that_fire(name: str, image: Path):
    config = model_config(
        "conv-tiny",
        channels=(4, 8, 12),
        encoding="direct",
        region_threshold=None,
        neuron=NeuronConfig(name=name, threshold=0.2),
    )
    card = ModelCard(config, ("ant", "bee"), 1, 16, (0.4,), (0.3,), "noise")
    torch.manual_seed(0)
    view = inspect_network(card.build().eval(), card, image)
    texts = {
        text.get_text() for axis in draw_inspection(view).axes if axis.get_legend() for text in axis.get_legend().texts
    }
    for block in view.blocks:
        for number, layer in enumerate(block.unit_layers, 1):
            fired = (layer.spikes != 0).float().mean()
            assert layer.firing_rate == pytest.approx(fired.item())
            described = layer.to_json()
            if name == "relu":
                assert [described[key] for key in ("threshold", "above_threshold", "in_support")] == [None] * 3
                continue
            assert f"layer {number}: {fired:.1%} fire" in texts
            assert described["above_threshold"] == pytest.approx(layer.firing_rate)
            if name == "ternary":
                distances = layer.potentials.abs() - 0.2
                assert described["in_support"] == pytest.approx((distances.abs() < 0.5).float().mean().item())
        assert 0 <= block.spike_map.min() <= block.spike_map.max() <= 1
        assert 0 <= block.firing_rate <= 1
    assert max(block.spike_map.max() for block in view.blocks) > 0


def test_spike_maps_are_recomposed_output_spikes(make_run, image: Path):
    run = make_run(region_threshold=0.1)
    network, _, memories = reference(run, image)
    for block, view, steps in zip(network.blocks(), inspect_image(run, image).blocks, memories, strict=True):
        expected = recompose(steps[0][1][1], block.size, block.window_kind)
        if block.window_kind == "dilated":
            expected = region_threshold(expected, 0.1)
        assert torch.allclose(view.spike_map, expected[0].mean(0))


def test_coordinates_of_windows(make_run, image: Path):
    blocks = inspect_image(make_run(size=16), image).to_json()["blocks"]
    corners = [[tuple(box.values()) for box in block["window_pixels"]] for block in blocks]
    assert corners[0] == [(0, 0, 8, 8), (8, 0, 16, 8), (0, 8, 8, 16), (8, 8, 16, 16)]
    assert corners[1] == [(0, 0, 12, 12), (4, 0, 16, 12), (0, 4, 12, 16), (4, 4, 16, 16)]
    assert [block["windows"] for block in blocks] == ["average", "dilated", "average", "dilated", "average", "average"]
    assert corners[5] == corners[0]  # the last map, of side 2, cannot be dilated
    assert list(blocks[0]["window_pixels"][0]) == ["left", "top", "right", "bottom"]


def test_a_map_without_windows_is_its_own_only_window(make_run, image: Path):
    run = make_run(windows="none", depths=(1,), channels_of_stages=(4,))
    (block,) = inspect_image(run, image).to_json()["blocks"]
    assert block["windows"] == "whole"
    assert [tuple(box.values()) for box in block["window_pixels"]] == [(0, 0, 16, 16)]


@pytest.mark.parametrize(("size", "kind"), [(6, "average"), (2, "average"), (16, "average"), (16, "dilated")])
def test_coordinates_are_those_of_partition(make_run, image: Path, size: int, kind: str):
    """Also of odd maps, whose last windows reach into the padding, or lie in it as a whole."""
    run = make_run(size=size, windows=kind, depths=(1,), channels_of_stages=(4,))
    (block,) = inspect_image(run, image).blocks
    side = size // 2
    numbers = torch.arange(1, side * side + 1).view(1, 1, side, side)
    for window, (left, top, right, bottom) in zip(partition(numbers, kind), block.windows, strict=True):
        inside = numbers[0, 0, top // 2 : bottom // 2, left // 2 : right // 2]
        assert window[window > 0].tolist() == inside.flatten().tolist()


def test_draws_follow_the_seed(make_run, image: Path):
    run = make_run(encoding="bernoulli")
    one, again, other = (inspect_image(run, image, seed=seed).to_json() for seed in (5, 5, 6))
    assert one == again
    assert one["probabilities"] != other["probabilities"]


def test_a_network_of_events_takes_no_picture(image: Path):
    card = ModelCard(ClassPath.of(nn.Flatten()), ("ant", "bee"), 2, 16, (0.4,) * 2, (0.3,) * 2, "events")
    with pytest.raises(OnespikeError, match=r"noise.png: the network takes 2 channels; .*; pass --sample NUMBER"):
        inspect_network(nn.Flatten(), card, image)


def test_another_size_and_other_colours(make_run, tmp_path: Path):
    """A picture of left half red, right half blue, twice as wide as high: the centre square keeps half of each."""
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, :40, 0] = pixels[:, 40:, 2] = 255
    path = tmp_path / "flag.png"
    Image.fromarray(pixels).save(path)
    view = inspect_image(make_run(channels=3), path)
    assert view.note == "resized from 80x40 to 16x16, the centre kept"
    assert view.pixels.shape == (16, 16, 3)
    assert (view.pixels[:, :6, 0] == 255).all()
    assert (view.pixels[:, 10:, 2] == 255).all()
    grey = inspect_image(make_run(folder="grey"), path)
    assert grey.pixels.shape == (16, 16, 1)
    assert len(np.unique(grey.pixels[:, [0, -1]])) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "width", "height"),
    [
        ({"time_steps": 2, "encoding": "bernoulli"}, 650, 410),
        ({"depths": (8, 8, 20)}, 1300, 850),
        ({"size": 2, "depths": (1,), "channels_of_stages": (4,)}, 650, 300),
    ],
)
def test_the_picture(make_run, image: Path, tmp_path: Path, overrides, width: int, height: int):
    save_figure(draw_inspection(inspect_image(make_run(**overrides), image)), tmp_path / "a.png", dpi=50)
    with Image.open(tmp_path / "a.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.width == pytest.approx(width, rel=0.1)
        assert picture.height == pytest.approx(height, rel=0.1)
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height)) > 100


def test_a_network_that_diverged(make_run, image: Path):
    run = make_run()
    checkpoint = run.checkpoint("best")
    checkpoint.weights["head.bias"].fill_(torch.inf)
    checkpoint.save(run.best)
    with pytest.raises(OnespikeError, match="not finite"):
        inspect_image(run, image)


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(None, tuple("abcdefghij"), 1, 6, (0.4,), (0.3,), "mine")


def spikingjelly(mode: str) -> nn.Module:
    from spikingjelly.activation_based import layer, neuron

    return nn.Sequential(
        layer.Conv2d(1, 4, 3, step_mode=mode),
        neuron.LIFNode(v_threshold=0.3, step_mode=mode),
        layer.Flatten(step_mode=mode),
        layer.Linear(64, 10, step_mode=mode),
        neuron.IFNode(v_threshold=0.1, step_mode=mode),
    )


@pytest.mark.parametrize("mode", ["s", "m"])
def test_a_network_without_windows_has_its_layers_of_neurons(card, image: Path, tmp_path: Path, mode: str):
    torch.manual_seed(0)
    three_steps = {"s": lambda net, x: torch.stack([net.inner(x) for _ in range(3)])}
    three_steps |= {"m": lambda net, x: net.inner(x.expand(3, *x.shape))}
    network, outputs = Forward(three_steps[mode], inner=spikingjelly(mode)), []
    network.inner[1].register_forward_hook(lambda _, __, out: outputs.append(out.reshape(-1, 4, 4, 4)))
    view = inspect_network(network, card, image)
    spikes = torch.cat(outputs)
    first, second = view.blocks
    assert (first.name, second.name, view.time_steps) == ("inner.1", "inner.4", 3)
    assert spikes.any()
    torch.testing.assert_close(first.spike_map, spikes.mean((0, 1)))
    assert first.firing_rate == pytest.approx(spikes.mean().item())
    assert second.spike_map.shape == (1, 10)
    described = first.to_json()
    assert "windows" not in described
    (layer,) = described["layers"]
    assert (layer["threshold"], layer["in_support"]) == (pytest.approx(0.3), None)
    assert layer["above_threshold"] == pytest.approx(spikes.mean().item())
    save_figure(draw_inspection(view), tmp_path / "a.png", dpi=50)
    assert (tmp_path / "a.png").stat().st_size > 1000
    normal = (torch.tensor(view.pixels).movedim(-1, 0)[None] / 255 - 0.4) / 0.3
    logits = answer_and_calls(network, normal)[0].mean(0)[0]  # over the time steps
    assert view.probabilities.tolist() == pytest.approx(logits.softmax(0).tolist(), rel=1e-5)
    assert logits.unique().numel() > 1
    again = inspect_network(network, card, image)
    assert again.to_json() == view.to_json(), "it remembers nothing"


def test_places_in_the_batch_axis_are_no_time_steps(card, image: Path):
    from spikingjelly.activation_based import neuron

    def forward(net, x):
        parts = x.view(1, 4, 9).expand(3, 4, 9)
        return net.read(net.fire(net.mix(parts))).mean(1)[:, None]

    network = Forward(forward, mix=nn.Linear(9, 5), fire=neuron.IFNode(step_mode="m"), read=nn.Linear(5, 10))
    view = inspect_network(network, card, image)
    assert (view.time_steps, view.blocks[0].layers[0].spikes.shape) == (3, (3, 4, 5))


def test_a_network_that_takes_views_of_its_maps(card, image: Path):
    inner = nn.Sequential(nn.Conv2d(1, 4, 3), LIF(4), nn.MaxPool2d(2))
    network = Forward(lambda net, x: net.head(net.inner(x).view(x.size(0), -1)), inner=inner, head=nn.Linear(16, 10))
    assert len(inspect_network(network, card, image).blocks) == 1


def test_a_threshold_may_be_a_whole_number(card, image: Path):
    import snntorch

    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 10), snntorch.Leaky(0.9, threshold=1, init_hidden=True))
    (layer,) = inspect_network(network, card, image).to_json()["blocks"][0]["layers"]
    assert layer["threshold"] == 1


def test_spikes_of_another_size_are_counted_not_added_up(card, image: Path):
    import snntorch

    neuron = snntorch.Leaky(0.9, threshold=-1e6, init_hidden=True, graded_spikes_factor=0.25)
    (view,) = inspect_network(nn.Sequential(nn.Flatten(), nn.Linear(36, 10), neuron), card, image).blocks
    assert (view.firing_rate, view.spike_map.max()) == (1, 1), "all of them fire"


def test_neurons_that_only_integrate_have_no_threshold(card, image: Path, tmp_path: Path):
    import snntorch
    from spikingjelly.activation_based import neuron

    for readout in (neuron.LIFNode(v_threshold=torch.inf), snntorch.Leaky(0.9, threshold=torch.inf, init_hidden=True)):
        view = inspect_network(nn.Sequential(nn.Flatten(), nn.Linear(36, 10), readout), card, image)
        described = view.to_json()
        (layer,) = described["blocks"][0]["layers"]
        assert [layer[key] for key in ("threshold", "above_threshold", "firing_rate")] == [None, None, 0]
        json.dumps(described, allow_nan=False)
        save_figure(draw_inspection(view), tmp_path / "a.png", dpi=40)


def test_neurons_of_two_places_have_a_view_for_each_size(card, image: Path):
    from spikingjelly.activation_based import neuron

    def forward(net, x):
        x = net.fire(net.conv(x))
        net.fire.reset()
        return net.fire(x[..., ::2, ::2]).flatten(1)[:, :10]

    torch.manual_seed(0)
    network = Forward(forward, conv=nn.Conv2d(1, 4, 3), fire=neuron.IFNode(v_threshold=0.1))
    first, second = inspect_network(network, card, image).blocks
    assert (first.name, second.name) == ("fire, 4x4x4", "fire, 4x2x2")
    assert (first.shape, second.shape) == ("4x4", "2x2")
    assert torch.equal(first.layers[0].spikes[..., ::2, ::2], second.layers[0].spikes)


OURS = [one for one in MODELS.values() if one.builder.__module__.startswith("onespike.")]  # others may be registered


@pytest.mark.parametrize("name", thorough(sorted({[*one.variants][-1] for one in OURS}), 4))
def test_every_family_can_be_looked_into(name: str, image: Path, tmp_path: Path):
    small = {"width": 8} if "width" in {field.name for field in fields(MODELS[name].config)} else {}
    network = create_model(name, image_size=32, in_channels=1, **small).eval()
    card = ModelCard(None, tuple("abcdefghij"), 1, 32, (0.4,), (0.3,), name)
    view = inspect_network(network, card, image)
    firing = [module for module in network.modules() if isinstance(module, Neuron) and module.spiking]
    assert bool(view.blocks) == bool(firing)
    assert view.probabilities.sum().item() == pytest.approx(1, rel=1e-5)
    save_figure(draw_inspection(view), tmp_path / "a.png", dpi=40)
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_network_without_neurons(card, image: Path, tmp_path: Path):
    torch.manual_seed(0)
    view = inspect_network(nn.Sequential(nn.Flatten(), nn.Linear(36, 10)), card, image)
    assert view.blocks == ()
    assert view.probabilities.sum().item() == pytest.approx(1)
    save_figure(draw_inspection(view), tmp_path / "a.png", dpi=50)


def test_of_equally_probable_classes_the_first_comes_first(image: Path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 100), nn.Hardtanh(1, 2))
    nn.init.zeros_(network[1].weight)
    nn.init.constant_(network[1].bias, 3)
    card = ModelCard(None, tuple(map(str, range(100))), 1, 6, (0.4,), (0.3,), "tied")
    assert [name for name, _ in inspect_network(network, card, image).guesses(3)] == ["0", "1", "2"]
