"""The kind of each node of a traced network: linear, activation, pooling, product or real-valued.

To make a layer or function known, add it to the table it belongs to.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.layers.activations import GELU, Swish
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.padding import _ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd, _AvgPoolNd, _MaxPoolNd
from torchvision.ops import StochasticDepth

from onespike.models.affine import Affine
from onespike.neurons.integrate_fire import QCFS
from onespike.units.channel import ChannelLinear

Kind = Literal["linear", "activation", "pooling", "product", "real"]

WEIGHTS = (_ConvNd, nn.Linear)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, GELU, Swish, QCFS)
MAX_POOLS = (_MaxPoolNd, _AdaptiveMaxPoolNd)
#: Linear modules that keep channels where they are: a neuron after them belongs to a channel of the layer before.
PASSING = (Affine, _BatchNorm, nn.Identity, _DropoutNd, DropPath, StochasticDepth, _AvgPoolNd)
LINEAR = (
    *(*WEIGHTS, *PASSING, _AdaptiveAvgPoolNd, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle),
    *(_ConstantPadNd, _ReflectionPadNd, _ReplicationPadNd, nn.Upsample),
)

# Functions of `torch`, `torch.nn.functional` and `operator`, and methods of tensors, by name.

FUNCTIONAL = {"relu": nn.ReLU, "relu_": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU, "gelu": nn.GELU}
CLAMPS = {"clamp", "clamp_", "clamp_min", "clamp_min_", "clip", "clip_"}  # activations where they cut off at 0
MAX_POOL_NAMES = {f"{kind}max_pool{axes}d" for kind in ("", "adaptive_") for axes in (1, 2, 3)}
AVERAGE_POOL_NAMES = {f"avg_pool{axes}d" for axes in (1, 2, 3)}
RESHAPING = {
    *("flatten", "unflatten", "reshape", "view", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "expand"),
    *("getitem", "roll", "cat", "concat", "stack", "chunk", "split", "unbind", "contiguous", "clone", "narrow"),
    *("t", "T", "mT"),
}
STAYING = {"contiguous", "clone", "narrow", "chunk", "split", "roll"}  # of these, what leaves every axis where it is
LINEAR_NAMES = {
    *(*RESHAPING, *AVERAGE_POOL_NAMES, *(f"adaptive_{name}" for name in AVERAGE_POOL_NAMES)),
    *("add", "add_", "sub", "sub_", "neg", "mean", "sum", "pad", "interpolate", "to", "float"),
}
DROPOUT_NAMES = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
LINEAR_NAMES |= DROPOUT_NAMES
#: Linear in the first argument, if the others stay the same over time.
WEIGHING = {f"{kind}{axes}d" for kind in ("conv", "conv_transpose") for axes in (1, 2, 3)}
WEIGHING |= {"linear", "batch_norm", "truediv", "div"}
PRODUCTS = {"mul", "mul_", "matmul", "bmm"}  # linear in each argument, if the others stay the same over time
#: Functions that keep channels where they are.
KEEPING = {*FUNCTIONAL, *CLAMPS, *MAX_POOL_NAMES, *AVERAGE_POOL_NAMES, "add", "add_", *DROPOUT_NAMES}
SHAPES = {"size", "dim", "numel", "shape", "ndim", "device", "dtype", "_assert"}  # functions of a shape alone
SHAPES |= {f"{fill}_like" for fill in ("zeros", "ones", "full")} | {f"new_{fill}" for fill in ("zeros", "ones", "full")}


def channels_of(layer: _ConvNd | nn.Linear) -> tuple[int, int]:
    """How many channels a weight layer reads, and how many it makes."""
    if isinstance(layer, _ConvNd):
        return layer.in_channels, layer.out_channels
    return layer.in_features, layer.out_features


def channel_axis(layer: nn.Module) -> int:
    """The axis of a weight layer's channels, counted from the last, -1."""
    if isinstance(layer, _ConvNd):
        return 1 - layer.weight.ndim
    return -3 if isinstance(layer, ChannelLinear) else -1


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls; None if it calls a function or method."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def name_of(node: fx.Node) -> str:
    """Name of the function, method or attribute that a node reads; "" where it does something else."""
    if node.op not in ("call_function", "call_method"):
        return ""
    if node.target is getattr:
        return str(node.args[1])
    # Max pooling is called through a dispatcher that has no name of its own.
    pools = [name for name in MAX_POOL_NAMES if node.target is getattr(F, name)]
    return pools[0] if pools else str(getattr(node.target, "__name__", node.target))


def reached_by_images(graph: fx.Graph) -> set[fx.Node]:
    """All nodes that depend on the images' values, not on their shape alone."""
    reached = set[fx.Node]()
    for node in graph.nodes:
        if node.op == "placeholder" or (reached.intersection(node.all_input_nodes) and name_of(node) not in SHAPES):
            reached.add(node)
    return reached


def kind_of(module: nn.Module | None, node: fx.Node, varying: tuple[int | str, ...], spikes: bool) -> Kind:
    """Classify a node: `varying` are its arguments that depend on the images, `spikes` says whether some are spikes."""
    name = name_of(node)
    if isinstance(module, _BatchNorm) and module.running_mean is None:  # it takes batch statistics even at test time
        return "real"
    if activation_of(module, node) is not None:
        return "activation"
    if isinstance(module, MAX_POOLS) or name in MAX_POOL_NAMES:
        return "real" if getattr(module, "return_indices", False) else "pooling"
    if isinstance(module, LINEAR) or name in LINEAR_NAMES:
        types = [one for one in (*node.args, *node.kwargs.values()) if isinstance(one, torch.dtype)]
        return "linear" if all(one.is_floating_point for one in types) else "real"  # whole numbers are truncated
    if name in WEIGHING:
        given: Any = {**dict(enumerate(node.args)), **node.kwargs}
        rounds = given.get("rounding_mode") or (name == "batch_norm" and given.get("training", given.get(5)))
        return "linear" if varying in ((0,), ("input",)) and not rounds else "real"
    if name in PRODUCTS and len(varying) > 1:
        return "product" if spikes else "real"
    return "linear" if (name in PRODUCTS or name == "addcmul") and len(varying) == 1 else "real"


def activation_of(module: nn.Module | None, node: fx.Node) -> nn.Module | None:
    """The activation that a node computes, by a module, function or method; None if it computes something else."""
    name = name_of(node)
    if module is not None:
        return module if isinstance(module, ACTIVATIONS) else None
    if name in FUNCTIONAL:
        return FUNCTIONAL[name](**{key: value for key, value in node.kwargs.items() if key == "approximate"})
    if name not in CLAMPS:
        return None
    limits: Any = dict(zip(("input", "min", "max"), node.args, strict=False)) | node.kwargs
    return {(0, None): nn.ReLU(), (0, 6): nn.ReLU6()}.get((limits.get("min"), limits.get("max")))
