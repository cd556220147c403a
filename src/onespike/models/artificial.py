"""What artificial networks share: their activations, and what can be chosen about them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from onespike.errors import OnespikeError
from onespike.models.registry import ModelConfig
from onespike.neurons import QCFS

#: Activations by name: what makes one out of the number of levels.
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda _: nn.ReLU(),
    "relu6": lambda _: nn.ReLU6(),
    "gelu": lambda _: nn.GELU(),
    "silu": lambda _: nn.SiLU(),
    "qcfs": QCFS,
}


@dataclass(frozen=True)
class ArtificialConfig(ModelConfig):
    """What can be chosen about any artificial network.

    Attributes:
        activation: Its activations: "relu", "relu6", "gelu", "silu", or "qcfs", a clipped staircase with a learned
            threshold.
        levels: Steps of that staircase.
    """

    activation: Literal["relu", "relu6", "gelu", "silu", "qcfs"] = "relu"
    levels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels < 1:
            raise OnespikeError(f"levels: expected at least 1, got {self.levels}")

    def make_activation(self, inplace: bool = False) -> nn.Module:  # noqa: ARG002 - how timm's networks ask for one
        """Make one activation."""
        return ACTIVATIONS[self.activation](self.levels)


@dataclass(frozen=True)
class BranchedConfig(ArtificialConfig):
    """What can be chosen about an artificial network of residual branches.

    Attributes:
        branches: What the layers of a block read: "real", the residual stream, or "spiking", an activation of it, so
            that they read spikes after conversion; attention then has no softmax.
    """

    branches: Literal["real", "spiking"] = "real"
