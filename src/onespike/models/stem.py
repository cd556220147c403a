"""The stem of strictly spiking networks: the layers on the image."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from onespike.errors import OnespikeError
from onespike.functional.kernels import is_traced
from onespike.models.recompute import recomputed
from onespike.models.strict import StrictConfig
from onespike.models.strict_layers import Firing, make_conv
from onespike.units.layers import BatchNorm, Conv3x3, Layers, MaxPool, through

#: Added to the variance of patches before they are divided by its root.
_WHITENING_EPSILON = 5e-4
#: Most values of patches in memory at a time: 2 GB.
_AT_ONCE = 250_000_000


class Whitening(nn.Conv2d):
    """Whitened patches (uncorrelated, of variance 1) and their negatives: (B, C, H, W) to (B, 2*C*side^2, …).

    The weights are not trained: `learn_from` sets them before training, as in Keller Jordan's airbench94.
    """

    #: Whether images have set the weights, or a state has been loaded; they begin as any orthogonal ones.
    is_set = False

    def __init__(self, in_channels: int, side: int, stride: int) -> None:
        super().__init__(in_channels, 2 * in_channels * side**2, side, stride, bias=False)
        self.weight.requires_grad_(False)
        nn.init.orthogonal_(self.weight[: len(self.weight) // 2].flatten(1))

    @torch.no_grad()
    def learn_from(self, images: Tensor) -> None:
        """Set the weights: W = diag(1 / sqrt(variance)) V^T for the principal components V of the images' patches."""
        (side, _), channels = self.kernel_size, self.in_channels
        if images.shape[1] != channels:  # a layer before this one makes others of them
            expected = f"expected images of {channels} channels, got {images.shape[1]}"
            raise OnespikeError(f"whitening: {expected}; call its learn_from with what it reads, before training")
        products, number = images.new_zeros((), dtype=torch.float64), 0
        for some in images.split(max(1, _AT_ONCE // (images[0].numel() * side**2))):
            patches = nn.functional.unfold(some.double(), side).transpose(1, 2).flatten(0, 1)
            products, number = products + patches.T @ patches, number + len(patches)
        variances, components = torch.linalg.eigh(products / number)
        whitening = (components / (variances + _WHITENING_EPSILON).sqrt()).T.view(-1, channels, side, side)
        self.weight.copy_(torch.cat([whitening, -whitening]))
        self.is_set = True

    @override
    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *more: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *more)
        self.is_set = self.is_set or f"{prefix}weight" in state_dict


class Stem(Layers):
    """The stem. In training, whitened patches, rectified or not, are computed again for the gradient, not saved."""

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to currents."""
        whitening, *others = self
        device = images.device.type
        can = self.training and torch.amp.is_autocast_available(device) and not is_traced()
        # Without gradients nothing is saved; inference mode's tensors do not tell whether they were changed.
        can = can and torch.is_grad_enabled() and not images.is_inference()
        if not can or not isinstance(whitening, Whitening):
            return super().forward(images)
        rectified = bool(others) and isinstance(others[0], nn.ReLU)
        cast = torch.autocast(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        white, weight, version = whitening(images), whitening.weight, images._version

        def again() -> Tensor:
            if images._version != version:
                raise RuntimeError("images were changed in place before the backward pass, which reads them again")
            with torch.no_grad(), cast:
                patches = whitening._conv_forward(images, weight, None)
                return patches.relu() if rectified else patches

        if rectified:
            white = others.pop(0)(white)
        with recomputed(white, again):
            return through(others, white)


def make_stem(config: StrictConfig, in_channels: int, image_size: int) -> Stem:
    """The layers on the image, which read real values unless they spike: (B, C, H, W) to currents (B, width, L, L).

    The first layer has a stride of 1, of 2 from 64 pixels on, of 4 from 128 pixels on. The map is halved after the
    first 3x3 convolution; a batch norm and a ReLU, or neurons, come before each further one. Neurons of the stem keep
    nothing from one time step to the next. It is an `OnespikeError` if the later stages, each of which halves the map
    again, would run out of pixels.
    """
    stride = 1 if image_size < 64 else 2 if image_size < 128 else 4
    layers: list[nn.Module] = []
    side, channels = image_size, in_channels
    if config.stem != "none":
        whitening = Whitening(channels, max(2, stride), stride)
        layers.append(whitening)
        side, channels, stride = (side - max(2, stride)) // stride + 1, whitening.out_channels, 1
        if config.stem == "rectified":
            layers.append(nn.ReLU())
        elif config.stem == "spiking":
            layers.append(Firing(channels, config))
    reads_spikes = config.stem == "spiking"
    conv = make_conv(channels, config.width, config) if reads_spikes else Conv3x3(channels, config.width, stride)
    layers += [conv, MaxPool()]
    for _ in range(config.stem_layers - 1):
        if reads_spikes:
            layers += [Firing(config.width, config), make_conv(config.width, config.width, config)]
        else:
            layers += [BatchNorm(config.width), nn.ReLU(), Conv3x3(config.width, config.width)]
    halvings = len(config.stages)
    if -(-side // stride) >> halvings < 1:
        needs = f"{config.name} halves the map {halvings} times, which leaves no pixel of {image_size}"
        raise OnespikeError(f"image_size: {needs}; enlarge with --data.image_size, or shorten --model.stages")
    return Stem(*layers)
