"""Augmentation: of whole batches on the device, or of single images through timm; each image has draws of its own."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onespike.data.config import DataConfig
from onespike.data.sets import ImageSet
from onespike.errors import OnespikeError


class BatchAugment:
    """Turn a batch of raw images into what a network reads: crop, flip and normalise.

    Mean and standard deviation of each channel are in units of the full range 0..1; `padding` is of zeros (black), in
    pixels on each side before the random crop (0 does not crop); `flip` is a probability.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        padding: int = 0,
        flip: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.padding, self.flip, self.device = padding, flip, device
        # (x / 255 - mean) / std as one multiplication and one addition.
        std_ = torch.tensor(std, dtype=torch.float64)
        self._scale = (1 / (255 * std_)).to(device, dtype)
        self._shift = (-torch.tensor(mean, dtype=torch.float64) / std_).to(device, dtype)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, 3) integers: offset down, offset right, flipped (0 or 1); on the CPU, alike for every device."""
        offsets = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=generator)
        flipped = torch.rand(count, 1, generator=generator) < self.flip
        return torch.cat([offsets, flipped], 1)

    def __call__(self, images: Tensor, draws: Tensor | None = None) -> Tensor:
        """Crop, flip and normalise raw images, (B, H, W, C) uint8, to (B, C, H, W) in channels-last memory.

        Floats, (B, C, H, W), are taken as they are; without what `draw` returned (evaluation) the rest is normalised.
        """
        if images.is_floating_point():
            floats = images.to(self._scale.dtype, memory_format=torch.channels_last)  # some devices know no float64
            return floats.to(self.device, non_blocking=True)
        images = images.to(self.device, non_blocking=True)
        if draws is not None and (self.padding or self.flip):
            images = _crop_and_flip(images, draws.to(self.device, non_blocking=True), self.padding)
        return images.to(self._scale.dtype).mul_(self._scale).add_(self._shift).movedim(-1, 1)


def _crop_and_flip(images: Tensor, draws: Tensor, padding: int) -> Tensor:
    """Gather every output pixel from the padded images; pixels are whole rows of C bytes, so one gather does it all."""
    count, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    padded_height, padded_width = padded.shape[1:3]
    down, right, flipped = draws[:, :, None].unbind(1)  # (B, 1) each
    row = torch.arange(height, device=images.device) + down  # (B, H)
    across = torch.arange(width, device=images.device)
    column = torch.where(flipped == 1, width - 1 - across, across) + right  # (B, W)
    image = torch.arange(count, device=images.device)[:, None, None] * padded_height
    index = (image + row[:, :, None]) * padded_width + column[:, None, :]  # (B, H, W)
    return padded.view(-1, channels).index_select(0, index.flatten()).view(count, height, width, channels)


class PolicyAugment:
    """AutoAugment, RandAugment, AugMix and erasing, by draws that depend on a seed alone, not on the worker."""

    def __init__(self, images: ImageSet, config: DataConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        from timm.data.random_erasing import RandomErasing
        from torchvision.transforms import v2

        self.images, self.splits = images, max(1, config.augmix_splits)
        crop = v2.RandomCrop(images.shape[1], padding=config.crop_padding or None)
        self.crop = v2.Compose([crop, v2.RandomHorizontalFlip(config.flip)])
        self.policy = _policy(config, mean)
        self.finish = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
        self.erase = RandomErasing(config.random_erasing, mode="pixel", device="cpu") if config.random_erasing else None

    def __call__(self, position: int, seed: int) -> tuple[Tensor, int]:
        """Make (splits, C, H, W), normalised float32, of an image, and its label; splits share one crop and flip."""
        from PIL import Image

        seed_everything(seed)
        raw, label = self.images[position]
        cropped = self.crop(Image.fromarray(raw.squeeze(-1) if raw.shape[-1] == 1 else raw))
        clean = [cropped] if self.splits > 1 else []  # of AugMix: the anchor of the Jensen-Shannon loss
        changed = [self.policy(cropped) if self.policy else cropped for _ in range(self.splits - len(clean))]
        made = torch.stack([self.finish(view) for view in clean + changed])
        if self.erase:
            made[len(clean) :] = self.erase(made[len(clean) :])
        return made, label


def seed_everything(seed: int) -> None:
    """Seed the three global generators that timm and torchvision draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - timm draws from numpy's global generator
    torch.manual_seed(seed)


def _policy(config: DataConfig, mean: Sequence[float]) -> Callable[[Any], Any] | None:
    from timm.data import auto_augment as timm

    name = config.auto_augment or ("augmix-m3-w3" if config.augmix_splits else "")
    if not name:
        return None
    fill = tuple(round(255 * m) for m in mean)
    options = {"translate_const": 10, "img_mean": fill if len(fill) > 1 else fill[0]}
    makers = {"rand": timm.rand_augment_transform, "augmix": timm.augment_and_mix_transform}
    make = next((makers[start] for start in makers if name.startswith(start)), timm.auto_augment_transform)
    try:
        return make(name, options)
    except (AssertionError, KeyError, ValueError) as error:
        expected = "expected such as 'original', 'rand-m9-mstd0.5' or 'augmix-m3-w3'"
        raise OnespikeError(
            f"data.auto_augment: timm does not know the policy {name!r} ({error}); {expected}"
        ) from None
