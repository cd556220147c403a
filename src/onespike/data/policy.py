"""Augmentation of single images through timm, in worker processes: AutoAugment, RandAugment, AugMix, erasing."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from onespike.data.config import DataConfig
from onespike.data.sets import PixelSet
from onespike.errors import OnespikeError

#: One image of one epoch: (seed of its draws, its index in the image set).
Key = tuple[int, int]


class PolicyDataset(TorchDataset):
    """Images with a policy applied, each by draws that depend on its key alone, not on the worker that makes it.

    An item is (splits, C, H, W), normalised float32. All splits share one crop and flip; the first is otherwise clean
    when there are several (AugMix), so that the Jensen-Shannon loss has its anchor.

    Args:
        images: Where the images come from.
        config: Names the policies.
        mean: Channel-wise mean, 0..1.
        std: Channel-wise standard deviation, 0..1.

    Raises:
        OnespikeError: timm does not know the policy.
    """

    def __init__(self, images: PixelSet, config: DataConfig, mean: Sequence[float], std: Sequence[float]) -> None:
        from timm.data.random_erasing import RandomErasing
        from torchvision.transforms import v2

        self.images, self.splits = images, max(1, config.augmix_splits)
        size = images.shape[1]
        self.crop = v2.Compose(
            [
                v2.RandomCrop(size, padding=config.crop_padding or None),
                v2.RandomHorizontalFlip(config.flip),
            ]
        )
        self.policy = _policy(config, mean)
        self.finish = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
        self.erase = RandomErasing(config.random_erasing, mode="pixel", device="cpu") if config.random_erasing else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        """Make one image.

        Args:
            key: (seed, index).

        Returns:
            The splits of the image, (splits, C, H, W), and its label.
        """
        seed, index = key
        seed_everything(seed)
        from PIL import Image

        raw, label = self.images[index]
        cropped = self.crop(Image.fromarray(raw.squeeze(-1) if raw.shape[-1] == 1 else raw))
        first = self.policy(cropped) if self.policy and self.splits == 1 else cropped
        rest = [self.policy(cropped) if self.policy else cropped for _ in range(self.splits - 1)]
        made = torch.stack([self.finish(split) for split in [first, *rest]])
        if self.erase:
            made[-max(1, self.splits - 1) :] = self.erase(made[-max(1, self.splits - 1) :])
        return made, label


def seed_everything(seed: int) -> None:
    """Seed the three global generators that timm and torchvision draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - timm draws from numpy's global generator
    torch.manual_seed(seed)


def _policy(config: DataConfig, mean: Sequence[float]):  # type: ignore[no-untyped-def]
    from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform

    name = config.auto_augment
    fill = tuple(round(255 * m) for m in mean)
    options = {"translate_const": 10, "img_mean": fill if len(fill) > 1 else fill[0]}
    if not name:
        return augment_and_mix_transform("augmix-m3-w3", options) if config.augmix_splits else None
    make = (
        rand_augment_transform
        if name.startswith("rand")
        else augment_and_mix_transform
        if name.startswith("augmix")
        else auto_augment_transform
    )
    try:
        return make(name, options)
    except (AssertionError, KeyError, ValueError) as error:
        raise OnespikeError(
            f"data.auto_augment: timm does not know the policy {name!r} ({error}); expected such as 'original', "
            "'rand-m9-mstd0.5' or 'augmix-m3-w3'"
        ) from None
