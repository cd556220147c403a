"""SpikingJelly's networks, with its own layers and neurons and their defaults, over T time steps."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from onespike.errors import OnespikeError, requires
from onespike.models import ModelConfig, register_model


@dataclass(frozen=True)
class SpikingJellyConfig(ModelConfig):
    """SpikingJelly's VGG.

    Attributes:
        width: Channels of the first stage; the other two have 4 times as many.
        time_steps: How often it sees the image; logits are averaged.
    """

    name: str = "spikingjelly-vgg"
    width: int = 64
    time_steps: int = 1


@register_model(SpikingJellyConfig, {"spikingjelly-vgg": {}})
class SpikingJellyVGG(nn.Module):
    """Convolutions, batch norms and poolings of `spiking-vgg` with one neuron a channel and no whitening; LIF nodes."""

    def __init__(self, config: SpikingJellyConfig, num_classes: int, in_channels: int, image_size: int) -> None:  # noqa: ARG002
        super().__init__()
        sj = _library()
        layer, neuron, surrogate = sj.layer, sj.neuron, sj.surrogate
        self.config, layers, channels = config, list[nn.Module](), in_channels
        w = config.width
        for width, pools in ((w, True), (w, False), (4 * w, True), (4 * w, False), (4 * w, True), (4 * w, False)):
            layers.append(layer.Conv2d(channels, width, 3, padding=1, bias=False))
            layers += [layer.MaxPool2d(2)] if pools else []
            layers += [layer.BatchNorm2d(width), neuron.LIFNode(surrogate_function=surrogate.ATan())]
            channels = width
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(channels, num_classes)
        sj.functional.set_step_mode(self, "m")

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (T, B, K)."""
        x = images.expand(self.config.time_steps, *images.shape)
        return self.head(self.layers(x).amax((-2, -1)))


@dataclass(frozen=True)
class SpikingJellyResNetConfig(ModelConfig):
    """SpikingJelly's spiking ResNet-18.

    Attributes:
        time_steps: How often it sees the image; logits are averaged.
        sew: Take `sew_resnet18` in its place, whose blocks add spikes: the layers behind read whole numbers.
    """

    name: str = "spikingjelly-resnet18"
    time_steps: int = 1
    sew: bool = False


@register_model(SpikingJellyResNetConfig, {"spikingjelly-resnet18": {}, "spikingjelly-sew-resnet18": {"sew": True}})
class SpikingJellyResNet(nn.Module):
    """`spiking_resnet18` or `sew_resnet18` as it comes: convolution of 7 pixels, stride 2, max pooling; LIF nodes."""

    def __init__(self, config: SpikingJellyResNetConfig, num_classes: int, in_channels: int, image_size: int) -> None:  # noqa: ARG002
        super().__init__()
        if in_channels != 3:
            raise OnespikeError(f"{config.name} reads 3 channels, got {in_channels}")
        sj = _library()
        from spikingjelly.activation_based.model.sew_resnet import sew_resnet18
        from spikingjelly.activation_based.model.spiking_resnet import spiking_resnet18

        make = partial(sew_resnet18, cnf="ADD") if config.sew else spiking_resnet18
        self.config = config
        self.network = make(
            spiking_neuron=sj.neuron.LIFNode, surrogate_function=sj.surrogate.ATan(), num_classes=num_classes
        )
        sj.functional.set_step_mode(self.network, "m")

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (T, B, K)."""
        return self.network(images.expand(self.config.time_steps, *images.shape))


def _library() -> Any:
    with requires("bench"):
        from spikingjelly import activation_based
        from spikingjelly.activation_based import functional, layer, neuron, surrogate  # noqa: F401 - its parts
    return activation_based
