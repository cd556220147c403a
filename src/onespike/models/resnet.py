"""ResNet-18 (He et al. 2016), timm's, for small images: a 3x3 stem of stride 2 and no max pooling."""

from dataclasses import dataclass

from torch import nn

from onespike.models.artificial import ArtificialConfig
from onespike.models.registry import register_model


@dataclass(frozen=True)
class ResNetConfig(ArtificialConfig):
    """A residual network. All its layers but the first read activations."""

    name: str = "resnet18"


@register_model(ResNetConfig, {"resnet18": {}})
def resnet18(config: ResNetConfig, num_classes: int, in_channels: int, image_size: int) -> nn.Module:  # noqa: ARG001
    """Build it; images may have any size. The stem makes it a quarter of the cost of one without stride."""
    import timm  # half a second

    network = timm.create_model(
        "resnet18", num_classes=num_classes, in_chans=in_channels, act_layer=config.make_activation
    )
    network.conv1 = nn.Conv2d(in_channels, 64, 3, stride=2, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network
