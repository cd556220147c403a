"""A network for a test that needs a forward pass of its own."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Forward(nn.Module):
    """A function of itself and its input; its modules, weights and buffers come by name.

    A plain tensor of floats becomes a parameter.
    """

    def __init__(self, function: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            own = isinstance(part, Tensor) and part.is_floating_point() and not isinstance(part, nn.Buffer)
            setattr(self, name, nn.Parameter(part) if own else part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)
