"""A factor and a shift per channel."""

import torch
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
        affine = cls(norm.num_features)
        affine.scale, affine.shift = map(nn.Parameter, gain_and_shift(norm))  # in its dtype, on its device
        return affine


def gain_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """What a batch norm with running statistics computes in evaluation mode, as gain * x + shift, (C,) each."""
    assert norm.running_mean is not None and norm.running_var is not None  # noqa: PT018 - both or neither
    gain = (1 if norm.weight is None else norm.weight.detach()) / (norm.running_var + norm.eps).sqrt()
    return gain, (0 if norm.bias is None else norm.bias.detach()) - norm.running_mean * gain
