"""What "a standard spiking network" is: a spiking VGG-11 to train and measure, a ResNet-19 by what was published.

Both run over several time steps, as networks do that gain accuracy over time, and keep their potentials from one step
to the next.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from onespike.audit.leaky import LeakyNeuron
from onespike.counting.operations import Operations, count_operations
from onespike.counting.products import Product

#: Channels of VGG-11's convolutions in units of the first one's; 0 is a pooling.
_VGG11 = (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8)


class SpikingConv(nn.Module):
    """A convolution, its batch normalisation and its neurons, over all time steps.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        stride: Stride.
        kernel: Side of the kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.neuron = LeakyNeuron(out_channels)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map (T, B, C, H, W) to spikes; a residual is added to the currents."""
        currents = self.norm(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        return self.neuron(currents if residual is None else currents + residual)


class SpikingVGG11(nn.Module):
    """VGG-11 with leaky neurons; the image itself is shown at each step, the logits are averaged.

    Args:
        num_classes: Number of classes K.
        in_channels: Channels of the images.
        width: Channels of the first convolution: 64 in VGG-11, 16 trains in minutes.
        time_steps: Time steps T.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 16, time_steps: int = 4) -> None:
        super().__init__()
        self.time_steps = time_steps
        self.layers = nn.ModuleList()
        channels = in_channels
        for factor in _VGG11:
            if factor:
                self.layers.append(SpikingConv(channels, factor * width))
                channels = factor * width
            else:
                self.layers.append(nn.MaxPool2d(2))
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W), their side a multiple of 16, to logits (B, K)."""
        x = images.expand(self.time_steps, *images.shape)  # (T, B, C, H, W)
        for layer in self.layers:
            x = layer(x) if isinstance(layer, SpikingConv) else layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        # Linear first, then the means over map and time: the layer reads spikes, not their averages.
        return self.head(x.movedim(2, -1)).mean((0, 2, 3))


class SpikingResNet19(nn.Module):
    """ResNet-19 as spiking papers use it: 3, 3 and 2 blocks of 128, 256 and 512 channels, two linear layers.

    After Zheng et al., "Going Deeper With Directly-Trained Larger Spiking Neural Networks", AAAI 2021.

    Args:
        num_classes: Number of classes K.
        in_channels: Channels of the images.
        time_steps: Time steps T.
        width: Channels of the first stage.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, time_steps: int = 4, width: int = 128) -> None:
        super().__init__()
        self.time_steps = time_steps
        self.stem = SpikingConv(in_channels, width)
        self.blocks = nn.ModuleList()
        channels = width
        for depth, factor in ((3, 1), (3, 2), (2, 4)):
            for number in range(depth):
                stride = 2 if number == 0 and factor > 1 else 1
                self.blocks.append(_ResidualBlock(channels, factor * width, stride))
                channels = factor * width
        self.hidden = nn.Linear(channels, 2 * width)
        self.hidden_neuron = LeakyNeuron(2 * width)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, K)."""
        x = self.stem(images.expand(self.time_steps, *images.shape))
        for block in self.blocks:
            x = block(x)
        hidden = self.hidden_neuron(self.hidden(x.mean((-2, -1)))[..., None, None])
        return self.head(hidden.flatten(2)).mean(0)


class _ResidualBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.first = SpikingConv(in_channels, out_channels, stride)
        self.second = SpikingConv(out_channels, out_channels)
        self.shortcut: nn.Sequential | None = None
        if stride > 1 or in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        kept = x if self.shortcut is None else self.shortcut(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.second(self.first(x), kept)


@dataclass(frozen=True)
class Published:
    """A standard network by its published accuracy and an assumed firing rate: nothing of it was measured here.

    Attributes:
        name: The network.
        time_steps: Time steps T.
        accuracy: Published top-1 on CIFAR-10, in percent.
        firing_rate: Spikes per neuron and time step: assumed.
        source: Where that is from.
    """

    name: str
    time_steps: int
    accuracy: float
    firing_rate: float
    source: str

    def operations(self) -> Operations:
        """Count one CIFAR-10 image: dense numbers by running the network, accumulates by the assumed rate."""
        torch.manual_seed(0)
        counted = count_operations(SpikingResNet19(time_steps=self.time_steps), [torch.rand(1, 3, 32, 32)])
        layers = [replace(layer, products=tuple(map(self._at_rate, layer.products))) for layer in counted.layers]
        return replace(counted, layers=tuple(layers), neurons=())

    def _at_rate(self, product: Product) -> Product:
        if product.arrives == "real":
            return product
        done = self.firing_rate * product.reached
        return replace(product, rate=self.firing_rate, operations=done, nonzero=done)


_SOURCE = (
    "accuracy: Deng et al., Temporal Efficient Training of Spiking Neural Network via Gradient Re-weighting, ICLR 2022 "
    "(arXiv:2202.11946); architecture: Zheng et al., AAAI 2021; firing rate: ASSUMED, a range: none is published there"
)
#: Standard networks that are too large to be trained here; whether a claim holds may hang on the rate.
RESNET19 = tuple(
    Published(f"ResNet-19, T = {steps}, rate {rate}", steps, accuracy, rate, _SOURCE)
    for steps, accuracy in ((4, 94.44), (6, 94.50))
    for rate in (0.1, 0.2, 0.3)
)
