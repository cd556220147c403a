"""The artificial networks: the supplement's strings against what is built, and what they compute."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from onespike.errors import OnespikeError
from onespike.models import create_model, model_config
from onespike.models.affine import Affine
from onespike.models.artificial import FeedForward, TokenMixing
from onespike.models.attention import WINDOW, WindowAttention, relative_places
from onespike.models.patch import PatchMerging

#: As printed in the supplement, section 5.
RESMLP12 = "48, F-48-shorcut , 48, PM, 96, F-96-shorcut, 96, PM, (192, F-192-shorcut) $\\times$ 3, 384, F-384, 384, C"
VIT12 = "48, MLP-48 , 48, PM, 96, MLP-96, 96, PM, (192, MLP-96) $\\times$ 3, 384, MLP-384, 384, C"


NAMES = ("resmlp12", "vit12", "resnet18")


def options(activation, branches):
    """Overrides; a network without a choice of branches takes none."""
    return {"activation": activation} | ({"branches": branches} if branches == "spiking" else {})


def parse(text: str) -> list[tuple[str, int]]:
    """Layers of a supplement's string: ("mix", width), ("feed", width), ("PM", 0), ("C", 0)."""
    repeated = re.sub(
        r"\(([^)]*)\) \$\\times\$ (\d)", lambda match: ", ".join([match.group(1)] * int(match.group(2))), text
    )
    layers = []
    for token in (token.strip() for token in repeated.split(",")):
        if token in ("PM", "C"):
            layers.append((token, 0))
        else:
            width = int(re.search(r"\d+", token).group())
            layers.append(("mix" if token.isdigit() else "feed", width))
    return layers


