"""Augmentation: of whole batches on the device, or of single images through timm; each image has draws of its own."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onespike.data.config import DataConfig
from onespike.data.sets import ImageSet
from onespike.data.sources.image import as_picture
from onespike.errors import OnespikeError, reason

#: How often a policy, which draws operations, is applied before training, to see whether it can be.
TRIALS = 50


class BatchAugment:
    """Turn a batch of raw images into what a network reads: crop, flip and normalise.

    `mean` and `std` of each channel are in units of the full range, 0..1. `padding` is the number of pixels added on
    each side before the random crop (0 does not crop): black ones or, with `reflect`, a reflection of the image. `flip`
    is a probability.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        padding: int = 0,
        flip: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        reflect: bool = False,
    ) -> None:
        self.padding, self.flip, self.device, self.reflect = padding, flip, device, reflect
        self._scale, self._shift = (one.to(device, dtype) for one in scale_and_shift(mean, std))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, 3) integers: offset down, offset right, flipped (0 or 1); on the CPU, alike for every device."""
        offsets = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=generator)
        flipped = torch.rand(count, 1, generator=generator) < self.flip
        return torch.cat([offsets, flipped], 1)

    def __call__(self, images: Tensor, draws: Tensor | None = None) -> Tensor:
        """Crop, flip and normalise raw images, (B, H, W, C) uint8, to (B, C, H, W) in channels-last memory.

        Frames of events, (B, H, W, T, C), become (T, B, C, H, W); all frames are cropped and flipped alike.

        Floats, (B, C, H, W), are taken as they are. Without `draws`, as in evaluation, images are only normalised.
        """
        if images.is_floating_point():
            floats = images.to(self._scale.dtype, memory_format=torch.channels_last)  # some devices know no float64
            return floats.to(self.device)
        images = images.to(self.device)
        if draws is not None and (self.padding or self.flip):
            images = _crop_and_flip(images, draws.to(self.device), self.padding, self.reflect)
        floats = images.to(self._scale.dtype).mul_(self._scale).add_(self._shift)
        return floats.movedim(-1, 1) if floats.ndim == 4 else floats.movedim(3, 0).contiguous().movedim(-1, 2)


def scale_and_shift(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """(x / 255 - mean) / std as one multiplication and one addition, for each channel, in float64."""
    deviation = torch.tensor(std, dtype=torch.float64)
    return 1 / (255 * deviation), -torch.tensor(mean, dtype=torch.float64) / deviation


def are_as_given(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether images are floats that their owner has normalised: a data set of these has mean 0 and deviation 1."""
    return set(mean) == {0.0} and set(std) == {1.0}


def _crop_and_flip(images: Tensor, draws: Tensor, padding: int, reflect: bool) -> Tensor:
    """Gather every output pixel from the padded images; pixels are whole rows of C bytes, so one gather does it all."""
    shape, images = images.shape, images.flatten(3)
    count, height, width, channels = images.shape
    padded = images if reflect else F.pad(images, (0, 0, padding, padding, padding, padding))
    padded_height, padded_width = padded.shape[1:3]
    down, right, flipped = draws[:, :, None].unbind(1)  # (B, 1) each
    row = torch.arange(height, device=images.device) + down  # (B, H)
    across = torch.arange(width, device=images.device)
    column = torch.where(flipped == 1, width - 1 - across, across) + right  # (B, W)
    if reflect:  # the border is not made: its pixels are read where they come from
        row, column = _reflected(row - padding, height), _reflected(column - padding, width)
    image = torch.arange(count, device=images.device)[:, None, None] * padded_height
    index = (image + row[:, :, None]) * padded_width + column[:, None, :]  # (B, H, W)
    return padded.view(-1, channels).index_select(0, index.flatten()).view(shape)


def _reflected(places: Tensor, length: int) -> Tensor:
    """Fold places outside 0..length-1, by less than the length, back at the first or the last one: 2 1 [0 1 2] 1 0."""
    return length - 1 - (length - 1 - places.abs()).abs()


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """Mirror those of (B, C, H, W) images for which `which`, (B,) bool, is true."""
    return torch.where(which[:, None, None, None], images.flip(-1), images)


def cut_out(images: Tensor, centres: Tensor, side: int) -> Tensor:
    """Set a square of each normalised image, (B, C, H, W), to the mean, 0, in place (DeVries & Taylor 2017).

    The square has `side` pixels a side and begins `side // 2` before its centre; what lies outside the image is left
    out. `centres` are (B, 2) integers, down and right.
    """
    first = centres - side // 2
    axes = zip(first[:, :, None].unbind(1), images.shape[-2:], strict=True)
    down, right = ((place := torch.arange(n, device=images.device) - at).ge(0) & place.lt(side) for at, n in axes)
    return images.masked_fill_((down[:, :, None] & right[:, None, :])[:, None], 0)


class PolicyAugment:
    """AutoAugment, RandAugment, AugMix and erasing, by draws that depend on a seed alone, not on the worker."""

    def __init__(self, images: ImageSet, config: DataConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        from timm.data.random_erasing import RandomErasing
        from torchvision.transforms import v2

        self.images, self.splits = images, max(1, config.augmix_splits)
        fill = {"zero": "constant", "reflect": "reflect"}[config.crop_fill]
        crop = v2.RandomCrop(images.shape[1], padding=config.crop_padding, padding_mode=fill)
        # Alternating flips depend on the epoch, which is not known here: the loader does them.
        self.crop = v2.Compose([crop, v2.RandomHorizontalFlip(0.0 if config.alternate_flip else config.flip)])
        try:  # what cannot be made or applied is refused before a run begins
            self.policy = policy = _policy(config, mean)
            if policy is not None:
                with seeded(0):
                    for _ in range(TRIALS):
                        policy(as_picture(images[0][0]))
        except (AssertionError, KeyError, ValueError) as error:  # such as more operations to draw than there are
            expected = "expected such as 'original', 'rand-m9-mstd0.5' or 'augmix-m3-w3'"
            state = f"timm cannot apply {config.auto_augment!r}: {reason(error)}"
            raise OnespikeError(f"data.auto_augment: {state}; {expected}") from error
        self.finish = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
        self.erase = RandomErasing(config.random_erasing, mode="pixel", device="cpu") if config.random_erasing else None

    def __call__(self, position: int, seed: int) -> tuple[Tensor, int]:
        """Make (splits, C, H, W), normalised float32, of an image, and its label; splits share one crop and flip."""
        seed_everything(seed)
        raw, label = self.images[position]
        cropped = self.crop(as_picture(raw))
        clean = [cropped] if self.splits > 1 else []  # with AugMix: the anchor of the Jensen-Shannon loss
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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and PyTorch (on the CPU), and restore their states afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - transforms draw from it
    with torch.random.fork_rng(devices=()):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.default_generator.manual_seed(seed)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _policy(config: DataConfig, mean: Sequence[float]) -> Callable[[Any], Any] | None:
    from timm.data import auto_augment as timm

    name = config.auto_augment or ("augmix-m3-w3" if config.augmix_splits else "")
    if not name:
        return None
    fill = tuple(round(255 * m) for m in mean)
    options = {"translate_const": 10, "img_mean": fill if len(fill) > 1 else fill[0]}
    makers = {"rand": timm.rand_augment_transform, "augmix": timm.augment_and_mix_transform}
    make = next((makers[start] for start in makers if name.startswith(start)), timm.auto_augment_transform)
    return make(name, options)
