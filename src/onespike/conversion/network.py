"""From an artificial network to a spiking one: integrate-and-fire neurons replace its activations.

torch.fx traces the network into a graph of modules and functions. Each node that depends on the images is one of:

    linear       convolution, linear layer, affine map, average pooling, addition, reshaping: stays, since it maps means
                 to means
    activation   ReLU, GELU, SiLU, QCFS: becomes `IntegrateFire`
    pooling      max pooling: becomes `PoolSpikes` where spikes come in, else `OverMeans`
    product      of two tensors, at least one of spikes: becomes `OverMeans`, a product of spike counts
    real         all else: refused, its path is named; or, with `allow_real`, left real-valued inside `OverMeans`
"""

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from onespike.conversion.channels import channels
from onespike.conversion.config import ConversionConfig
from onespike.conversion.kinds import (
    RESHAPING,
    WEIGHTS,
    activation_of,
    kind_of,
    module_of,
    name_of,
    reached_by_images,
)
from onespike.conversion.over_time import OverMeans, PoolSpikes
from onespike.conversion.trace import free_path, trace
from onespike.errors import OnespikeError
from onespike.neurons.integrate_fire import QCFS, IntegrateFire


class ConvertedNetwork(nn.Module):
    """A network of integrate-and-fire neurons: it sees the images at each of T time steps and averages the logits.

    Args:
        body: The graph, with `IntegrateFire` in place of activations.
        activations: The activation that each layer of neurons replaces, by its path in the graph.
        real: Paths of what is left real-valued.
        config: How it was converted.
    """

    def __init__(
        self, body: fx.GraphModule, activations: dict[str, nn.Module], real: tuple[str, ...], config: ConversionConfig
    ) -> None:
        super().__init__()
        self.body, self.real, self.config = body, real, config
        self.time_steps, self.population = config.time_steps, config.population
        self._activations = (activations,)  # in a tuple: they are no part of this network

    @property
    def neurons(self) -> dict[str, IntegrateFire]:
        """The neurons by their path, in the order of the forward pass."""
        return {path: self.body.get_submodule(path) for path in self._activations[0]}  # type: ignore[misc]

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, C, H, W); logits (B, K)."""
        steps = images.repeat(self.time_steps, *[1] * (images.ndim - 1))
        return self.body(steps).unflatten(0, (self.time_steps, -1)).mean(0)

    def analog(self) -> fx.GraphModule:
        """The artificial twin: the same graph, node by node, with activations and with weights of its own.

        Before calibration changes any weights it computes what the artificial network does.
        """
        graph = copy.deepcopy(self.body)
        for path, activation in self._activations[0].items():
            graph.set_submodule(path, copy.deepcopy(activation))
        for module in graph.modules():
            if isinstance(module, OverMeans | PoolSpikes):
                module.time_steps = 1
        return graph

    def outline(self) -> list[str]:
        """One line for each node of the graph, with all that the weights do not say: which network it is."""
        lines = []
        for node in self.body.graph.nodes:
            module = self._activations[0].get(str(node.target)) or module_of(self.body, node)
            called = name_of(node) if module is None else f"{node.target} {' '.join(repr(module).split())}"
            options = f" {node.kwargs}" if node.kwargs else ""
            lines.append(re.sub(r" at 0x\w+", "", f"{node} = {called} {node.args}{options}"))
        return lines


def spiking(network: nn.Module, config: ConversionConfig, images: Tensor | None = None) -> ConvertedNetwork:
    """Replace a network's activations by integrate-and-fire neurons, whose thresholds `calibrate` finds afterwards.

    Args:
        network: An artificial network; left as it is.
        config: How.
        images: Some images, for `trace`.

    Returns:
        The spiking network, in evaluation mode. Neurons that replace a QCFS have its threshold.

    Raises:
        OnespikeError: There is no activation, something cannot be converted (its path is named), or the network's
            forward pass cannot be traced.
    """
    time_steps, population, real_shortcuts = config.time_steps, config.population, config.shortcuts == "real"
    parameters = list(network.parameters())
    for parameter in parameters:
        if parameter.dtype not in (torch.float32, torch.float64):
            raise OnespikeError(f"expected weights of float32 or float64, got {parameter.dtype}: use model.float()")
    graph = trace(network, images, config.batch_norm == "folded")
    steps = list(_plan(graph, config.neurons == "channel"))
    real = [step for step in steps if step.kind == "real"]
    if real and not config.allow_real:
        names = ", ".join(f"{step.path} ({_called(step)})" for step in real)
        raise OnespikeError(f"cannot be converted: {names}; --allow-real (allow_real=True) leaves these real-valued")
    activations = {step.path: step.function for step in steps if step.kind == "activation"}
    if not activations:
        raise OnespikeError("no activation to convert: expected ReLU, GELU, SiLU or QCFS in the network")
    bypassed = 0
    for step in steps:
        if step.kind == "activation":
            bypassed += real_shortcuts and _bypass(graph, step, time_steps)
            module: nn.Module = IntegrateFire(*step.channels, time_steps, config.surrogate, population)
        elif step.kind == "pooling of spikes":
            module = PoolSpikes(step.function, time_steps)
        else:
            degree = {"pooling": 1, "product": 2}.get(step.kind)
            module = OverMeans(step.function, step.varying, time_steps, degree)
        if parameters:
            module.to(parameters[0] if step.kind == "activation" else parameters[0].device)
        if isinstance(step.function, QCFS):
            nn.init.constant_(module.get_parameter("raw_threshold"), step.function.raw_threshold.item())
        _replace(graph, step.node, step.path, module, keep_options=step.kind != "activation")
    if real_shortcuts and not bypassed:
        raise OnespikeError(
            "shortcuts: expected spikes: no activation of this network is both weighed and added, so none can be added "
            "as it is"
        )
    graph.delete_all_unused_submodules()
    graph.recompile()
    for module in graph.modules():
        if isinstance(module, WEIGHTS) and module.bias is None:  # what calibration corrects
            rows = module.out_channels if isinstance(module, _ConvNd) else module.out_features
            module.bias = nn.Parameter(module.weight.new_zeros(rows))
    return ConvertedNetwork(graph, activations, tuple(step.path for step in real), config).eval()


class _Step(NamedTuple):
    """How a node that is not linear is replaced: its kind, what it computes, its new path.

    `channels` are number and axis of those with a threshold each, `varying` the arguments that depend on the images.
    """

    node: fx.Node
    kind: str
    function: Any
    path: str
    channels: tuple[int | None, int]
    varying: tuple[int | str, ...]


def _plan(graph: fx.GraphModule, per_channel: bool) -> Iterator[_Step]:
    """Say what each node is that depends on the images and is not linear."""
    reached, spikes = reached_by_images(graph), set[fx.Node]()
    alike = set[fx.Node]()  # spikes that may be pooled: they have one threshold, or one for each channel
    taken = {path for path, _ in graph.named_modules()}
    planned = set[str]()
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        name = "" if module is not None else name_of(node)
        inputs = reached.intersection(node.all_input_nodes)
        if not inputs or node not in reached or node.op == "output":
            continue
        arguments = (*enumerate(node.args), *node.kwargs.items())
        varying = tuple(key for key, one in arguments if isinstance(one, fx.Node) and one in inputs)
        kind: str = kind_of(module, node, varying, bool(spikes & inputs))
        if kind == "pooling" and inputs <= alike:
            kind = "pooling of spikes"
        moves = name in RESHAPING or isinstance(module, nn.Flatten | nn.Identity)
        for sort in (spikes, alike):
            if kind in ("activation", "pooling of spikes") or (moves and inputs <= sort):
                sort.add(node)
        if name == "stack" or (name in ("cat", "concat") and node.kwargs.get("dim", (*node.args[1:2], 0)[0]) != 1):
            alike.discard(node)
        if kind == "linear":
            continue
        path = str(node.target) if module is not None else ".".join(filter(None, [_owner(node), node.name]))
        if module is None or path in planned:  # a module that is called again is another layer of neurons
            path = free_path(path, taken)
        planned.add(path)
        taken.add(path)
        if kind == "activation" and module is None:
            function: Any = activation_of(node)
        else:
            function = copy.deepcopy(module) if module is not None else _callable(node)
        if len({id(one) for _, one in arguments} & set(map(id, inputs))) < len(inputs):
            raise OnespikeError(f"cannot be converted: {path} ({name}) takes its tensors in a list")
        own = channels(graph, node) if per_channel and kind == "activation" else (None, 1)
        yield _Step(node, kind, function, path, own, varying)


def _replace(graph: fx.GraphModule, node: fx.Node, path: str, module: nn.Module, keep_options: bool) -> None:
    """Call a module instead of a node; without the node's options it takes the first input alone."""
    graph.add_submodule(path, module)
    with graph.graph.inserting_after(node):
        arguments, options = (node.args, node.kwargs) if keep_options else ((node.all_input_nodes[0],), {})
        new = graph.graph.call_module(path, arguments, options)
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)


