"""Artificial networks by name, trained by the same recipes and then converted; and what conversion makes of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import timm
from torch import nn

from onespike.errors import OnespikeError, check_choices, unknown
from onespike.models.resmlp import resmlp
from onespike.models.vit import vit
from onespike.units.integrate import Staircase, expect_neurons

#: Registered artificial networks.
ANNS = ("resmlp12", "vit12", "resnet18")

#: Activations by name: what makes one out of the number of levels. timm's networks pass `inplace`.
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "relu": lambda _: nn.ReLU(),
    "relu6": lambda _: nn.ReLU6(),
    "gelu": lambda _: nn.GELU(),
    "silu": lambda _: nn.SiLU(),
    "qcfs": Staircase,
}


@dataclass(frozen=True)
class AnnConfig:
    """An artificial network, or the spiking network that conversion made of it.

    Attributes:
        name: The registered network: "resmlp12", "vit12" or "resnet18".
        activation: Its activations: "relu", "relu6", "gelu", "silu", or "qcfs", a clipped staircase with a learned
            threshold.
        levels: Steps of that staircase.
        branches: What the layers of a block read: "real", the residual stream, or "spiking", an activation of it, so
            that they read spikes after conversion; attention then has no softmax. For resmlp12 and vit12.
        neurons: "none" in an artificial network. In a converted one integrate-and-fire neurons stand for the
            activations and have a threshold per "layer" or "channel".
        shortcuts: What a residual addition reads in a converted network: "spikes", or the activation as it is, "real",
            where the same activation is weighed as spikes (as in membrane shortcuts, Hu et al. 2024).
        batch_norm: Whether a converted network has its batch norm "folded" into the layers before it, or "kept", for
            training on; it computes the same at test time.
        population: How many neurons stand for one activation in a converted network, their thresholds evenly spaced,
            1..16; at one time step only.
        surrogate: Stand-in for the derivative of firing, over the potential in units of one spike: "rectangle",
            "triangle", "sigmoid" or "arctan".
        time_steps: How often a converted network runs on one image; logits are averaged.
    """

    name: str = "resnet18"
    activation: Literal["relu", "relu6", "gelu", "silu", "qcfs"] = "relu"
    levels: int = 1
    branches: Literal["real", "spiking"] = "real"
    neurons: Literal["none", "layer", "channel"] = "none"
    shortcuts: Literal["spikes", "real"] = "spikes"
    batch_norm: Literal["folded", "kept"] = "folded"
    population: int = 1
    surrogate: Literal["rectangle", "triangle", "sigmoid", "arctan"] = "rectangle"
    time_steps: int = 1

    def __post_init__(self) -> None:
        check_choices(self)
        if self.name not in ANNS:
            raise unknown("model", self.name, ANNS)
        if self.levels < 1:
            raise OnespikeError(f"levels: expected at least 1, got {self.levels}")
        expect_neurons(self.time_steps, self.population)
        if self.neurons == "none" and max(self.time_steps, self.population) > 1:
            raise OnespikeError(
                "time_steps and population: an artificial network has none; convert it first: onespike convert RUN"
            )
        if self.name == "resnet18" and self.branches == "spiking":
            raise OnespikeError(
                "branches: expected real for resnet18, whose every layer but the first reads activations"
            )

    @property
    def draws(self) -> bool:
        """Whether the network draws random numbers at test time: never."""
        return False

    def build(self, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
        """Build the network, with fresh weights.

        Args:
            num_classes: Number of classes.
            in_channels: Channels of the images.
            image_size: Side of the images, in pixels.

        Returns:
            The network: images (B, C, H, W) to logits (B, K).

        Raises:
            OnespikeError: The image size does not suit the stages.
        """
        sides = {"resmlp12": 16, "vit12": 16, "resnet18": 1}
        if image_size % sides[self.name]:
            raise OnespikeError(
                f"image_size: {self.name} needs a multiple of {sides[self.name]} pixels, got {image_size}; resize with "
                "--data.image_size"
            )
        branches = self.branches == "spiking"
        match self.name:
            case "resmlp12":
                network: nn.Module = resmlp(self._activation, branches, num_classes, in_channels, image_size)
            case "vit12":
                network = vit(self._activation, branches, num_classes, in_channels, image_size)
            case _:
                network = self._resnet18(num_classes, in_channels)
        if self.neurons == "none":
            return network
        from onespike.conversion.spiking import ConversionConfig, spiking  # the room above: see pyproject.toml

        exchange = ConversionConfig(
            time_steps=self.time_steps,
            neurons=self.neurons,
            shortcuts=self.shortcuts,
            batch_norm=self.batch_norm,
            population=self.population,
            allow_real=True,
            surrogate=self.surrogate,
        )
        return spiking(network, exchange)

    def _activation(self, inplace: bool = False) -> nn.Module:  # noqa: ARG002 - how timm's networks ask for one
        return ACTIVATIONS[self.activation](self.levels)

    def _resnet18(self, num_classes: int, in_channels: int) -> nn.Module:
        """timm's, for small images: a 3x3 stem of stride 2 and no max pooling, a quarter of the cost without it."""
        network = timm.create_model(
            "resnet18", num_classes=num_classes, in_chans=in_channels, act_layer=self._activation
        )
        network.conv1 = nn.Conv2d(in_channels, 64, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
        return network
