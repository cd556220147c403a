"""Layers that are trained as one, or keep less: the same as one behind the other."""

import weakref
from contextlib import nullcontext, suppress
from copy import deepcopy

import pytest
import torch
from torch import nn

from onespike import create_model
from onespike.functional import has_kernels
from onespike.models.stem import Stem
from onespike.units import layers as module
from onespike.units.layers import GELU, BatchNorm, Conv3x3, Layers, MaxPool, ours_in


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


class Own(nn.Conv2d):
    """Somebody's own convolution: whatever it computes, it stays."""


def test_ours_stand_in_for_pytorchs_layers_where_settings_fit_and_only_in_the_context() -> None:
    fitting = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.GELU(), nn.MaxPool2d((2, 2), 2)]
    others = [nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 5, padding=1), nn.Conv2d(3, 8, 3, padding="same"), nn.MaxPool2d(3)]
    others += [
        nn.Conv2d(4, 8, 3, padding=1, groups=2),
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.MaxPool2d(2, 1),
        Own(3, 8, 3, 1, 1),
    ]
    others += [nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.MaxPool2d(2, ceil_mode=True)]
    others += [nn.Conv2d(3, 8, 3, padding=1, dilation=2), nn.MaxPool2d(2, return_indices=True)]
    network = nn.Sequential(*fitting, *others)
    kinds = [type(layer) for layer in network]
    ours = [kind.forward for kind in (Conv3x3, BatchNorm, MaxPool, GELU, MaxPool)]
    with suppress(KeyError), ours_in(network):
        assert [layer.forward.__func__ for layer in network] == [*ours, *(kind.forward for kind in kinds[5:])]
        assert [type(layer) for layer in network] == kinds, "a network may tell its layers apart by their class"
        raise KeyError
    assert not any("forward" in vars(layer) for layer in network)


@pytest.mark.parametrize("name", ["forward", "_conv_forward"])
def test_a_layer_with_a_method_of_its_own_keeps_it(name) -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1)
    own = getattr(nn.Conv2d, name)
    setattr(layer, name, lambda *given: 2 * own(layer, *given))
    images = torch.randn(2, 3, 8, 8)
    with ours_in(nn.Sequential(layer)):
        found = layer(images)
    torch.testing.assert_close(found, 2 * nn.functional.conv2d(images, layer.weight, layer.bias, padding=1))
    assert name in vars(layer)


@pytest.mark.parametrize("bias", [True, False])
def test_with_ours_a_network_trains_to_the_same_gradients(bias, monkeypatch) -> None:
    """In bf16, at most half as far again from those of float64 as PyTorch's own are; statistics as well."""
    monkeypatch.setattr(module, "MANY_VALUES", {})
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=bias), nn.BatchNorm2d(32), nn.GELU(), nn.MaxPool2d(2))
    network += nn.Sequential(nn.Conv2d(32, 48, 3, padding=1, bias=bias), nn.BatchNorm2d(48), nn.ReLU(inplace=True))
    network += nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(48, 10, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images, labels = torch.randn(16, 3, 16, 16).contiguous(memory_format=torch.channels_last), torch.arange(16) % 10

    def found(with_ours: bool, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        one = deepcopy(network).to(torch.float64 if dtype == torch.float64 else torch.float32)
        one = one.to(memory_format=torch.channels_last)
        with ours_in(one) if with_ours else nullcontext():
            with torch.autocast("cpu", torch.bfloat16, dtype == torch.bfloat16):
                loss = nn.functional.cross_entropy(one(images.to(one[0].weight.dtype)), labels)
            loss.backward()
        gradients = torch.cat([parameter.grad.double().flatten() for parameter in one.parameters()])
        return gradients, torch.cat([buffer.double().flatten() for buffer in one.buffers()])

    for ours, theirs, exact in zip(*(found(*how) for how in RUNS), strict=True):
        assert not torch.equal(ours, theirs) or not has_kernels(images)
        assert (ours - exact).norm() <= 1.5 * (theirs - exact).norm() + 1e-12
    for ours, exact in zip(found(True, torch.float64), found(False, torch.float64), strict=True):
        assert (ours - exact).norm() <= 1e-10 * exact.norm()


RUNS = (True, torch.bfloat16), (False, torch.bfloat16), (False, torch.float64)


def test_batch_norm_is_pytorchs_where_values_are_few(monkeypatch) -> None:
    ours: list[torch.Size] = []
    function = module.batch_norm
    monkeypatch.setattr(module, "batch_norm", lambda x, norm: ours.append(x.shape) or function(x, norm))
    monkeypatch.setattr(module, "MANY_VALUES", {torch.float32: 2 * 8 * 4 * 4})
    for images in (1, 2, 3):
        BatchNorm(8)(x := torch.randn(images, 8, 4, 4).contiguous(memory_format=torch.channels_last))
    assert [images for images, *_ in ours] == ([2, 3] if has_kernels(x) else [])
