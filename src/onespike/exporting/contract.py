"""The input contract: what a network reads and what its answers mean. It is written with every format."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from onespike._version import __version__
from onespike.data.augment import BatchAugment
from onespike.errors import OnespikeError
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
        stated: Whether mean and std say how its images were normalised; False if they came as floats, and nobody said.
    """

    model: str
    data: str
    classes: tuple[str, ...]
    in_channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: str
    pixels: bool
    stated: bool = True

    @classmethod
    def of(cls, card: ModelCard, weights: str, pixels: bool) -> "Contract":
        """The contract of a trained model."""
        shape = card.in_channels, card.image_size, card.mean, card.std
        return cls(card.name, card.data, card.classes, *shape, weights, pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image: C, H, W."""
        return self.in_channels, self.image_size, self.image_size

    def normalise(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Turn raw images (B, H, W, C), uint8, into (B, C, H, W); floats are taken as they are."""
        return BatchAugment(self.mean, self.std, dtype=dtype)(images).contiguous()

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
        if not values.pop("stated"):
            values |= {"mean": None, "std": None}
        return {"onespike": __version__, "input": reads or self.reads, **values}


def expect_pixels(images: Tensor, name: str) -> None:
    """Raise `OnespikeError` unless images are raw pixels, for a target that reads nothing else."""
    if images.dtype != torch.uint8:
        expected = "expected raw test images, uint8 (B, H, W, C), which this target reads"
        raise OnespikeError(f"{name}: {expected}, got {str(images.dtype).removeprefix('torch.')}")
