"""Where weights start: the released code's initialisation."""

from timm.layers import lecun_normal_
from torch import nn


def initialise(network: nn.Module) -> None:
    """Set the weights: convolutions LeCun normal, linear layers Xavier uniform, biases 0, the head 0.

    Args:
        network: A network whose classifier is its attribute `head`; changed in place.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            lecun_normal_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.zeros_(network.get_parameter("head.weight"))
