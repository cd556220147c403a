"""The dtype that layers compute in."""

import torch
from torch import Tensor


def computed_in(x: Tensor) -> torch.dtype:
    """The dtype in which PyTorch's layers take a tensor: autocast's, where it is on; whole numbers and doubles stay."""
    kind, casts = x.device.type, x.is_floating_point() and x.dtype != torch.float64
    if casts and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype
