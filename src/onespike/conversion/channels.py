"""Where a layer of neurons may have a threshold for each channel: where thresholds fold into the weights behind.

A neuron's output is its threshold or 0. It counts as a spike if the threshold can become a factor of the weights that
read it, that is if each of these weights belongs to one channel. Convolutions and linear layers sum over one axis; this
module follows the graph from the neurons to them, through pooling, flattening, additions and means. Axes are counted
from the last one, -1.
"""

import re
from typing import NamedTuple

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from onespike.conversion.kinds import (
    ACTIVATIONS,
    KEEPING,
    MAX_POOLS,
    PASSING,
    PRODUCTS,
    RESHAPING,
    SHAPES,
    WEIGHING,
    WEIGHTS,
    is_activation,
    module_of,
    name_of,
)
from onespike.units.channel import ChannelLinear

#: Functions that cut a tensor into a tuple of parts.
PARTS = ("chunk", "split")


class _Place(NamedTuple):
    """Where channels are: their axis, and how many axes there are; None where that is not known."""

    axis: int
    axes: int | None


def channels(graph: fx.GraphModule, node: fx.Node) -> tuple[int | None, int]:
    """Number and axis of the channels of an activation that may have a threshold each.

    They are those of the weight layer that the currents come from or, where that does not do, of one that reads spikes.

    Args:
        graph: The graph.
        node: The activation in it.

    Returns:
        The number, None if there can only be one threshold for all; and the axis, counted from the last.
    """
    for number, place in (_made(graph, node), _read(graph, node)):
        if place is not None and _may_have(node, number, place) and _folds(graph, node, place):
            return number, place.axis
    return None, 1


def _may_have(node: fx.Node, number: int, place: _Place) -> bool:
    """Whether a node has so many channels there: an addition may broadcast one to several."""
    shape = node.meta.get("shape")  # known where there were images to trace with
    return shape is None or (len(shape) >= -place.axis and shape[place.axis] == number)


def _sides(layer: nn.Module | None) -> tuple[int, int, _Place]:
    """How many channels a weight layer reads and makes, and where they are."""
    if isinstance(layer, _ConvNd):
        return layer.in_channels, layer.out_channels, _Place(1 - layer.weight.ndim, layer.weight.ndim)
    assert isinstance(layer, nn.Linear)
    place = _Place(-3, 4) if isinstance(layer, ChannelLinear) else _Place(-1, None)
    return layer.in_features, layer.out_features, place


def _made(graph: fx.GraphModule, node: fx.Node) -> tuple[int, _Place | None]:
    """Channels of the weight layer that a node's input comes from."""
    pooled = 0
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
        module = module_of(graph, node)
        if isinstance(module, WEIGHTS):
            _, number, place = _sides(module)
            return number, place if pooled < -place.axis else None
        if not _keeps(graph, node):
            break
        pooled = max(pooled, _pooled(graph, node))
    return 0, None


def _read(graph: fx.GraphModule, node: fx.Node) -> tuple[int, _Place | None]:
    """Channels of a weight layer that reads a node's output."""
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        node = waiting.pop()
        seen.add(node)
        for user in node.users:
            module = module_of(graph, user)
            if isinstance(module, WEIGHTS):
                number, _, place = _sides(module)
                return number, place
            passes = module is None and name_of(user) in ("roll", "contiguous", "clone")
            if user not in seen and (passes or _keeps(graph, user)):
                waiting.append(user)
    return 0, None


def _folds(graph: fx.GraphModule, node: fx.Node, place: _Place) -> bool:
    """Whether every weight that reads a node's output belongs to one channel."""
    waiting, seen = [(node, place)], set[tuple[fx.Node, _Place]]()
    while waiting:
        node, place = waiting.pop()
        if (node, place) in seen:
            continue
        seen.add((node, place))
        for user in node.users:
            module = module_of(graph, user)
            name = "" if module is not None else name_of(user)
            if user.op == "output" or name in SHAPES or is_activation(module, user):
                continue  # what stands behind an activation reads the spikes of that one
            if isinstance(module, WEIGHTS):
                if _sides(module)[2].axis != place.axis:
                    return False
            elif name == "linear" or (name in WEIGHING and name.endswith("d")):  # "conv2d", "conv_transpose2d"
                if place.axis != (-1 if name == "linear" else -1 - int(name[-2])):
                    return False
            else:
                behind = _behind(graph, user, place)
                if behind is None:
                    return False
                waiting.append((user, behind))
    return True


def _behind(graph: fx.GraphModule, node: fx.Node, place: _Place) -> _Place | None:
    """Where the channels are behind an operation; None where it mixes them, or that cannot be told."""
    module = module_of(graph, node)
    name = "" if module is not None else name_of(node)
    if _pooled(graph, node) >= -place.axis:
        return None
    if _is_flat(module, name, node):
        return _Place(-1, 2)  # every column belongs to one channel
    if name in ("contiguous", "clone", *PARTS) or (name == "getitem" and name_of(node.all_input_nodes[0]) in PARTS):
        return place
    if name in ("roll", "mean", "sum", "cat", "concat"):
        dims = _dims(node, 2 if name == "roll" else 1, place)
        if dims is None or (place.axis in dims) != (name in ("cat", "concat")):
            return None
        if name not in ("mean", "sum") or node.kwargs.get("keepdim") or node.args[2:3] == (True,):
            return place
        behind = sum(dim > place.axis for dim in dims)
        return _Place(place.axis + behind, place.axes and place.axes - len(dims))
    moved = isinstance(module, nn.Flatten | nn.Unflatten | nn.PixelShuffle | nn.PixelUnshuffle) or name in RESHAPING
    several = name in PRODUCTS and sum(isinstance(one, fx.Node) for one in node.args) > 1
    return None if moved or several else place


def _keeps(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node keeps channels where they are, or pools."""
    module = module_of(graph, node)
    if module is None:
        scaled = name_of(node) in ("mul", "mul_", "div", "truediv") and len(node.all_input_nodes) == 1
        return name_of(node) in KEEPING or scaled
    return isinstance(module, (*PASSING, *MAX_POOLS, *ACTIVATIONS))


def _pooled(graph: fx.GraphModule, node: fx.Node) -> int:
    """Over how many of the last axes a node pools."""
    module = module_of(graph, node)
    name = name_of(node) if module is None else type(module).__name__
    found = re.search(r"pool_?(\d)d", name.lower())
    return int(found[1]) if found else 0


def _is_flat(module: nn.Module | None, name: str, node: fx.Node) -> bool:
    """Whether an operation flattens each image into a row."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    if name == "flatten":
        return (*node.args[1:], *node.kwargs.values()) in ((1,), (1, -1))
    return name in ("view", "reshape") and node.args[2:] == (-1,)


def _dims(node: fx.Node, position: int, place: _Place) -> tuple[int, ...] | None:
    """The axes that an operation names, counted from the last; None if that cannot be told."""
    named = node.kwargs.get("dim", node.kwargs.get("dims"))
    dims = node.args[position] if named is None and len(node.args) > position else named
    dims = (dims,) if isinstance(dims, int) else dims
    if not isinstance(dims, tuple | list) or not all(isinstance(dim, int) for dim in dims):
        return None
    # With a number of axes that is not known, the first one behind the images' may be the channels' or not.
    if place.axes is None and any(dim >= 0 for dim in dims):
        return None
    return tuple(dim - place.axes if place.axes and dim >= 0 else dim for dim in dims)
