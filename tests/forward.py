"""A network for a test that needs a forward pass of its own, and a few steps of training for any."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer


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


def losses_of(
    network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, optimizer: Optimizer, steps: int
) -> list[float]:
    """Train for some steps on one batch; returns the loss before each."""
    losses = []
    for _ in range(steps):
        loss = cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