def corrected(layers: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The two corrections: patch merging before 384, and a feed-forward layer is as wide as what it stands behind."""
    result: list[tuple[str, int]] = []
    for kind, width in layers:
        if kind == "mix" and width == 384 and result[-1][1] == 192:
            result.append(("PM", 0))
        result.append((kind, result[-1][1] if kind == "feed" else width))
    return result


def built(network: nn.Module) -> list[tuple[str, int]]:
    kinds = {TokenMixing: "mix", WindowAttention: "mix", FeedForward: "feed", PatchMerging: "PM"}
    layers = [(kinds[type(layer)], getattr(layer, "channels", 0)) for layer in network.layers]
    return [*layers, ("C", 0)] if isinstance(network.head, nn.Linear) else layers


@pytest.mark.parametrize(("name", "text"), [("resmlp12", RESMLP12), ("vit12", VIT12)])
def test_the_supplements_string_is_what_is_built(name, text):
    printed, network = parse(text), create_model(name, image_size=32)
    assert built(network) == corrected(printed)
    assert sum(kind == "PM" for kind, _ in built(network)) == 3
    assert not any(isinstance(module, nn.BatchNorm2d | nn.LayerNorm) for module in network.modules())


def test_the_corrections_are_two():
    assert len(corrected(parse(RESMLP12))) == len(parse(RESMLP12)) + 1  # one patch merging more
    merged = corrected(parse(VIT12))
    merged.pop(merged.index(("mix", 384)) - 1)
    changed = [(old, new) for old, new in zip(parse(VIT12), merged, strict=True) if old != new]
    assert changed == [(("feed", 96), ("feed", 192))] * 3


def test_layers_are_as_wide_as_they_say():
    for name in ("resmlp12", "vit12"):
        for layer in create_model(name, image_size=32).layers:
            if isinstance(layer, FeedForward):
                assert (layer.expand.in_features, layer.expand.out_features) == (layer.channels, 3 * layer.channels)
            if isinstance(layer, TokenMixing):
                assert layer.linear.in_features == layer.side**2
            if isinstance(layer, WindowAttention):
                assert layer.project.in_features == layer.channels
                assert layer.window == min(WINDOW, layer.side)


@pytest.mark.parametrize(
    ("name", "branches"),
    [*((name, "real") for name in NAMES), ("resmlp12", "spiking"), ("vit12", "spiking")],
)
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "qcfs"])
def test_every_network_learns_from_every_weight(name, branches, activation):
    torch.manual_seed(0)
    network = create_model(
        name,
        num_classes=7,
        in_channels=1,
        activation=activation,
        **({} if branches == "real" else {"branches": branches}),
    )
    nn.init.normal_(network.get_parameter("fc.weight" if name == "resnet18" else "head.weight"))
    for key, parameter in network.named_parameters():
        if key.endswith("bn2.weight"):  # timm starts residual branches from 0
            nn.init.ones_(parameter)
    logits = network(torch.randn(4, 1, 32, 32))
    assert logits.shape == (4, 7)
    if name == "resnet18":  # its first convolution halves the map, as its last three stages do, and nothing pools
        assert network.forward_features(torch.zeros(1, 1, 32, 32)).shape == (1, 512, 2, 2)
    logits.square().sum().backward()
    lost = [key for key, one in network.named_parameters() if one.grad is None or not one.grad.any()]
    assert not lost


def test_windows_are_cut_and_joined_again_and_shifted_ones_see_across():
    layer = WindowAttention(48, 8, shifted=True, activation=None)
    maps = torch.randn(2, 48, 8, 8)
    assert torch.equal(layer.join(layer.cut(maps)), maps)
    maps.requires_grad_()
    (layer(maps) - maps)[0, :, 3, 3].sum().backward()
    reached = maps.grad[0].abs().sum(0) > 0
    # Shifted by two, the pixel's window spans rows and columns 2 to 5: both sides of the unshifted border at 4.
    assert reached[2:6, 2:6].all()
    assert reached.sum() == 16


def over_channels(layer: nn.Linear, x: Tensor) -> Tensor:
    return torch.einsum("oc,bc...->bo...", layer.weight, x) + layer.bias.view(-1, *[1] * (x.ndim - 2))


def scaled(affine: Affine, x: Tensor) -> Tensor:
    return affine.scale[:, None, None] * x + affine.shift[:, None, None]


def attended(layer: WindowAttention, x: Tensor, number: int, spiking: bool) -> Tensor:
    """Attention window by window; each second layer is shifted, unless its map is a single window."""
    m = min(4, x.shape[-1])
    shift = 2 if number % 2 and x.shape[-1] > 4 else 0
    a = torch.relu if spiking else torch.clone
    pixels = [(row, column) for row in range(m) for column in range(m)]
    places = [[(r - s + m - 1) * (2 * m - 1) + c - d + m - 1 for s, d in pixels] for r, c in pixels]
    rolled = a(x).roll((-shift, -shift), (2, 3))
    mixed = torch.zeros_like(x)
    for top in range(0, x.shape[-1], m):
        for left in range(0, x.shape[-1], m):
            window = (..., slice(top, top + m), slice(left, left + m))
            parts = (over_channels(one[0], rolled[window].flatten(2)) for one in (layer.query, layer.key, layer.value))
            q, k, v = (a(one).unflatten(1, (-1, 24)) for one in parts)  # (B, heads, 24, M*M)
            weights = torch.einsum("bhdi,bhdj->bhij", q, k) / 24**0.5 / (m * m if spiking else 1)
            weights = weights + layer.bias[:, places]
            weights = weights if spiking else weights.softmax(3)
            mixed[window] = torch.einsum("bhij,bhdj->bhdi", weights, v).flatten(1, 2).unflatten(2, (m, m))
    return x + scaled(layer.after, over_channels(layer.project, a(mixed))).roll((shift, shift), (2, 3))


def written_out(network: nn.Module, x: Tensor, spiking: bool) -> Tensor:
    """The logits of a ResMLP or a vision transformer with the activation ReLU."""
    x = conv2d(x, network.stem.weight, network.stem.bias, stride=2)
    attentions = 0
    for layer in network.layers:
        if isinstance(layer, PatchMerging):
            x = layer(x)
        elif isinstance(layer, WindowAttention):
            x, attentions = attended(layer, x, attentions, spiking), attentions + 1
        else:
            affine = next((one for one in layer.before.modules() if isinstance(one, Affine)), None)
            before = x if affine is None else scaled(affine, x)
            before = before.relu() if spiking else before
            if isinstance(layer, TokenMixing):
                mixed = (before.flatten(2) @ layer.linear.weight.T + layer.linear.bias).view_as(x)
            else:
                mixed = over_channels(layer.reduce, over_channels(layer.expand, before).relu())
            x = x + scaled(layer.after, mixed)
    return over_channels(network.head, x.mean((2, 3)))


@pytest.mark.parametrize("name", ["resmlp12", "vit12"])
@pytest.mark.parametrize("branches", ["real", "spiking"])
def test_the_logits_are_those_of_the_equations_written_out(name, branches):
    torch.manual_seed(0)
    network = create_model(name, branches=branches).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
        torch.testing.assert_close(network(images), written_out(network, images, branches == "spiking"))


@pytest.mark.parametrize("name", ["resmlp12", "vit12"])
@pytest.mark.parametrize("branches", ["real", "spiking"])
@pytest.mark.parametrize("activation", ["relu", "relu6", "gelu", "qcfs"])
def test_no_layer_lets_the_stream_grow_without_bound(name, branches, activation):
    torch.manual_seed(0)
    network = create_model(name, **options(activation, branches))
    with torch.no_grad():
        stream = network.stem(2 * torch.randn(4, 3, 32, 32))  # twice as wide as normalised images are
        for layer in network.layers:
            before, stream = stream, layer(stream)
            assert stream.std() < 1.3 * before.std()


def test_relative_places_depend_on_the_difference_alone():
    places = relative_places(3).view(3, 3, 3, 3)
    assert places[0, 0, 1, 1] == places[1, 1, 2, 2]
    assert places[0, 0, 1, 1] != places[1, 1, 0, 0]
    assert places.unique().numel() == 25


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "resnet81"}, "unknown model 'resnet81': did you mean 'resnet18'"),
        ({"activation": "rleu"}, "unknown model.activation 'rleu': did you mean 'relu'"),
        ({"levels": 0}, "levels: expected at least 1, got 0"),
        ({"preset": "strict"}, "preset: resnet18 has none, got 'strict'"),
        ({"branches": "spiking"}, "unknown option 'model.branches'"),
    ],
)
def test_bad_configurations(values, message):
    with pytest.raises(OnespikeError, match=re.escape(message)):
        model_config(**{"name": "resnet18", **values})


def test_an_image_size_that_does_not_suit():
    with pytest.raises(OnespikeError, match="image_size: resmlp12 needs a multiple of 16 pixels, got 24"):
        create_model("resmlp12", image_size=24)


@pytest.mark.parametrize("activation", ["relu", "relu6", "gelu", "silu"])
def test_an_activation_is_the_function_of_that_name(activation):
    x = torch.linspace(-9, 9, 50)
    made = model_config("resnet18", activation=activation).make_activation()
    assert torch.equal(made(x), getattr(torch.nn.functional, activation)(x))


def test_levels_without_a_staircase_are_refused():
    with pytest.raises(OnespikeError, match=r"^levels: 4, and activation is relu: expected 1, .*; set model.act"):
        model_config("resnet18", levels=4)
    assert model_config("resnet18", activation="qcfs", levels=4).levels == 4
