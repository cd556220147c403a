"""A block on its own, and the layers between maps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from onespike.functional import partition, recompose
from onespike.models import Block, OnespikeConfig
from onespike.models.patch import PatchEmbedding, PatchMerging
from onespike.units.channel import ChannelLinear

CHANNELS, SIDE = 6, 8
both_kinds = pytest.mark.parametrize("dilated", [False, True])


def make_block(dilated=False, size=SIDE, **overrides):
    torch.manual_seed(0)
    return Block(CHANNELS, size, "dilated" if dilated else "average", OnespikeConfig(**overrides)).double()


def stream(side=SIDE, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, CHANNELS, side, side, dtype=torch.float64, generator=generator)


class Inputs:
    """What each of some modules was given during a forward pass, call after call."""

    def __init__(self, *modules):
        self.seen = []
        for module in modules:
            module.register_forward_pre_hook(lambda _, inputs: self.seen.append(inputs[0]))


@both_kinds
@pytest.mark.parametrize("training", [True, False])
def test_a_block_is_two_residual_lines(dilated, training):
    block = make_block(dilated, encoding="threshold", dropout=0.0).train(training)
    x = stream()
    kind = "dilated" if dilated else "average"
    spikes = block.unit((partition(x, kind) > 0.5).double()).spikes
    recomposed = recompose(spikes, SIDE, kind)
    if dilated:
        recomposed = (recomposed > 0).double()  # the region threshold 0.1 makes every fraction whole
    fc, (_, into, _, activation, out, _) = block.fc[0], block.mlp
    expected = x + torch.einsum("oc,bchw->bohw", fc.weight, recomposed) + fc.bias.view(-1, 1, 1)
    hidden = activation(F.conv2d(expected, into.weight[:, :, None, None], into.bias))
    expected = expected + F.conv2d(hidden, out.weight[:, :, None, None], out.bias)
    actual, potential, _ = block(x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    assert potential is None


@pytest.mark.parametrize("side", [1, 3, 4, 5, 6, 8])
@both_kinds
def test_a_map_of_any_side_keeps_its_shape_and_only_multiples_of_4_are_dilated(side, dilated):
    block = make_block(dilated, side)
    x, _, _ = block(stream(side))
    assert x.shape == (2, CHANNELS, side, side)
    assert block.window_kind == ("dilated" if dilated and side % 4 == 0 else "average")
    window = {"dilated": 3 * side // 4, "average": (side + 1) // 2}[block.window_kind]
    assert tuple(block.draw_shape(2)) == (4, 2, CHANNELS, window, window)


@pytest.mark.parametrize(("region_threshold", "fractions"), [(None, True), (0.1, False), (0.24, False), (0.5, True)])
def test_the_region_threshold_makes_whole_spikes_of_a_dilated_map(region_threshold, fractions):
    block = make_block(dilated=True, encoding="threshold", region_threshold=region_threshold)
    inputs = Inputs(block.fc)
    with torch.no_grad():
        block.unit.conv2.bias.fill_(0.4)  # close to the threshold: neighbouring windows disagree
    block(stream())
    values = set(inputs.seen[0].unique().tolist())
    assert values <= {0, 0.25, 0.5, 0.75, 1}
    assert (values > {0, 1}) == fractions


@both_kinds
def test_every_window_element_is_encoded_with_its_own_draw(dilated):
    block, x = make_block(dilated, dropout=0.0), stream()
    draws = torch.rand(block.draw_shape(2), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    inputs = Inputs(block.unit)
    block(x, draws=draws)
    assert torch.equal(inputs.seen[0], (partition(x, block.window_kind) > draws).double())


@pytest.mark.parametrize(
    ("encoding", "expected"), [("threshold", lambda x: (x > 0.5).double()), ("direct", lambda x: x)]
)
def test_the_deterministic_encodings_draw_nothing(encoding, expected):
    block, x = make_block(encoding=encoding, dropout=0.0), stream()
    inputs = Inputs(block.unit)
    state = torch.get_rng_state()
    block(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(inputs.seen[0], expected(partition(x, "average")))


@pytest.mark.parametrize("encoding", ["bernoulli", "bernoulli-detached", "threshold", "direct"])
def test_a_gradient_reaches_the_unit_input_unless_the_encoding_detaches_it(encoding):
    block = make_block(encoding=encoding)
    inputs = Inputs(block.unit)
    block(stream().requires_grad_())
    assert inputs.seen[0].requires_grad == (encoding != "bernoulli-detached")


@both_kinds
def test_dropout_is_one_mask_for_all_windows_and_time_steps(dilated):
    block, x = make_block(dilated, encoding="direct", dropout=0.3).train(), stream()
    inputs, state, streams = Inputs(block.unit), None, []
    for _ in range(3):
        streams.append(x)
        x, _, state = block(x, state=state)
    masks = [
        given / partition(x, block.window_kind) for given, x in zip(inputs.seen, streams, strict=True)
    ]  # direct encoding hands over the stream itself, so what is left of it is the mask
    mask = masks[0][0]
    kept = mask != 0
    assert 0.5 < kept.double().mean() < 0.9
    torch.testing.assert_close(mask[kept], torch.full_like(mask[kept], 1 / 0.7), rtol=1e-6, atol=0)
    for step in masks:
        torch.testing.assert_close(step, mask.expand_as(step))


def test_each_forward_pass_each_image_and_each_channel_has_a_mask_of_its_own():
    block, x = make_block(encoding="direct", dropout=0.5).train(), stream()
    inputs = Inputs(block.unit)
    block(x)
    block(x)
    first, second = ((seen != 0)[0] for seen in inputs.seen)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[:, 0], first[:, 1])


def test_dropout_preserves_the_mean_input_and_is_off_in_evaluation():
    block, x = make_block(encoding="direct", dropout=0.3), torch.ones(500, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    inputs = Inputs(block.unit)
    with torch.no_grad():
        block.train()(x)
        block.eval()(x)
    assert inputs.seen[0].mean().item() == pytest.approx(1, abs=0.02)
    assert (inputs.seen[0] == 0).double().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(inputs.seen[1], partition(x, "average"))


@both_kinds
def test_with_a_spiking_channel_mlp_every_weight_layer_of_a_block_sees_only_zeros_and_ones(dilated):
    block = make_block(dilated, encoding="threshold", mlp_activation="spiking", dropout=0.0)
    layers = [layer for layer in block.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    inputs = Inputs(*layers)
    block(stream())
    assert len(inputs.seen) == len(layers) == 5
    for seen in inputs.seen:
        assert ((seen == 0) | (seen == 1)).all()


@both_kinds
def test_batch_normalisation_stands_behind_each_weight_layer_with_statistics_over_windows_batch_and_map(dilated):
    block = make_block(dilated, norm="batch", encoding="threshold", dropout=0.0).train()
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 5
    inputs = Inputs(block.unit, *norms)
    block(stream())
    spikes, currents, *rest = inputs.seen
    by_window = torch.stack([F.conv2d(window, block.unit.conv1.weight, padding=1) for window in spikes])
    by_window = by_window + block.unit.conv1.bias.view(-1, 1, 1)
    torch.testing.assert_close(currents.unflatten(0, (4, 2)), by_window)
    for norm, seen in zip(norms, [by_window, *rest], strict=True):
        values = seen.movedim(-3, 0).flatten(1)  # all that one channel delivers: windows, batch and map
        torch.testing.assert_close(norm.running_mean, 0.1 * values.mean(1))
        torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * values.var(1))


@both_kinds
def test_a_channels_last_map_stays_channels_last_and_gives_the_same(dilated):
    block, x = make_block(dilated, encoding="threshold", dropout=0.0), stream()
    plain, last = block(x)[0], block(x.contiguous(memory_format=torch.channels_last))[0]
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain)


def test_a_linear_layer_over_channels_is_a_convolution_of_one_pixel():
    layer, x = ChannelLinear(CHANNELS, 4).double(), stream()
    torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight[:, :, None, None], layer.bias))
    assert layer(x.contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)


def test_merging_maps_the_four_channel_vectors_of_two_by_two_pixels_column_by_column():
    merging, x = PatchMerging(CHANNELS, 5).double(), stream()
    merged = merging(x)
    assert merged.shape == (2, 5, SIDE // 2, SIDE // 2)
    assert [tuple(parameter.shape) for parameter in merging.parameters()] == [(5, 4 * CHANNELS)]
    for i in range(SIDE // 2):
        for j in range(SIDE // 2):
            pixels = [x[:, :, 2 * i + down, 2 * j + right] for right in (0, 1) for down in (0, 1)]
            torch.testing.assert_close(merged[:, :, i, j], torch.cat(pixels, 1) @ merging.reduction.weight.T)


def test_the_stem_maps_patches_that_do_not_overlap():
    stem, image = PatchEmbedding(3, 5, 4), torch.randn(1, 3, 8, 8)
    embedded = stem(image)
    assert embedded.shape == (1, 5, 2, 2)
    patch = image[0, :, 4:8, 0:4].flatten()
    torch.testing.assert_close(embedded[0, :, 1, 0], stem.weight.flatten(1) @ patch + stem.bias)
