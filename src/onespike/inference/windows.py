"""Windows of maps that lie as (B, L, L, C): what `onespike.functional.window` does, on bytes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from onespike.functional import window_side


class Windows:
    """How maps of one side are cut into windows (V, B, M, M, C), and put together again.

    Args:
        size: Side L of the map; an odd side that is cut is padded.
        kind: A name in `onespike.functional.WINDOW_KINDS`.
    """

    def __init__(self, size: int, kind: str) -> None:
        self.size, self.side = size, window_side(size, kind)
        self.padded = size if kind == "whole" else size + size % 2
        self.step = max(self.padded - self.side, 1)  # pixels from one window to the next
        starts = sorted({0, self.padded - self.side})
        self.corners = [(row, column) for row in starts for column in starts]
        self.overlap = kind == "dilated"
        cover = torch.zeros(self.padded, self.padded, 1, dtype=torch.uint8)
        for corner in self._corners(cover[None]):
            corner += 1
        self._quarters = 4 // cover

    def cut(self, x: Tensor) -> Tensor:
        """Cut (B, L, L, C) into windows (V, B, M, M, C)."""
        more = self.padded - self.size
        if more:
            x = F.pad(x, (0, 0, 0, more, 0, more))
        views = x.unfold(1, self.side, self.step).unfold(2, self.side, self.step)  # (B, rows, columns, C, M, M)
        return views.permute(1, 2, 0, 4, 5, 3).flatten(0, 1).contiguous()

    def union(self, spikes: Tensor) -> Tensor:
        """Put windows of spikes into one map; where they overlap, one spike is enough."""
        if not self.overlap:
            count = self.padded // self.side  # of windows side by side
            joined = spikes.unflatten(0, (count, count)).permute(2, 0, 3, 1, 4, 5).flatten(3, 4).flatten(1, 2)
            return joined[:, : self.size, : self.size].contiguous()
        joined = spikes.new_zeros(spikes.shape[1], self.padded, self.padded, spikes.shape[-1])
        for corner, window in zip(self._corners(joined), spikes.unbind(), strict=True):
            corner |= window
        return joined[:, : self.size, : self.size]

    def quarters(self, windows: Tensor) -> Tensor:
        """Put windows into one map; where they overlap, their mean counts: four times that mean, exact on bytes."""
        total = windows.new_zeros(windows.shape[1], self.padded, self.padded, windows.shape[-1])
        for corner, window in zip(self._corners(total), windows.unbind(), strict=True):
            corner += window
        return (total * self._quarters)[:, : self.size, : self.size].contiguous()

    def _corners(self, x: Tensor) -> list[Tensor]:
        return [x[:, row : row + self.side, column : column + self.side] for row, column in self.corners]
