"""What the counter does not know stops it, by name."""

import pytest
import torch
from torch import nn

from onespike.counting.operations import count_operations
from onespike.errors import OnespikeError
from tests.forward import Forward

#: A tensor that no network has as its own.
KERNEL = torch.randn(2, 3, 2)


def distances(net, x):
    return torch.cdist(x, net.centres)


def multiplied_out(net, x):
    return (x[:, None] * net.centres).sum(-1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (distances, r"1 \(Forward\) does aten\._cdist_forward, which the audit cannot count"),
        (lambda net, x: net.bilinear(x, x), r"1\.bilinear \(Bilinear\) does aten\._trilinear"),
        (multiplied_out, r"1 \(Forward\) spreads its parameters by aten\.mul.*: write it as a linear layer"),
        (
            lambda net, x: torch.where(x[:, None] > 0, net.centres, 0).sum(-1),  # sums of the weights that spikes meet
            r"1 \(Forward\) spreads its parameters by aten\.where.*: write it as a linear layer",
        ),
        (
            lambda net, x: (x[:, None] > net.centres).float().sum(1),
            r"1 \(Forward\) spreads its parameters by .*: expand the activation to the result's shape first",
        ),
        (
            lambda net, x: torch.view_as_complex(x.view(3, 2, 2)) @ torch.view_as_complex(net.centres[0].view(2, 2)),
            r"1 \(Forward\) does aten\.mv of complex numbers",
        ),
        (lambda _, x: torch.fft.rfft(x).abs(), r"1 \(Forward\) does aten\._fft"),
        (
            lambda _, x: torch.conv1d(x[None], x[None] + 1),
            r"1 \(Forward\): a convolution with weights that are activations",
        ),
        (lambda _, x: torch.conv1d(x[None], KERNEL), r"1 \(Forward\): .* use register_buffer"),
    ],
)
def test_an_unknown_layer_names_itself(function, message):
    layer = Forward(function, centres=torch.randn(5, 4), bilinear=nn.Bilinear(4, 4, 2))
    with pytest.raises(OnespikeError, match=message):
        count_operations(nn.Sequential(nn.Linear(4, 4), layer), [torch.randn(3, 4)])


def test_a_population_of_thresholds_counts_as_comparisons_once_its_potentials_are_expanded():
    population = Forward(
        lambda net, v: (v.expand(5, *v.shape) > net.thresholds).float(), thresholds=torch.rand(5, 1, 4)
    )
    assert count_operations(population, [torch.rand(3, 4)], batch_axis=0).elementwise == {"compare": 5 * 4}


def test_a_refusal_leaves_nothing_behind():
    model = nn.Sequential(nn.Linear(4, 4), Forward(distances, centres=torch.randn(5, 4))).train()
    with pytest.raises(OnespikeError):
        count_operations(model, [torch.randn(3, 4)])
    assert model.training
    assert torch.backends.mha.get_fastpath_enabled()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_packed_sequences():
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 4)])
    with pytest.raises(OnespikeError, match=r"0 \(LSTM\): packed sequences cannot be counted"):
        count_operations(nn.Sequential(nn.LSTM(4, 4)), [packed])


def test_images_that_are_no_batches():
    with pytest.raises(OnespikeError, match=r"batches: expected tensors \(B, \.\.\.\), .* got a Tensor"):
        count_operations(nn.Linear(4, 4), torch.randn(3, 4))


def test_answers_that_are_not_finite():
    with pytest.raises(OnespikeError, match="answers with numbers that are not finite: its training failed"):
        count_operations(Forward(lambda _, x: x / 0), [torch.randn(3, 4)])


def test_images_that_are_not_finite():
    with pytest.raises(OnespikeError, match=r"^batches: expected finite images, got some values that are not$"):
        count_operations(Forward(lambda _, x: (x > 0) * 1.0), [torch.full((3, 4), float("nan"))])


def test_no_images():
    with pytest.raises(OnespikeError, match="there are no images"):
        count_operations(nn.Linear(4, 4), [])


def test_parameters_that_act_value_by_value_are_known():
    weights = {"logarithm": torch.zeros(4, 1, 1), "position": torch.zeros(1, 4, 3, 3)}
    scaled = Forward(lambda net, x: x * net.logarithm.exp() + net.position, **weights)
    operations = count_operations(scaled, [torch.randn(2, 4, 3, 3)])
    assert operations.elementwise == {"multiply": 36, "add": 36}
