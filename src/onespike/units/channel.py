"""Linear layers over the channels of a map, and the type of what makes the normalisation after them."""

from collections.abc import Callable

from torch import Tensor, nn

#: Makes the normalisation after a weight layer, given the number of channels.
Norm = Callable[[int], nn.Module]


class ChannelLinear(nn.Linear):
    """A linear layer over the channels of a map, pixel by pixel: a 1x1 convolution with a linear layer's weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C_out, H, W); channels-last maps stay channels-last, without a copy."""
        return super().forward(x.movedim(-3, -1)).movedim(-1, -3)
