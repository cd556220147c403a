"""Real shortcuts: additions read an activation itself, while the layers of weights beside them read its spikes.

What pools, moves or repeats values without weights, between an activation and an addition, is there twice: for spikes
and for real values.
"""

import copy
from collections.abc import Sequence

from torch import fx, nn
from torch.nn.modules.pooling import _AvgPoolNd

from onespike.conversion import kinds
from onespike.conversion.kinds import module_of, name_of
from onespike.conversion.over_time import OverMeans
from onespike.conversion.plan import Step
from onespike.conversion.trace import call, free_path


def add_real_values(graph: fx.GraphModule, steps: Sequence[Step], taken: set[str], time_steps: int) -> bool:
    """Let additions after activations read their real values; returns whether there are any.

    An activation that is only added keeps its neurons: else it would not spike at all.
    """
    planned = {step.node: step for step in steps}
    found = False
    for step in steps:
        if step.kind != "activation" or {_is_addition(one) for one in _readers(graph, step.node)} != {True, False}:
            continue
        found, twins = True, [(step.node, _over_means(graph, step.node, step, taken, time_steps))]
        for node, real in twins:  # what leads to additions, each with its real-valued twin
            for user in _users(node):
                if _is_addition(user):
                    user.replace_input_with(node, real)
                elif _is_weightless(graph, user) and any(map(_is_addition, _readers(graph, user))):
                    twin = _copy(graph, user, node, real)
                    if user in planned:  # max pooling, which is not linear
                        pooled = _over_means(graph, twin, planned[user], taken, time_steps)
                        graph.graph.erase_node(twin)
                        twin = pooled
                    twins.append((user, twin))
        for node, _ in reversed(twins):
            if not node.users and node not in planned:
                graph.graph.erase_node(node)
    return found


def _over_means(graph: fx.GraphModule, node: fx.Node, step: Step, taken: set[str], time_steps: int) -> fx.Node:
    """Call after a node, with its inputs, what a step computes from real values."""
    pools = step.kind != "activation"
    real = OverMeans(copy.deepcopy(step.function), (0,), time_steps, 1 if pools else None)
    return call(graph, node, free_path(f"{step.path}_shortcut", taken), real, options=pools)


def _copy(graph: fx.GraphModule, node: fx.Node, reads: fx.Node, instead: fx.Node) -> fx.Node:
    """A copy of a node, behind it, that reads another value."""
    with graph.graph.inserting_after(node):
        return graph.graph.node_copy(node, lambda one: instead if one is reads else one)


def _users(node: fx.Node) -> list[fx.Node]:
    return [user for user in node.users if name_of(user) not in kinds.SHAPES]


def _is_addition(node: fx.Node) -> bool:
    return name_of(node) in ("add", "add_")


def _is_weightless(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node pools, moves or repeats the values of one other."""
    module, name = module_of(graph, node), name_of(node)
    inputs = [one for one in node.all_input_nodes if name_of(one) not in kinds.SHAPES]
    if len(inputs) != 1 or getattr(module, "return_indices", False):
        return False
    pools = isinstance(module, (nn.Identity, _AvgPoolNd, *kinds.MAX_POOLS)) or name in kinds.MAX_POOL_NAMES
    return pools or name in kinds.RESHAPING | kinds.AVERAGE_POOL_NAMES | {"pad"}


def _readers(graph: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """The nodes that compute with a node's values, whatever pools, moves or repeats these on the way."""
    found = list[fx.Node]()
    for user in _users(node):
        found += _readers(graph, user) if _is_weightless(graph, user) else [user]
    return found
