"""PyTorch's layers with the same results, faster or with less memory in training."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from onespike.functional import batch_norm, conv3x3, gelu, has_kernels, max_pool


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with padding 1; its weights' gradient is faster where the processor has matrix tiles."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, 3, stride, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H', W')."""
        return conv3x3(x, self.weight, self.bias) if _is_fast(self) else nn.Conv2d.forward(self, x)


def _is_fast(layer: nn.Conv2d) -> bool:
    return layer.training and layer.stride == (1, 1)


#: From so many values on, our batch norm is faster than PyTorch's on a CPU, which has none in fp16: speed-notes.md.
MANY_VALUES = {torch.bfloat16: 1 << 20, torch.float32: 1 << 22, torch.float64: 1 << 22}


class BatchNorm(nn.BatchNorm2d):
    """Batch norm; in training it is faster where `has_kernels`, and values are many."""

    def forward(self, currents: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        many = currents.numel() >= MANY_VALUES.get(currents.dtype, 0)
        if self.training and many and has_kernels(currents):
            return batch_norm(currents, self)
        return nn.BatchNorm2d.forward(self, currents)


class MaxPool(nn.MaxPool2d):
    """Max pooling over 2x2 pixels; in training it saves one byte for each window, where possible."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H // 2, W // 2)."""
        return max_pool(x) if self.training else nn.MaxPool2d.forward(self, x)


class GELU(nn.GELU):
    """GELU; in training it is faster where values are bf16, on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Map values of any shape."""
        return gelu(x) if self.training and self.approximate == "none" else nn.GELU.forward(self, x)


class Layers(nn.Sequential):
    """Layers in sequence, see `through`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers."""
        return through(self, x)


def through(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Apply layers; in training, fuse a 3x3 convolution with the max pooling after it unless they are watched."""
    left = deque(layers)
    while left:
        layer = left.popleft()
        behind = left[0] if left else None
        if type(layer) is Conv3x3 and _is_fast(layer) and type(behind) is MaxPool and not is_watched(layer, behind):
            x = conv3x3(x, layer.weight, layer.bias, pool=True)
            left.popleft()
        else:
            x = layer(x)
    return x


def is_watched(*layers: nn.Module) -> bool:
    """Whether a layer has hooks on its inputs, its outputs, or their gradients."""
    kinds = "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"
    return any(getattr(layer, kind) for layer in layers for kind in kinds)


#: Our forward in place of that of PyTorch's layers, and the settings that it needs.
_OURS: dict[type[nn.Module], tuple[Callable[..., Tensor], dict[str, tuple[Any, ...]]]] = {
    nn.Conv2d: (
        Conv3x3.forward,
        {
            "kernel_size": ((3, 3),),
            "stride": ((1, 1),),
            "padding": ((1, 1),),
            "dilation": ((1, 1),),
            "groups": (1,),
            "padding_mode": ("zeros",),
        },
    ),
    nn.BatchNorm2d: (BatchNorm.forward, {}),
    nn.MaxPool2d: (
        MaxPool.forward,
        {
            "kernel_size": (2, (2, 2)),
            "stride": (2, (2, 2)),
            "padding": (0, (0, 0)),
            "dilation": (1, (1, 1)),
            "return_indices": (False,),
            "ceil_mode": (False,),
        },
    ),
    nn.GELU: (GELU.forward, {}),
}


@contextmanager
def ours_in(network: nn.Module) -> Iterator[None]:
    """Context in which PyTorch's layers in a network compute as ours do.

    They keep their class, by which a network may tell them apart. Subclasses of them stay as they are, and so do layers
    that have a method of their own. Hold it over forward and backward: a network that recomputes its forward in
    backward has to find the same layers.
    """
    theirs = [layer for layer in network.modules() if _fits(layer)]
    for layer in theirs:
        forward, _ = _OURS[type(layer)]
        layer.forward = MethodType(forward, layer)
    try:
        yield
    finally:
        for layer in theirs:
            vars(layer).pop("forward", None)


def _fits(layer: nn.Module) -> bool:
    _, needed = _OURS.get(type(layer), (None, None))
    if needed is None or any(callable(getattr(type(layer), name, None)) for name in vars(layer)):
        return False
    return all(getattr(layer, name) in values for name, values in needed.items())
