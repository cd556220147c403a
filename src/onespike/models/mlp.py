"""The channel MLP of a block, and how it spares memory."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from onespike.models.config import ModelConfig
from onespike.units.base import Firing
from onespike.units.channel import ChannelLinear


class ChannelMlp(nn.Sequential):
    """(Fire,) linear, GELU or fire, linear: pixel by pixel, a normalisation behind each linear layer.

    In training the GELU's output, which is wide, is not kept for the second linear layer's gradient: it is computed
    again from the GELU's input, which is kept anyway.

    Args:
        config: The architecture.
        channels: Channels in and out.
        norm: Makes the normalisation out of a number of channels.
    """

    def __init__(self, config: ModelConfig, channels: int, norm: Callable[[int], nn.Module]) -> None:
        hidden, spiking = config.mlp_ratio * channels, config.mlp_activation == "spiking"
        super().__init__(
            Firing(channels, config) if spiking else nn.Identity(),
            ChannelLinear(channels, hidden),
            norm(hidden),
            Firing(hidden, config) if spiking else nn.GELU(),
            ChannelLinear(hidden, channels),
            norm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, L, L) to (B, C, L, L)."""
        first, linear1, norm1, between, linear2, norm2 = self
        before = norm1(linear1(first(x)))
        after = between(before)
        if not isinstance(between, nn.GELU) or torch.compiler.is_compiling():
            return norm2(linear2(after))
        with _recomputed(after, before, between):
            return norm2(linear2(after))


def _recomputed(output: Tensor, source: Tensor, function: nn.GELU) -> torch.autograd.graph.saved_tensors_hooks:
    """While it is open, autograd keeps `source` wherever it would keep `output` = function(source), or a view of it."""
    place = output.data_ptr()

    def pack(saved: Tensor) -> Tensor | tuple[torch.Size, tuple[int, ...]]:
        return (saved.shape, saved.stride()) if saved.data_ptr() == place else saved

    def unpack(kept: Tensor | tuple[torch.Size, tuple[int, ...]]) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        return function(source.detach()).as_strided(*kept)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
