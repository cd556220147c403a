"""The input contract: what a network reads and what its answers mean. It is written with every format."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from onespike._version import __version__
from onespike.configs import convert
from onespike.data.augment import BatchAugment, are_as_given
from onespike.data.sources import expect_class_names
from onespike.errors import OnespikeError, shown
from onespike.neurons.copies import copied
from onespike.neurons.watch import logits_of, reset_state
from onespike.training.checkpoint import ModelCard


@dataclass(frozen=True)
class Contract:
    """What a network reads, and what its logits mean.

    Attributes:
        model: Name of the network.
        data: The data set that it was trained on; "" if that is not known.
        classes: Names, in the order of the logits.
        in_channels: Channels of the images.
        image_size: Side of the images, in pixels.
        mean: Channel-wise mean for normalisation, 0..1.
        std: Channel-wise standard deviation, likewise.
        weights: "fp32", or "int8": rounded to 8 bits.
        pixels: Whether it reads pixels, 0 to 255, and normalises them itself.
        stated: Whether mean and std are known; False if images came as floats, without both of them.
    """

    model: str
    data: str
    classes: tuple[str, ...]
    in_channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str = "fp32"
    pixels: bool = False
    stated: bool = True

    @classmethod
    def of(cls, card: ModelCard, weights: str = "fp32", pixels: bool = False) -> "Contract":
        """The contract of a trained model."""
        shape = card.in_channels, card.image_size, card.mean, card.std
        return cls(card.name, card.data, card.classes, *shape, weights, pixels, not are_as_given(card.mean, card.std))

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image: C, H, W."""
        return self.in_channels, self.image_size, self.image_size

    def normalise(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Turn raw images (B, H, W, C), uint8, into (B, C, H, W); floats are taken as they are."""
        return BatchAugment(self.mean, self.std, dtype=dtype)(images).clone(memory_format=torch.contiguous_format)

    @property
    def reads(self) -> str:
        """The network's input, in words."""
        if self.pixels:
            return "uint8 (B, C, H, W)"
        how = "(pixel / 255 - mean) / std" if self.stated else "normalised as the test images were"
        return f"float32 (B, C, H, W), {how}"

    def to_json(self, reads: str | None = None) -> dict[str, Any]:
        """The contract for JSON, to be kept with the weights; `reads` is the input in other words."""
        values = asdict(self)
        if not (values.pop("stated") or self.pixels):
            values |= {"mean": None, "std": None}
        return {"onespike": __version__, "input": reads or self.reads, **values}


def contract_of(
    network: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    classes: Sequence[str],
) -> Contract:
    """The contract of a network that is no run, from its test images; the arguments are those of `export`."""
    channels, side, _ = shape_of(images, labels)
    means: tuple[float, ...] = convert([0.0] * channels if mean is None else mean, tuple[float, ...], "mean")
    stds: tuple[float, ...] = convert([1.0] * channels if std is None else std, tuple[float, ...], "std")
    of_bytes = all(0 <= one <= 1 for one in means) and all(1e-9 <= one <= 1 for one in stds)
    if not len(means) == len(stds) == channels or not of_bytes:
        expected = f"expected {channels} shares of the full range each, 0 to 1, std from 1e-9 on"
        raise OnespikeError(f"mean and std: {expected}, got {means}, {stds}; divide those of 0 to 255 by 255")
    if images.dtype != torch.uint8 and (mean is None) != (std is None):
        raise OnespikeError("mean and std: floats are normalised already; give both, to be written down, or none")
    stated = images.dtype == torch.uint8 or not (mean is None or std is None)
    contract = Contract(type(network).__name__, "", (), channels, side, means, stds, stated=stated)
    probe = copied(network)  # a copy, since it may keep a state
    reset_state(probe)
    count = logits_of(probe, contract.normalise(images[:2])).shape[-1]
    if isinstance(classes, Mapping | Set) or not isinstance(classes, Iterable):  # which may be in another order
        raise OnespikeError(f"classes: expected a list of their names, got {shown(classes)}")
    names = convert(tuple(classes), tuple[str, ...], "classes") or tuple(map(str, range(count)))
    if len(names) != count:
        raise OnespikeError(f"classes: expected {count} names, got {len(names)}")
    expect_class_names(names, "classes")
    return replace(contract, classes=names)


def shape_of(images: Any, labels: Any) -> tuple[int, int, int]:
    """The shape (C, H, W) of test images; an `OnespikeError` if they are no images, or labels do not fit them."""
    found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.numel():
        raise OnespikeError(f"images: expected (N, C, H, W), or uint8 (N, H, W, C), got {found}")
    raw = images.dtype == torch.uint8
    if images.is_meta or images.layout != torch.strided:
        raise OnespikeError("images: expected a dense tensor")
    whole = isinstance(labels, Tensor) and not (labels.is_meta or labels.dtype.is_floating_point or labels.is_complex())
    if labels is not None and not (whole and labels.shape == images.shape[:1]):
        given = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else f"a {type(labels).__name__}"
        expected = f"expected a tensor of whole numbers ({len(images)},), a class for each image"
        raise OnespikeError(f"labels: {expected}, got {given}")
    if not raw and not (images.is_floating_point() and images.isfinite().all()):
        raise OnespikeError("images: expected uint8, or floats that are finite numbers")
    channels, height, width = images.shape[-1:] + images.shape[1:3] if raw else images.shape[1:]
    if height != width:
        raise OnespikeError(f"images: expected square ones, got {height}x{width}")
    return channels, height, width


def expect_pixels(images: Tensor, name: str) -> None:
    """Raise `OnespikeError` unless images are raw pixels, for what reads nothing else."""
    if images.dtype != torch.uint8:
        found = str(images.dtype).removeprefix("torch.")
        raise OnespikeError(f"{name}: expected raw test images, uint8 (N, H, W, C), all that it reads, got {found}")
