"""ResNet-19 as spiking papers use it: 3, 3 and 2 blocks of 128, 256 and 512 channels, two linear layers.

After Zheng et al., "Going Deeper With Directly-Trained Larger Spiking Neural Networks", AAAI 2021.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from onespike.models.registry import register_model
from onespike.models.spiking_vgg import OverTimeConfig, SpikingConv
from onespike.neurons import NeuronConfig, OverTime, make_neuron


@dataclass(frozen=True)
class SpikingResNetConfig(OverTimeConfig):
    """A spiking ResNet-19."""

    name: str = "spiking-resnet19"
    width: int = 128


@register_model(SpikingResNetConfig, {"spiking-resnet19": {}})
class SpikingResNet19(nn.Module):
    """A residual network of spiking neurons; the image itself is shown at each step.

    Args:
        config: Width, time steps and neurons.
        num_classes: Number of classes K.
        in_channels: Channels of the images.
        image_size: Side of the images; any.
    """

    def __init__(self, config: SpikingResNetConfig, num_classes: int, in_channels: int, image_size: int) -> None:  # noqa: ARG002
        super().__init__()
        width, neuron = config.width, config.neuron
        self.config, self.time_steps = config, config.time_steps
        self.stem = SpikingConv(in_channels, width, neuron)
        self.blocks = nn.ModuleList()
        channels = width
        for depth, factor in ((3, 1), (3, 2), (2, 4)):
            for number in range(depth):
                stride = 2 if number == 0 and factor > 1 else 1
                self.blocks.append(_ResidualBlock(channels, factor * width, neuron, stride))
                channels = factor * width
        self.hidden = nn.Linear(channels, 2 * width)
        self.hidden_neuron = OverTime(make_neuron(2 * width, neuron))
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, K)."""
        x = self.stem(images.expand(self.time_steps, *images.shape))
        for block in self.blocks:
            x = block(x)
        return self.head(self.hidden_neuron(self.hidden(x.mean((-2, -1))))).mean(0)


class _ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, neuron: NeuronConfig, stride: int) -> None:
        super().__init__()
        self.first = SpikingConv(in_channels, out_channels, neuron, stride)
        self.second = SpikingConv(out_channels, out_channels, neuron)
        self.shortcut: nn.Sequential | None = None
        if stride > 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.shortcut is None else self.shortcut(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.second(self.first(x), kept)
