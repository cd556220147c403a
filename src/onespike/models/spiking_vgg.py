"""Spiking VGG-11 (Simonyan & Zisserman 2015): a standard network, which runs over several time steps."""

from dataclasses import dataclass, field

from torch import Tensor, nn

from onespike.errors import OnespikeError
from onespike.models.registry import ModelConfig, expect_multiple, register_model
from onespike.neurons import NeuronConfig, OverTime, make_neuron

#: Channels of the convolutions in units of the first one's; 0 is a pooling.
_VGG11 = (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8)


@dataclass(frozen=True)
class OverTimeConfig(ModelConfig):
    """What can be chosen about a standard spiking network.

    Attributes:
        width: Channels of the first stage.
        time_steps: Time steps T; logits are averaged.
        neuron: Its neurons.
    """

    width: int = 64
    time_steps: int = 4
    neuron: NeuronConfig = field(default_factory=NeuronConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(isinstance(count, int) and count >= 1 for count in (self.width, self.time_steps)):
            raise OnespikeError(
                f"width and time_steps: expected whole numbers of at least 1, got {self.width} and {self.time_steps}"
            )


@dataclass(frozen=True)
class SpikingVGGConfig(OverTimeConfig):
    """A spiking VGG-11. The first convolution has 64 channels in the original; 16 train in minutes."""

    name: str = "spiking-vgg11"
    width: int = 16


class SpikingConv(nn.Module):
    """A convolution, its batch normalisation and its neurons, over all time steps.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        neuron: Its neurons.
        stride: Stride.
    """

    def __init__(self, in_channels: int, out_channels: int, neuron: NeuronConfig, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.neuron = OverTime(make_neuron(out_channels, neuron))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map (T, B, C, H, W) to spikes; a residual is added to the currents."""
        currents = self.norm(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        return self.neuron(currents if residual is None else currents + residual)


@register_model(SpikingVGGConfig, {"spiking-vgg11": {}})
class SpikingVGG11(nn.Module):
    """VGG-11 with spiking neurons; the image itself is shown at each step.

    Args:
        config: Width, time steps and neurons.
        num_classes: Number of classes K.
        in_channels: Channels of the images.
        image_size: Side of the images, a multiple of 16.
    """

    def __init__(self, config: SpikingVGGConfig, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        expect_multiple(config.name, image_size, 16)
        self.config, self.time_steps = config, config.time_steps
        self.layers = nn.ModuleList()
        channels = in_channels
        for factor in _VGG11:
            if factor:
                self.layers.append(SpikingConv(channels, factor * config.width, config.neuron))
                channels = factor * config.width
            else:
                self.layers.append(nn.MaxPool2d(2))
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, K)."""
        x = images.expand(self.time_steps, *images.shape)  # (T, B, C, H, W)
        for layer in self.layers:
            x = layer(x) if isinstance(layer, SpikingConv) else layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        # Linear first, then the means over map and time: the layer reads spikes, not their averages.
        return self.head(x.movedim(2, -1)).mean((0, 2, 3))
