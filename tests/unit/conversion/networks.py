"""Artificial networks to convert, and how far off a conversion is."""

import torch
from torch import Tensor, nn

from onespike.conversion import Calibration
from tests.forward import Forward

MAXIMA = Calibration("maximum", correct="none")


def three_layers(forward) -> Forward:
    """Three linear layers, and any forward pass over them."""
    torch.manual_seed(0)
    layers = {"first": nn.Linear(6, 16), "second": nn.Linear(16, 16), "last": nn.Linear(16, 3)}
    return Forward(forward, **layers, act=nn.ReLU(inplace=True), pool=nn.MaxPool1d(3, 1, 1)).eval()


@torch.no_grad()
def error(converted: nn.Module, network: nn.Module, images: Tensor) -> float:
    """The relative error of the logits of a converted network."""
    expected = network(images)
    return ((converted(images) - expected).norm() / expected.norm()).item()


def outputs(root, paths, *inputs):
    """What the modules of a graph gave in one forward pass."""
    found = {}
    for path in paths:
        root.get_submodule(path).register_forward_hook(lambda _m, _i, out, path=path: found.update({path: out}))
    root(*inputs)
    return found
