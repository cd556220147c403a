"""Progressive resizing: training begins with small images, which cost less, and ends with whole ones."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from onespike.errors import OnespikeError
from onespike.training.config import TrainConfig

#: The share of the training in which images grow; for the rest they have their full size.
GROWTH = 0.75


def sizes(config: TrainConfig, image_size: int) -> list[int]:
    """All image sizes of a training, in pixels a side, in order; the last is `image_size`, the data's own.

    They are multiples of the greatest common divisor of the first and the last size. So a network that takes multiples
    of some number, and these two among them, takes all of them. A first size that is not below the last is an
    `OnespikeError`.
    """
    if config.start_size >= image_size:
        expected = f"expected less than the {image_size} pixels of the images, or 0"
        raise OnespikeError(f"train.start_size: {expected}, got {config.start_size}; change --train.start_size")
    start = config.start_size or image_size
    return [*range(start, image_size, math.gcd(start, image_size)), image_size]


def size_at(config: TrainConfig, image_size: int, number: int, steps: int) -> int:
    """Side in pixels of the images of step `number` of `steps`, over all epochs, counted from 0.

    The sizes before the last share the steps of the growth equally.
    """
    each = sizes(config, image_size)
    return each[min(int(number * (len(each) - 1) / (GROWTH * steps)), len(each) - 1)]


def resize(images: Tensor, size: int) -> Tensor:
    """Resize (…, C, H, W) to (…, C, size, size), channels-last: bilinear, and antialiased, as the images shrink."""
    if images.shape[-1] == size:
        return images
    resized = F.interpolate(images.flatten(0, -4), size=(size, size), mode="bilinear", antialias=True)
    resized = resized.contiguous(memory_format=torch.channels_last)
    return resized if images.ndim == 4 else resized.unflatten(0, images.shape[:-3])
