"""How maps lie in memory: channels-last, which is faster, unless a network's own code takes views that this has not."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from onespike.errors import OnespikeError
from onespike.neurons.watch import aside, ask


def laid_out(network: nn.Module, images: Tensor) -> nn.Module:
    """Lay two-dimensional convolutions' weights channels-last; a network with three-dimensional ones stays as it is.

    So does one that takes no maps that lie so, such as one with `x.view(x.size(0), -1)` behind a convolution: from now
    on it gets its images laid plainly. `images` are some of a batch, (B, C, H, W) or (T, B, C, H, W).
    """
    if _plainly in network._forward_pre_hooks.values():
        return network
    if all(parameter.ndim != 5 for parameter in network.parameters()):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,unused-ignore]
    as_loaded = images.flatten(0, -4).clone(memory_format=torch.channels_last).view(images.shape)
    try:
        with aside(network):
            ask(network, as_loaded)
    except OnespikeError as error:
        if "view size" in str(error):  # what else is wrong is for others to say
            network.register_forward_pre_hook(_plainly)
            for tensor in chain(network.parameters(), network.buffers()):
                tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return network


def _plainly(_network: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    # A copy: maps of one channel are contiguous in either layout, and convolutions may take them for channels-last.
    return tuple(one.clone(memory_format=torch.contiguous_format) if isinstance(one, Tensor) else one for one in given)
