"""Standard spiking networks, VGG-11 and ResNet-19, over several time steps; each step sees the image itself."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor, nn

from onespike.models.over_time import OverTimeNetwork, each_step
from onespike.models.refusals import expect_no_reset, expect_spikes_over_time
from onespike.models.registry import ModelConfig, expect_multiple, register_model
from onespike.models.strict_layers import Head
from onespike.neurons import Carry, NeuronConfig, OverTime, make_neuron


@dataclass(frozen=True)
class OverTimeConfig(ModelConfig):
    """Options of a standard spiking network.

    Attributes:
        width: Channels of the first stage.
        time_steps: Time steps T for which an image is shown; logits are averaged. Frames of events bring their own.
        neuron: Its neurons.
    """

    width: int = 64
    time_steps: int = 4
    neuron: NeuronConfig = field(default_factory=NeuronConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_spikes_over_time(self.neuron, self.time_steps)
        expect_no_reset(self.neuron)


class SpikingConv(nn.Module):
    """A 3x3 convolution, its batch normalisation and its neurons, over all time steps."""

    carries = True

    def __init__(self, in_channels: int, out_channels: int, neuron: NeuronConfig, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.neuron = OverTime(make_neuron(out_channels, neuron))

    def forward(self, x: Tensor, carry: Carry | None = None, residual: Tensor | None = None) -> Tensor:
        """Map (T, B, C, H, W) to spikes; a residual is added to the currents."""
        currents = each_step(x, self.conv, self.norm)
        return self.neuron(currents if residual is None else currents + residual, carry)


@dataclass(frozen=True)
class SpikingVGG11Config(OverTimeConfig):
    """A spiking VGG-11. The first convolution has 64 channels in the original; 16 train in minutes."""

    name: str = "spiking-vgg11"
    width: int = 16


@register_model(SpikingVGG11Config, {"spiking-vgg11": {}})
class SpikingVGG11(OverTimeNetwork):
    """VGG-11 (Simonyan & Zisserman 2015) with spiking neurons, for images whose side is a multiple of 16."""

    #: Channels of the convolutions in units of the first one's; 0 is a pooling.
    LAYERS = (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8)

    def __init__(self, config: SpikingVGG11Config, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        expect_multiple(config.name, image_size, 16)
        self.config = config
        self.layers, channels = nn.ModuleList(), in_channels
        for width in (factor * config.width for factor in self.LAYERS):
            self.layers.append(SpikingConv(channels, width, config.neuron) if width else nn.MaxPool2d(2))
            channels = width or channels
        self.head = Head(channels, num_classes, "mean")  # it reads spikes, not their averages

    def parts(self) -> Iterable[nn.Module]:
        """All layers."""
        return (*self.layers, self.head)


@dataclass(frozen=True)
class SpikingResNet19Config(OverTimeConfig):
    """A spiking ResNet-19."""

    name: str = "spiking-resnet19"
    width: int = 128


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut: the second's neurons fire on the sum. Stride 2 where channels change."""

    carries = True

    def __init__(self, in_channels: int, out_channels: int, neuron: NeuronConfig) -> None:
        super().__init__()
        stride = 1 if in_channels == out_channels else 2
        self.first = SpikingConv(in_channels, out_channels, neuron, stride)
        self.second = SpikingConv(out_channels, out_channels, neuron)
        self.shortcut: nn.Sequential | None = None
        if stride > 1:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor, carry: Carry | None = None) -> Tensor:
        """Map spikes (T, B, C, H, W) to spikes."""
        return self.second(self.first(x, carry), carry, x if self.shortcut is None else each_step(x, *self.shortcut))


class MapMean(nn.Module):
    """The mean over the map, (B, C, L, L) to (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Average over the map."""
        return x.mean((-2, -1))


@register_model(SpikingResNet19Config, {"spiking-resnet19": {}})
class SpikingResNet19(OverTimeNetwork):
    """ResNet-19 as spiking papers use it (Zheng et al. 2021): 3, 3 and 2 blocks, two linear layers; any image size."""

    def __init__(self, config: SpikingResNet19Config, num_classes: int, in_channels: int, image_size: int) -> None:  # noqa: ARG002
        super().__init__()
        width, neuron = config.width, config.neuron
        self.config = config
        self.stem = SpikingConv(in_channels, width, neuron)
        channels = [factor * width for factor in (1, 1, 1, 1, 2, 2, 2, 4, 4)]  # of the stem and of each block
        self.blocks = nn.Sequential(*(ResidualBlock(*pair, neuron) for pair in pairwise(channels)))
        self.pool, self.hidden = MapMean(), nn.Linear(channels[-1], 2 * width)
        self.hidden_neuron = OverTime(make_neuron(2 * width, neuron))
        self.head = nn.Linear(2 * width, num_classes)

    def parts(self) -> Iterable[nn.Module]:
        """All layers."""
        return self.stem, self.blocks, self.pool, self.hidden, self.hidden_neuron, self.head
