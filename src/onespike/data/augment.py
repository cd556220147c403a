"""Augmentation of whole batches on the device: crop, flip and normalise, each image with draws of its own."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class BatchAugment:
    """Turn a batch of raw images into what a network reads.

    Args:
        mean: Channel-wise mean, in units of the full range 0..1.
        std: Channel-wise standard deviation, likewise.
        padding: Zeros (black) added on each side before the random crop, in pixels; 0 does not crop.
        flip: Probability of a horizontal flip, 0..1.
        device: Where images go.
        dtype: Floating-point type of the result.
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
        """Draw where each image is cropped and whether it is flipped.

        Args:
            count: Number of images.
            generator: A generator on the CPU, so that every device and every process sees the same draws.

        Returns:
            (count, 3) integers: offset down, offset right, flipped (0 or 1).
        """
        offsets = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=generator)
        flipped = torch.rand(count, 1, generator=generator) < self.flip
        return torch.cat([offsets, flipped], 1)

    def __call__(self, images: Tensor, draws: Tensor | None = None) -> Tensor:
        """Crop, flip and normalise.

        Args:
            images: Raw images, (B, H, W, C), uint8; floats, (B, C, H, W), are taken as they are.
            draws: What `draw` returned for these images; None (evaluation) only normalises.

        Returns:
            (B, C, H, W) in channels-last memory.
        """
        if images.is_floating_point():
            floats = images.to(self._scale.dtype, memory_format=torch.channels_last)  # some devices know no float64
            return floats.to(self.device, non_blocking=True)
        images = images.to(self.device, non_blocking=True)
        if draws is not None and (self.padding or self.flip):
            images = _crop_and_flip(images, draws.to(self.device, non_blocking=True), self.padding)
        normalised = images.to(self._scale.dtype).mul_(self._scale).add_(self._shift)
        return normalised.movedim(-1, 1)


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
