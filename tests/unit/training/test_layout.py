from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import onespike
from onespike.audit import audit_run
from onespike.evaluation import evaluate
from onespike.functional import has_kernels
from onespike.functional.kernels import kernels_for
from onespike.neurons import LIF
from onespike.training.layout import laid_out
from onespike.units.layers import GELU, BatchNorm, Conv3x3, MaxPool


class Viewed(nn.Module):
    """A view behind a convolution, as most tutorials write it: maps that lie channels-last have none such."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.fire, self.pool, self.head = (
            nn.Conv2d(channels, 4, 3),
            LIF(4),
            nn.MaxPool2d(2),
            nn.Linear(36, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = self.pool(self.fire(self.conv(x)))
        return self.head(maps.view(x.size(0), -1))


def last(images: Tensor) -> Tensor:
    """Images as loaders give them."""
    return images.clone(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.slow
def test_a_network_with_a_view_of_maps_goes_through_all(channels: int, tmp_path):
    data = torch.utils.data.TensorDataset(torch.rand(60, channels, 8, 8), torch.arange(60) % 10)
    recipe = onespike.load_recipe("digits", {"train.epochs": 1, "train.warmup_epochs": 0})
    network = Viewed(channels)
    first = onespike.train(recipe, tmp_path / "first", model=network, data=data, quiet=True)
    summary = onespike.train(recipe, tmp_path / "again", model=network, data=data, quiet=True)
    assert summary["test_top1"] == evaluate(tmp_path / "again", model=Viewed(channels), data=data).top1.mean
    assert first["test_top1"] == evaluate(tmp_path / "first", model=network, data=data).top1.mean
    assert audit_run(tmp_path / "again", model=network, data=data).operations.images == 12
    made = onespike.export(network, tmp_path / "onnx", "onnx", images=torch.rand(6, channels, 8, 8))
    assert made.holds


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("frames", [(), (5,)])
def test_its_logits_are_those_of_plain_images(channels: int, frames: tuple[int, ...]):
    class OverTime(Viewed):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(0, -4)).unflatten(0, x.shape[:-3]) if frames else super().forward(x)

    torch.manual_seed(0)
    network, images = OverTime(channels).eval(), torch.rand(*frames, 2, channels, 8, 8)
    expected = network(images)
    loaded = last(images.flatten(0, -4)).view(images.shape)
    with pytest.raises(RuntimeError, match="view size"):
        OverTime(channels).to(memory_format=torch.channels_last)(loaded)
    assert laid_out(laid_out(network, images), images) is network
    assert len(network._forward_pre_hooks) == 1
    assert torch.equal(network(loaded), expected)
    assert torch.equal(network(x=images), expected), "keywords are the caller's to lay"


def test_other_weights_lie_channels_last_unless_some_are_of_volumes():
    images, volumes = nn.Sequential(nn.Conv2d(2, 3, 3)), nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3))
    for network, form in ((images, torch.channels_last), (volumes, torch.contiguous_format)):
        assert laid_out(network, torch.rand(2, 2, 8, 8))[0].weight.is_contiguous(memory_format=form)
        assert not network._forward_pre_hooks


def test_a_network_of_volumes_may_take_views_too():
    class OfVolumes(nn.Conv3d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(len(x), 1, 3, -1)[..., None])

    assert laid_out(OfVolumes(1, 2, 1), torch.rand(2, 3, 8, 8))(last(torch.rand(2, 3, 8, 8))).shape[:2] == (2, 2)


def test_what_else_a_network_refuses_is_not_for_its_layout_to_say():
    network = laid_out(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 2)), torch.rand(2, 3, 8, 8))
    assert not network._forward_pre_hooks


class Recomputing(nn.Module):
    """A network whose backward recomputes its forward, and that notes which layers it meets."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2))
        self.head = nn.Linear(128, 10)
        self.met: set[Any] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.met |= {(type(layer), layer.forward.__func__) for layer in self.maps}
        maps = checkpoint(self.maps, x, use_reentrant=False) if self.training else self.maps(x)
        return self.head(maps.flatten(1))


class GradientPenalty(onespike.Callback):
    def penalty(self, trainer, _images: int) -> Tensor:
        logits = trainer.network(torch.rand(4, 1, 8, 8).contiguous(memory_format=torch.channels_last))
        weights = list(trainer.network.maps.parameters())
        return sum(one.square().sum() for one in torch.autograd.grad(logits.sum(), weights, create_graph=True))


def digits_of(images: int) -> torch.utils.data.TensorDataset:
    return torch.utils.data.TensorDataset(torch.rand(images, 1, 8, 8), torch.arange(images) % 10)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_trains_with_our_layers_and_keeps_its_own(precision: str, tmp_path):
    recipe = {"train.epochs": 1, "train.warmup_epochs": 0, "train.precision": precision, "train.batch_size": 20}
    network = Recomputing()
    kinds = [type(layer) for layer in network.maps]
    onespike.train(
        onespike.load_recipe("digits", recipe), tmp_path / "run", model=network, data=digits_of(60), quiet=True
    )
    ours = [layer.forward for layer in (Conv3x3, BatchNorm, GELU, MaxPool)]
    assert network.met == {*zip(kinds, ours, strict=True), *((kind, kind.forward) for kind in kinds)}
    assert not any("forward" in vars(layer) for layer in network.maps)


def test_a_gradient_of_a_gradient_says_how_to_have_it(tmp_path, monkeypatch):
    recipe = onespike.load_recipe("digits", {"train.epochs": 1, "train.warmup_epochs": 0, "train.batch_size": 20})
    given = {"data": digits_of(60), "callbacks": [GradientPenalty()], "quiet": True}
    network = Recomputing()
    if has_kernels(torch.ones(2, 8, 8, 8).contiguous(memory_format=torch.channels_last)):
        with pytest.raises(onespike.OnespikeError, match="ONESPIKE_KERNELS=0"):
            onespike.train(recipe, tmp_path / "refused", model=network, **given)
        assert "forward" not in vars(network.maps[0])
    monkeypatch.setenv("ONESPIKE_KERNELS", "0")
    kernels_for.cache_clear()
    try:
        onespike.train(recipe, tmp_path / "run", model=Recomputing(), **given)
    finally:
        kernels_for.cache_clear()
