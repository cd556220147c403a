"""A factor and a shift per channel."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Initial factor at the end of residual branches: ResMLP's LayerScale for up to 18 layers.
BRANCH_SCALE = 0.1


class Affine(nn.Module):
    """A factor, which starts from `scale`, and a shift per channel: ResMLP's stand-in for normalisation."""

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, …) to the same shape."""
        shape = (-1, *[1] * (x.ndim - 2))
        return x * self.scale.view(shape) + self.shift.view(shape)

    @classmethod
    def of(cls, norm: _BatchNorm) -> "Affine":
        """Build the affine map that a batch norm with running statistics computes in evaluation mode."""
        affine = cls(norm.num_features).to(norm.running_mean)  # in its dtype, on its device
        with torch.no_grad():
            # Batch norm of the points 0 and 1 gives both; (B, C) = (2, C).
            points = torch.stack([affine.shift, affine.scale])
            zero, one = F.batch_norm(points, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            affine.scale.copy_(one - zero)
            affine.shift.copy_(zero)
        return affine
