"""Whether a layer of neurons may have a threshold for each channel: only if these fold into the next weights.

A neuron's output is its threshold or 0. It counts as a spike if the threshold can become a factor of the weights that
read it, that is, if each of these belongs to one channel. Convolutions and linear layers sum over one axis. The graph
is followed from the neurons to these layers, through pooling, flattening, additions and means. Axes are counted from
the last, -1.
"""

import re

from torch import fx, nn

from onespike.conversion import kinds
from onespike.conversion.kinds import WEIGHTS, channel_axis, channels_of, module_of, name_of

PARTS = ("chunk", "split")  # functions that cut a tensor into a tuple of parts


def channels(graph: fx.GraphModule, node: fx.Node) -> tuple[int | None, int]:
    """Number and axis of an activation's channels that may have a threshold each; None if there can be only one."""
    shape = node.meta["shape"]
    # Try the channels of the weight layer that makes the currents, then those of one that reads the spikes.
    for number, axis in filter(None, (_made(graph, node), _read(graph, node))):
        there = len(shape) >= -axis and shape[axis] == number  # an addition may broadcast one to several
        if there and _folds(graph, node, axis):
            return number, axis
    return None, 1


def _made(graph: fx.GraphModule, node: fx.Node) -> tuple[int, int] | None:
    """Number and axis of the channels of the weight layer that a node's input comes from."""
    pooled = 0
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
        layer = module_of(graph, node)
        if isinstance(layer, WEIGHTS):
            axis = channel_axis(layer)
            return (channels_of(layer)[1], axis) if pooled < -axis else None
        if not _keeps(graph, node):
            break
        pooled = max(pooled, _pooled(graph, node))
    return None


def _read(graph: fx.GraphModule, node: fx.Node) -> tuple[int, int] | None:
    """Number and axis of the channels of a weight layer that reads a node's output."""
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        node = waiting.pop()
        seen.add(node)
        for user in node.users:
            layer = module_of(graph, user)
            if isinstance(layer, WEIGHTS):
                return channels_of(layer)[0], channel_axis(layer)
            if user not in seen and (name_of(user) in ("roll", "contiguous", "clone") or _keeps(graph, user)):
                waiting.append(user)
    return None


def _folds(graph: fx.GraphModule, node: fx.Node, axis: int) -> bool:
    """Whether every weight that reads a node's output belongs to one channel."""
    waiting, seen = [(node, axis)], set[tuple[fx.Node, int]]()
    while waiting:
        node, axis = waiting.pop()
        if (node, axis) in seen:
            continue
        seen.add((node, axis))
        for user in node.users:
            module, name = module_of(graph, user), name_of(user)
            if user.op == "output" or name in kinds.SHAPES or kinds.activation_of(module, user) is not None:
                continue  # layers after an activation read the spikes of that one
            if isinstance(module, WEIGHTS):
                if channel_axis(module) != axis:
                    return False
            elif found := re.fullmatch(r"linear|conv\w*(\d)d", name):
                if axis != -1 - int(found[1] or 0):
                    return False
            elif (behind := _behind(graph, user, axis)) is not None:
                waiting.append((user, behind))
            else:
                return False
    return True


def _behind(graph: fx.GraphModule, node: fx.Node, axis: int) -> int | None:
    """The axis of the channels after an operation; None where it mixes them, or that is unknown."""
    module, name = module_of(graph, node), name_of(node)
    before, shape = node.all_input_nodes[0], node.meta.get("shape", ())
    axes = len(before.meta.get("shape", shape))  # a tuple has no shape: its parts' is taken
    if _pooled(graph, node) >= -axis:
        return None
    if name in ("contiguous", "clone", *PARTS) or (name == "getitem" and name_of(before) in PARTS):
        return axis
    if isinstance(module, nn.Flatten) or name in ("flatten", "view", "reshape"):
        # One row for each image: every column belongs to one channel.
        return -1 if len(shape) == 2 and shape[0] == before.meta["shape"][0] else None
    if name in ("roll", "mean", "sum", "cat", "concat"):
        dims = _dims(node, 2 if name == "roll" else 1, axes)
        if dims is None or (axis in dims) != (name in ("cat", "concat")):
            return None
        return axis + sum(dim > axis for dim in dims if len(shape) < axes)  # axes behind it that are lost
    moved = isinstance(module, nn.Unflatten | nn.PixelShuffle | nn.PixelUnshuffle) or name in kinds.RESHAPING
    several = name in kinds.PRODUCTS and sum(isinstance(one, fx.Node) for one in node.args) > 1
    return None if moved or several else axis


def _keeps(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node keeps channels where they are, or pools."""
    module, name = module_of(graph, node), name_of(node)
    scales = name in ("mul", "mul_", "div", "truediv") and len(node.all_input_nodes) == 1
    return scales or name in kinds.KEEPING or isinstance(module, kinds.PASSING + kinds.MAX_POOLS + kinds.ACTIVATIONS)


def _pooled(graph: fx.GraphModule, node: fx.Node) -> int:
    """The number of last axes over which a node pools."""
    name = name_of(node) or type(module_of(graph, node)).__name__
    found = re.search(r"pool_?(\d)d", name.lower())
    return int(found[1]) if found else 0


def _dims(node: fx.Node, position: int, axes: int) -> tuple[int, ...] | None:
    """The axes that an operation names, counted from the last; None if that cannot be told."""
    dims = node.kwargs.get("dim", node.kwargs.get("dims", (*node.args, None, None)[position]))
    dims = (dims,) if isinstance(dims, int) else dims
    if not isinstance(dims, tuple | list) or not all(isinstance(dim, int) for dim in dims):
        return None
    return tuple(dim - axes if dim >= 0 else dim for dim in dims)
