"""Where the weights start."""

import math

import pytest
import torch
from timm.layers import lecun_normal_
from torch import nn

from onespike import create_model
from onespike.models.initialise import initialise


@pytest.fixture(scope="module")
def conv12():
    torch.manual_seed(0)
    return create_model("conv12")


def layers(network, kind):
    found = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, kind)]
    assert found
    return [(name, layer) for name, layer in found if layer is not network.head]


def test_convolutions_are_lecun_normal(conv12):
    for name, layer in layers(conv12, nn.Conv2d):
        deviation = 1 / math.sqrt(layer.weight[0].numel())
        weight = layer.weight / deviation
        tolerance = 5 / math.sqrt(weight.numel())
        assert abs(weight.mean()) < tolerance, name
        assert weight.std().item() == pytest.approx(1, abs=tolerance), name
        assert weight.abs().max() < 2.3, f"{name}: truncated at two deviations of the normal before truncation"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_draw_what_timm_draws(dtype: torch.dtype):
    network, drawn = nn.Sequential(nn.Conv2d(3, 8, 5, dtype=dtype)), torch.empty(8, 3, 5, 5, dtype=dtype)
    network.add_module("head", nn.Linear(8, 2))
    torch.manual_seed(0)
    initialise(network)
    torch.manual_seed(0)
    lecun_normal_(drawn)
    assert network[0].weight.equal(drawn)


def test_linear_layers_are_xavier_uniform(conv12):
    for name, layer in layers(conv12, nn.Linear):
        bound = math.sqrt(6 / sum(layer.weight.shape))
        weight = layer.weight / bound
        tolerance = 5 / math.sqrt(weight.numel())
        assert abs(weight.mean()) < tolerance, name
        assert weight.std().item() == pytest.approx(1 / math.sqrt(3), abs=tolerance), name
        assert 1 - tolerance < weight.abs().max() <= 1, name


def test_the_last_layer_of_each_branch_is_scaled_by_the_root_of_12_over_the_depth():
    for depth, scale in ((12, 1), (36, 3**-0.5)):
        torch.manual_seed(0)
        for block in create_model(f"conv{depth}", channels=(16, 16, 16, 16)).blocks():
            for layer, wanted in ((block.fc[0], scale), (block.mlp[1], 1), (block.mlp[4], scale)):
                bound = wanted * math.sqrt(6 / sum(layer.weight.shape))
                assert 0.9 * bound < layer.weight.abs().max() <= bound


@pytest.mark.parametrize("unit", ["conv", "lstm"])
def test_the_stream_of_a_deep_network_starts_no_larger_than_the_papers(unit):
    deviations = {}
    for depth in (12, 36):
        torch.manual_seed(0)
        network = create_model(f"{unit}{depth}", channels=(12, 24, 48, 96))
        stream = []
        network.blocks()[-1].register_forward_hook(lambda _m, _i, output, seen=stream: seen.append(output[0].std()))
        with torch.no_grad():
            network(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
        deviations[depth] = stream[0].item()
    assert 0.5 * deviations[12] < deviations[36] < 2 * deviations[12]


@pytest.mark.parametrize("name", ["conv12", "conv-tiny"])
def test_biases_and_the_head_start_at_zero(name):
    network = create_model(name)
    assert not network.head.weight.any()
    for key, parameter in network.named_parameters():
        if key.endswith("bias"):
            assert not parameter.any(), key


def test_so_all_classes_are_equally_probable_at_first(conv12):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(conv12(images).softmax(1), torch.full((2, 10), 0.1))


def test_a_seed_makes_the_same_weights_again_and_another_seed_others():
    def weights(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(create_model("conv-tiny").parameters())

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
