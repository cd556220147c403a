"""Linear layers over the channels of a map, and what makes the normalisation behind them."""

from collections.abc import Callable

from torch import Tensor, nn

#: What makes the normalisation behind a weight layer, out of its channels.
Norm = Callable[[int], nn.Module]


class ChannelLinear(nn.Linear):
    """A linear layer over the channels of a map, pixel by pixel: a 1x1 convolution with a linear layer's weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W); on channels-last maps, to such maps, and without a copy."""
        return super().forward(x.movedim(-3, -1)).movedim(-1, -3)
