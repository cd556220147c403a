"""What replaces each node of a traced network that is not linear, and which nodes of it are spikes."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from onespike.conversion import kinds
from onespike.conversion.channels import channels
from onespike.conversion.kinds import module_of, name_of, reached_by_images
from onespike.conversion.trace import free_path
from onespike.errors import OnespikeError


class Step(NamedTuple):
    """A node that is replaced."""

    node: fx.Node
    kind: str
    function: Any  # what it computes
    path: str  # of its replacement
    channels: tuple[int | None, int]  # number and axis of those with a threshold each
    varying: tuple[int | str, ...]  # arguments that depend on the images


def plan(graph: fx.GraphModule, per_channel: bool) -> Iterator[Step]:
    """Plan what replaces each node that depends on the images and is not linear."""
    reached, spikes = reached_by_images(graph.graph), set[fx.Node]()
    alike = set[fx.Node]()  # spikes that may be pooled: they have one threshold, or one for each channel
    joined = set[fx.Node]()  # channels of several layers, whose thresholds differ: alike until they are moved
    taken = {path for path, _ in graph.named_modules()}
    # What is also called on something else than images stays as it is there.
    planned = {str(node.target) for node in graph.graph.nodes if node.op == "call_module" and node not in reached}
    for node in graph.graph.nodes:
        module, name = module_of(graph, node), name_of(node)
        inputs = reached.intersection(node.all_input_nodes)
        if not inputs or node not in reached or node.op == "output":
            continue
        arguments = {**dict(enumerate(node.args)), **node.kwargs}
        varying = tuple(key for key, one in arguments.items() if isinstance(one, fx.Node) and one in inputs)
        kind: str = kinds.kind_of(module, node, varying, bool(spikes & inputs))
        if kind == "pooling" and inputs <= alike:
            kind = "pooling of spikes"
        moves = name in kinds.RESHAPING or isinstance(module, nn.Flatten | nn.Identity)
        for sort in (spikes, alike):
            if kind in ("activation", "pooling of spikes") or (moves and inputs <= sort):
                sort.add(node)
        cat = name in ("cat", "concat")
        joins, stays = cat and len(inputs) > 1, cat or isinstance(module, nn.Identity) or _stays(node)
        across = name == "stack" or (cat and node.kwargs.get("dim", (*node.args[1:2], 0)[0]) != 1)
        if across or (moves and not stays and joined & inputs):
            alike.discard(node)
        elif node in alike and kind != "activation" and (joins or joined & inputs):
            joined.add(node)
        if kind == "linear":
            continue
        stack = node.meta.get("nn_module_stack") or {"": ("",)}  # of the modules whose forward passes lead to it
        owner = str(list(stack.values())[-1][0])
        path = str(node.target) if module is not None else ".".join(filter(None, [owner, node.name]))
        if module is None or path in planned:  # a module that is called again is another layer of neurons
            path = free_path(path, taken)
        planned.add(path)
        if not inputs <= {arguments[key] for key in varying}:
            raise OnespikeError(f"cannot be converted: {path} ({name}) takes its tensors in a list")
        called = getattr(Tensor, str(node.target)) if node.op == "call_method" else node.target
        function = kinds.activation_of(module, node) or (called if module is None else module)
        own = channels(graph, node) if per_channel and kind == "activation" else (None, 1)
        yield Step(node, kind, copy.deepcopy(function), path, own, varying)


def _stays(node: fx.Node) -> bool:
    """Whether a node that moves values leaves every axis where it is."""
    if name_of(node) != "getitem":
        return name_of(node) in kinds.STAYING
    if name_of(node.all_input_nodes[0]) in ("chunk", "split"):  # which give several
        return True
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    return all(one is Ellipsis or isinstance(one, slice) for one in index)