def _bypass(graph: fx.GraphModule, step: _Step, time_steps: int) -> bool:
    """Let the additions behind an activation read its real value; whether there are any, and others that weigh it."""
    node, path = step.node, f"{step.path}_shortcut"
    additions = [user for user in node.users if user.op != "call_module" and name_of(user) in ("add", "add_")]
    if not 0 < len(additions) < len(node.users):
        return False
    graph.add_submodule(path, OverMeans(copy.deepcopy(step.function), (0,), time_steps))
    with graph.graph.inserting_after(node):
        value = graph.graph.call_module(path, (node.all_input_nodes[0],))
    for addition in additions:
        addition.replace_input_with(node, value)
    return True


def _called(step: _Step) -> str:
    """What a node calls, in words."""
    return type(step.function).__name__ if isinstance(step.function, nn.Module) else name_of(step.node)


def _owner(node: fx.Node) -> str:
    """Path of the module whose forward pass calls the node's function."""
    stack = node.meta.get("nn_module_stack") or {"": ("",)}
    return str(list(stack.values())[-1][0])


def _callable(node: fx.Node) -> Callable[..., Any]:
    """What a node does, to be called with its arguments."""
    name = str(node.target)
    if node.op == "call_method":
        return lambda x, *arguments, **options: getattr(x, name)(*arguments, **options)
    return node.target  # type: ignore[return-value]
