"""Layers that are trained as one, or keep less: the same as one behind the other."""

import weakref

import pytest
import torch
from torch import nn

from onespike import create_model
from onespike.models.stem import Stem
from onespike.units.layers import Conv3x3, Layers, MaxPool


def trained(layers: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        out = layers(x)
    out.float().square().sum().backward()
    gradients = [parameter.grad for parameter in layers.parameters() if parameter.requires_grad]
    layers.zero_grad()
    return [out.detach(), *gradients]


@pytest.mark.parametrize("watch", ["", "conv", "pool", "before", "gradient", "gradient before"])
def test_convolution_and_pooling_are_one_unless_a_hook_looks_in_between(watch, monkeypatch) -> None:
    torch.manual_seed(0)
    layers = Layers(Conv3x3(4, 6), MaxPool(), nn.ReLU())
    x = torch.randn(5, 4, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    seen: list[torch.Size] = []
    if watch == "gradient":
        layers[0].register_full_backward_hook(lambda _m, _of_x, of_out: seen.append(of_out[0].shape))
    elif watch == "gradient before":
        layers[1].register_full_backward_pre_hook(lambda _m, of_out: seen.append(of_out[0].shape))
    elif watch == "before":
        layers[1].register_forward_pre_hook(lambda _m, given: seen.append(given[0].shape))
    elif watch:
        layers[["conv", "pool"].index(watch)].register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    called: list[nn.Module] = []
    pool = MaxPool.forward
    monkeypatch.setattr(MaxPool, "forward", lambda self, x: called.append(self) or pool(self, x))
    found = trained(layers, x)
    assert len(called) == len(seen) == bool(watch)
    for one, other in zip(found, trained(nn.Sequential(*layers), x), strict=True):
        assert (one.double() - other.double()).norm() <= 1e-2 * other.double().norm()
    assert torch.equal(layers.eval()(x), nn.Sequential(*layers)(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["whitening", "rectified", "spiking"])
def test_a_stem_computes_again_what_whitening_gave(kind, dtype) -> None:
    stem = create_model("spiking-resnet-xs", num_classes=10, stem=kind).stem[0].train()
    assert isinstance(stem, Stem)
    images = torch.randn(3, 3, 32, 32)
    white: list[weakref.ref[torch.Tensor]] = []
    with torch.autocast("cpu", torch.bfloat16, dtype == torch.bfloat16):
        handle = stem[0].register_forward_hook(lambda _m, _i, out: white.append(weakref.ref(out)))
        out = stem(images)
        assert white[0]() is None
        handle.remove()
        plain = nn.Sequential(*stem)(images)
    assert torch.equal(out, plain)
    weight = next(layer for layer in stem if isinstance(layer, Conv3x3)).weight
    found, expected = (torch.autograd.grad(one.square().sum(), weight)[0] for one in (out, plain))
    assert torch.equal(found, expected)
    assert found.abs().max() > 0


@pytest.mark.parametrize("inside", [True, False])
def test_a_stem_in_training_takes_images_of_inference_mode(inside) -> None:
    stem = create_model("spiking-resnet-xs", num_classes=10).stem[0].train()
    with torch.inference_mode():
        images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode(inside):
        out = stem(images)
    assert torch.equal(out, stem(images.clone()))
    if not inside:
        out.sum().backward()
        assert stem[1].weight.grad.any()


def test_a_stem_refuses_images_that_changed_before_it_reads_them_again() -> None:
    stem = create_model("spiking-resnet-xs", num_classes=10).stem[0].train()
    images = torch.randn(3, 3, 32, 32)
    out = stem(images)
    images.zero_()
    with pytest.raises(RuntimeError, match="changed in place"):
        out.sum().backward()
