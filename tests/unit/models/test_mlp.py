import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from onespike.models.block import NORMS, ChannelMlp
from onespike.neurons import NeuronConfig
from onespike.units.layers import GELU


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("mlp_activation", ["gelu", "spiking"])
def test_it_is_the_sequence_of_its_layers_in_values_and_gradients(norm, mlp_activation):
    torch.manual_seed(0)
    mlp = ChannelMlp(6, 3, NORMS[norm], NeuronConfig() if mlp_activation == "spiking" else None).double()
    x = torch.randn(4, 6, 5, 5, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    results = []
    for function in (mlp, nn.Sequential(*mlp)):
        out = function(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *mlp.parameters()])])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


def test_in_bf16_its_gelu_is_pytorchs_up_to_rounding():
    torch.manual_seed(0)
    mlp, x, results = ChannelMlp(6, 3, NORMS["none"]), torch.randn(4, 6, 5, 5).requires_grad_(), []
    assert type(mlp[3]) is GELU
    for between in (mlp[3], nn.GELU()):
        mlp[3] = between
        with torch.autocast("cpu", torch.bfloat16):
            out = mlp(x)
        results.append([out, *torch.autograd.grad(out.float().square().sum(), [x, *mlp.parameters()])])
    for ours, plain in zip(*results, strict=True):
        assert (ours - plain).norm() <= 1e-2 * plain.norm()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_wide_output_of_the_gelu_is_not_kept(precision):
    mlp = ChannelMlp(6, 3, NORMS["none"])
    kept = {}
    for name, layer in (("input", mlp[1]), ("output", mlp[3])):
        layer.register_forward_hook(
            lambda _, __, out, name=name: kept.update({name: StorageWeakRef(out.untyped_storage())})
        )
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        out = mlp(torch.randn(2, 6, 4, 4))
    assert not kept["input"].expired()
    assert kept["output"].expired()
    out.float().sum().backward()
    assert all(parameter.grad is not None for parameter in mlp.parameters())
