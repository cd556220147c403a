"""What the counter does not know stops it, by name."""

import pytest
import torch
from torch import Tensor, nn

from onespike.counting.operations import count_operations
from onespike.errors import OnespikeError


class Distances(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x, self.centres)


class MultipliedOut(nn.Module):
    """A linear layer in disguise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.weight).sum(-1)


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x).abs()


class DynamicConvolution(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.conv1d(x[None], x[None] + 1)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Distances(), r"1 \(Distances\) does aten\._cdist_forward, which the audit cannot count"),
        (nn.Bilinear(4, 4, 2), "_trilinear"),
        (MultipliedOut(), r"1 \(MultipliedOut\) spreads its parameters by aten\.mul"),
        (Spectrum(), r"1 \(Spectrum\) does aten\._fft"),
        (DynamicConvolution(), r"1 \(DynamicConvolution\): a convolution with weights that are activations"),
    ],
)
def test_an_unknown_layer_names_itself(layer, message):
    wrapped = layer
    if isinstance(layer, nn.Bilinear):

        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.bilinear = layer

            def forward(self, x: Tensor) -> Tensor:
                return self.bilinear(x, x)

        wrapped = Twice()
    with pytest.raises(OnespikeError, match=message):
        count_operations(nn.Sequential(nn.Linear(4, 4), wrapped), [torch.randn(3, 4)])


def test_a_refusal_leaves_nothing_behind():
    model = nn.Sequential(nn.Linear(4, 4), Distances()).train()
    with pytest.raises(OnespikeError):
        count_operations(model, [torch.randn(3, 4)])
    assert model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_packed_sequences():
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 4)])
    with pytest.raises(OnespikeError, match=r"0 \(LSTM\): packed sequences cannot be counted"):
        count_operations(nn.Sequential(nn.LSTM(4, 4)), [packed])


def test_no_images():
    with pytest.raises(OnespikeError, match="there are no images"):
        count_operations(nn.Linear(4, 4), [])


def test_parameters_that_act_value_by_value_are_known():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logarithm = nn.Parameter(torch.zeros(4, 1, 1))
            self.position = nn.Parameter(torch.zeros(1, 4, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.logarithm.exp() + self.position

    operations = count_operations(Scaled(), [torch.randn(2, 4, 3, 3)])
    assert operations.elementwise == {"multiply": 36, "add": 36}
