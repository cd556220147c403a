"""A strictly spiking VGG, for one time step or several: behind the stem, 3x3 convolutions that read zeros and ones."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from onespike.models.over_time import OverTimeNetwork
from onespike.models.registry import register_model
from onespike.models.stem import make_stem
from onespike.models.strict import PRESETS, Firing, Head, StrictConfig, Windows, make_conv, window_kinds
from onespike.units.layers import Layers, MaxPool


@dataclass(frozen=True)
class StrictVGGConfig(StrictConfig):
    """A strictly spiking VGG."""

    name: str = "spiking-vgg-m"


#: Sizes by one rule: the first stage has `width` channels, the others 4 times as many; the larger ones are deeper.
VARIANTS: dict[str, dict[str, int]] = {
    "spiking-vgg-m": {},
    "spiking-vgg-xs": {"width": 16},
    "spiking-vgg-s": {"width": 32},
    "spiking-vgg-l": {"width": 64, "depth": 3},
    "spiking-vgg-xl": {"width": 96, "depth": 3},
}


@register_model(StrictVGGConfig, VARIANTS, PRESETS)
class SpikingVGG(OverTimeNetwork):
    """Stem; stages of `depth` convolutions, of which the first changes the width and halves the map; head.

    The stem's convolution is the first stage's first. Max pooling stands between convolution and batch norm.
    """

    def __init__(self, config: StrictVGGConfig, num_classes: int, in_channels: int, image_size: int) -> None:
        super().__init__()
        self.config, self.stem, kinds = config, make_stem(config, in_channels, image_size), window_kinds(config)
        layers: list[nn.Module] = []
        channels = 0
        for width in (factor * config.width for factor in config.stages):
            if layers:
                layers += [make_conv(channels, width, config), MaxPool()]
            layers.append(Firing(width, config))
            channels = config.population * width  # of the spikes
            if config.windows == "none":
                for _ in range(config.depth - 1):
                    layers += [make_conv(channels, width, config), Firing(width, config)]
            else:
                layers += [Windows(width, next(kinds), config) for _ in range(config.depth // 2)]
        self.layers, self.head = Layers(*layers), Head(channels, num_classes, config.head)

    @property
    def encoder(self) -> nn.Module:
        """What reads the image."""
        return self.stem

    def parts(self) -> Iterable[nn.Module]:
        """The layers behind."""
        return self.layers, self.head

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, K); frames (T, B, C, H, W) to (T, B, K)."""
        if images.ndim == 5 or self.config.time_steps > 1:
            return super().forward(images)
        if self.recompute and torch.is_grad_enabled():
            return self.run_again_later(self.stem(images))
        return self.head(self.layers(self.stem(images)))
