"""A strictly spiking VGG, for one time step or several: behind the stem, 3x3 convolutions that read zeros and ones."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from onespike.functional import window_kinds
from onespike.models.registry import register_model
from onespike.models.stem import make_stem
from onespike.models.strict import PRESETS, SIZES, StrictConfig, StrictNetwork
from onespike.models.strict_layers import Firing, Windows, make_conv, make_head
from onespike.units.layers import Layers, MaxPool


@dataclass(frozen=True)
class SpikingVGGConfig(StrictConfig):
    """A strictly spiking VGG."""

    name: str = "spiking-vgg-m"


@register_model(SpikingVGGConfig, {f"spiking-vgg-{size}": one for size, one in SIZES.items()}, PRESETS)
class SpikingVGG(StrictNetwork):
    """Stem; stages of `depth` convolutions, of which the first changes the width and halves the map; head.

    The stem's convolution is the first one of the first stage. Max pooling comes between convolution and batch norm.
    """

    def __init__(self, config: SpikingVGGConfig, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.config, self.stem, kinds = config, make_stem(config, in_channels, image_size), window_kinds(config.windows)
        layers: list[nn.Module] = []
        channels = 0
        for width in (factor * config.width for factor in config.stages):
            if layers:
                layers += [make_conv(channels, width, config), MaxPool()]
            layers.append(Firing(width, config))
            channels = width
            if config.windows == "none":
                for _ in range(config.depth - 1):
                    layers += [make_conv(channels, width, config), Firing(width, config)]
            else:
                layers += [Windows(width, next(kinds), config) for _ in range(config.depth // 2)]
        self.layers, self.head = Layers(*layers), make_head(channels, num_classes, config)

    def parts(self) -> Iterable[nn.Module]:
        """The layers after the stem."""
        return self.layers, self.head
