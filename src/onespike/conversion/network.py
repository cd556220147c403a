"""From an artificial network to a spiking one: integrate-and-fire neurons replace its activations.

torch.fx traces the network into a graph of modules and functions. Each node that depends on the images is one of:

    linear       convolution, linear layer, affine map, average pooling, addition, reshaping: stays, since it maps means
                 to means
    activation   ReLU, GELU, SiLU, QCFS: becomes `IntegrateFire`
    pooling      max pooling: becomes `PoolSpikes` where spikes come in, else `OverMeans`
    product      of two tensors, at least one of spikes: becomes `OverMeans`, a product of spike counts
    real         all else: refused, its path is named; or, with `allow_real`, left real-valued inside `OverMeans`

The batch axis holds time: a tensor (T*B, …) is T time steps of B images, one step after the other.
"""

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from onespike.conversion import kinds
from onespike.conversion.channels import channels
from onespike.conversion.config import ConversionConfig
from onespike.conversion.kinds import WEIGHTS, module_of, name_of, reached_by_images
from onespike.conversion.trace import free_path, trace
from onespike.errors import OnespikeError
from onespike.neurons.integrate_fire import QCFS, IntegrateFire
from onespike.neurons.watch import neuron_layers

#: Functions by which an unknown neuron fires.
FIRING = {"gt", "ge", "heaviside"}


class OverMeans(nn.Module):
    """Apply a nonlinear function to spike trains, so that the mean over time is right.

        out(t) = F(t) - F(t-1)          F(t) = t f(m(t)), m(t) the mean of the inputs up to step t

    The mean of the outputs is then f of the mean of the inputs. If f is homogeneous of degree d, F(t) is computed from
    sums, as t^(1-d) f(t m(t)): a product of two spike trains then multiplies spike counts. At one time step it is f.
    `varying` are the positions and names of the arguments that vary over time; the others are passed on.
    """

    def __init__(
        self, function: Callable[..., Any], varying: tuple[int | str, ...], time_steps: int, degree: int | None = None
    ) -> None:
        super().__init__()
        self.function, self.varying, self.time_steps, self.degree = function, varying, time_steps, degree

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Apply the function to the running means (or sums) of the inputs."""
        if self.time_steps == 1:
            return self.function(*inputs, **options)
        out = self.function(
            *(self._so_far(x) if place in self.varying else x for place, x in enumerate(inputs)),
            **{name: self._so_far(x) if name in self.varying else x for name, x in options.items()},
        )
        return tuple(map(self._steps, out)) if isinstance(out, tuple) else self._steps(out)

    def kept_over_time(self, out: Any, *inputs: Any, **options: Any) -> tuple[int, int]:
        """How many values a time step keeps for the next, sums and F(t), and the number of steps."""
        given = [x for place, x in (*enumerate(inputs), *options.items()) if place in self.varying]
        found = [one for one in (*given, *(out if isinstance(out, tuple) else [out])) if isinstance(one, Tensor)]
        return sum(one.numel() for one in found) // self.time_steps, self.time_steps

    def _so_far(self, x: Tensor) -> Tensor:
        looks_up = isinstance(self.function, nn.Embedding | nn.EmbeddingBag) or self.function is F.embedding
        sums = (self._split(x, "reads") if looks_up else x.unflatten(0, (self.time_steps, -1))).cumsum(0)
        return (sums if self.degree is not None else sums / self._counts(sums)).flatten(0, 1)

    def _steps(self, out: Tensor | None) -> Tensor | None:
        if out is None:
            return None
        out = self._split(out, "gives")
        return _changes(out * self._counts(out) ** (1 - (self.degree or 0))).flatten(0, 1)

    def _split(self, x: Tensor, verb: str) -> Tensor:
        """View (T*B, …) as (T, B, …); `OnespikeError` for what has no mean, which the function "reads" or "gives"."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            name = getattr(self.function, "__name__", type(self.function).__name__)
            found = x.dtype if isinstance(x, Tensor) else "tensors within tuples"
            raise OnespikeError(f"cannot run over several time steps: {name} {verb} {found}; expected one time step")
        return x.unflatten(0, (self.time_steps, -1))

    def _counts(self, x: Tensor) -> Tensor:
        return torch.arange(1, self.time_steps + 1, device=x.device, dtype=x.dtype).view(-1, *[1] * (x.ndim - 1))


class PoolSpikes(nn.Module):
    """Max pooling of spikes: a spike passes whenever the highest spike count in the window grows.

        out(t) = f(S(t))  where f(n(t)) > f(n(t-1)), else 0          n(t): spikes of each neuron up to step t

    Here f is max pooling over neurons of one threshold. The output rate is exactly the largest rate in the window.
    """

    def __init__(self, function: Callable[..., Tensor], time_steps: int) -> None:
        super().__init__()
        self.function, self.time_steps = function, time_steps

    def forward(self, input: Tensor, *inputs: Any, **options: Any) -> Tensor:  # noqa: A002 - as torch's pooling calls it
        """Pool (T*B, …), whose values are 0 or the threshold; at one time step f alone."""
        pooled = self.function(input, *inputs, **options)
        if self.time_steps == 1:
            return pooled
        counts = (input != 0).to(input).unflatten(0, (self.time_steps, -1)).cumsum(0).flatten(0, 1)
        highest = self.function(counts, *inputs, **options).unflatten(0, (self.time_steps, -1))
        return pooled * (_changes(highest) > 0).flatten(0, 1)

    def kept_over_time(self, out: Tensor, input: Tensor, *inputs: Any, **options: Any) -> tuple[int, int]:  # noqa: A002, ARG002
        """How many values a time step keeps for the next, counts and the highest, and the number of steps."""
        return (input.numel() + out.numel()) // self.time_steps, self.time_steps


def _changes(x: Tensor) -> Tensor:
    """Differences from step to step, (T, …), of which the first is from 0."""
    return x.diff(dim=0, prepend=torch.zeros_like(x[:1]))


class ConvertedNetwork(nn.Module):
    """A network of integrate-and-fire neurons: it sees the images at each of T time steps and averages the logits.

    `body` is the graph, with `IntegrateFire` at the paths of the `activations`; what is at `real` is left real-valued.
    """

    def __init__(
        self, body: fx.GraphModule, activations: dict[str, nn.Module], real: tuple[str, ...], config: ConversionConfig
    ) -> None:
        super().__init__()
        self.body, self.real, self.config = body, real, config
        self.time_steps, self.population = config.time_steps, config.population
        self._activations = (activations,)  # in a tuple, so that they are not submodules

    @property
    def neurons(self) -> dict[str, IntegrateFire]:
        """The neurons by their path, in the order of the forward pass."""
        return {path: self.body.get_submodule(path) for path in self._activations[0]}  # type: ignore[misc]

    def neuron_groups(self) -> dict[str, list[nn.Module]]:
        """The neurons that a monitor watches, by the path of each layer."""
        return {path: [neurons.firing] for path, neurons in self.neurons.items()}

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, C, H, W); logits (B, K)."""
        steps = images.repeat(self.time_steps, *[1] * (images.ndim - 1))
        return self.body(steps).unflatten(0, (self.time_steps, -1)).mean(0)

    def analog(self) -> fx.GraphModule:
        """The artificial twin: the same graph, with activations, and copies of the weights as they are now.

        A QCFS has its neurons' threshold. If training has moved the thresholds of channels apart, it has their median:
        no single QCFS computes the same as these neurons.
        """
        graph, neurons = copy.deepcopy(self.body), self.neurons
        for path, activation in self._activations[0].items():
            twin = copy.deepcopy(activation)
            if isinstance(twin, QCFS):
                # Of equal ones, as they are until they are trained, the median is the same to the bit.
                twin.raw_threshold.data = neurons[path].raw_threshold.detach().median()
            graph.set_submodule(path, twin)
        for module in graph.modules():
            if isinstance(module, OverMeans | PoolSpikes):
                module.time_steps = 1
        return graph

    def outline(self) -> list[str]:
        """One line for each node of the graph, with all that the weights do not tell, to identify the network."""
        lines = []
        for node in self.body.graph.nodes:
            module = self._activations[0].get(str(node.target)) or module_of(self.body, node)
            called = [name_of(node) or node.target] if module is None else [node.target, *repr(module).split()]
            line = " ".join(map(str, [node, "=", *called, node.args, *filter(None, [node.kwargs])]))
            lines.append(re.sub(r" at 0x\w+", "", line))
        return lines


def spiking(network: nn.Module, config: ConversionConfig, images: Tensor) -> ConvertedNetwork:
    """Replace a network's activations by integrate-and-fire neurons, whose thresholds `calibrate` finds afterwards.

    The network stays as it is; it takes images (N, C, H, W) such as these, whose values do not matter. It is an
    `OnespikeError` if it has no activation, or if something cannot be traced or converted; its path is named.
    """
    if found := next(iter(neuron_layers(network).values()), None):
        raise OnespikeError(f"no activation to convert: the network has neurons already: {type(found).__name__}")
    for parameter in network.parameters():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise OnespikeError(f"expected weights of float32 or float64, got {parameter.dtype}: use model.float()")
    graph = trace(network, images, config.batch_norm == "folded")
    steps = list(_plan(graph, config.neurons == "channel"))
    real = [step for step in steps if step.kind == "real"]
    if real and not config.allow_real:
        names = ", ".join(f"{step.path} ({name_of(step.node) or type(step.function).__name__})" for step in real)
        if FIRING & {name_of(step.node) for step in real}:
            reason = "comparisons make spikes, as in a network that spikes already; expected an artificial one"
            raise OnespikeError(f"cannot be converted: {names}: {reason}")
        raise OnespikeError(f"cannot be converted: {names}; --allow-real (allow_real=True) leaves these real-valued")
    activations = {step.path: step.function for step in steps if step.kind == "activation"}
    if not activations:
        raise OnespikeError("no activation to convert: expected ReLU, GELU, SiLU or QCFS in the network")
    taken = {path for path, _ in graph.named_modules()} | {step.path for step in steps}
    if config.shortcuts == "real" and not sum([_bypass(graph, step, config, taken) for step in steps]):
        why = "no activation of this network is both weighed and added, so none can be added as it is"
        raise OnespikeError(f"shortcuts: expected spikes: {why}")
    first = next(network.parameters(), None)
    for step in steps:
        module = _over_time(step, config)
        if first is not None:
            module.to(first if step.kind == "activation" else first.device)
        step.node.replace_all_uses_with(_call(graph, step.node, step.path, module, step.kind != "activation"))
        graph.graph.erase_node(step.node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    for layer in graph.modules():
        if isinstance(layer, WEIGHTS) and layer.bias is None:  # for calibration to correct
            layer.bias = nn.Parameter(layer.weight.new_zeros(kinds.channels_of(layer)[1]))
    return ConvertedNetwork(graph, activations, tuple(step.path for step in real), config).eval()


class _Step(NamedTuple):
    """A node that is replaced."""

    node: fx.Node
    kind: str
    function: Any  # what it computes
    path: str  # of its replacement
    channels: tuple[int | None, int]  # number and axis of those with a threshold each
    varying: tuple[int | str, ...]  # arguments that depend on the images


def _plan(graph: fx.GraphModule, per_channel: bool) -> Iterator[_Step]:
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
        yield _Step(node, kind, copy.deepcopy(function), path, own, varying)


def _stays(node: fx.Node) -> bool:
    """Whether a node that moves values leaves every axis where it is."""
    if name_of(node) != "getitem":
        return name_of(node) in kinds.STAYING
    if name_of(node.all_input_nodes[0]) in ("chunk", "split"):  # which give several
        return True
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    return all(one is Ellipsis or isinstance(one, slice) for one in index)


def _over_time(step: _Step, config: ConversionConfig) -> nn.Module:
    """Make the module that computes a step over time."""
    if step.kind == "activation":
        surrogate, width = config.surrogate, config.surrogate_width
        neurons = IntegrateFire(*step.channels, config.time_steps, surrogate, config.population, width)
        if isinstance(step.function, QCFS):
            nn.init.constant_(neurons.raw_threshold, step.function.raw_threshold.item())
        return neurons
    if step.kind == "pooling of spikes":
        return PoolSpikes(step.function, config.time_steps)
    return OverMeans(step.function, step.varying, config.time_steps, {"pooling": 1, "product": 2}.get(step.kind))


def _call(graph: fx.GraphModule, node: fx.Node, path: str, module: nn.Module, options: bool) -> fx.Node:
    """Call a module after a node, with its first input, or with all and the options."""
    graph.add_submodule(path, module)
    arguments = (node.args, node.kwargs) if options else ((node.all_input_nodes[0],),)
    with graph.graph.inserting_after(node):
        return graph.graph.call_module(path, *arguments)


def _bypass(graph: fx.GraphModule, step: _Step, config: ConversionConfig, taken: set[str]) -> bool:
    """Let the additions after an activation read its real value; returns whether it has any, beside other readers."""
    users = [user for user in step.node.users if name_of(user) not in kinds.SHAPES]
    additions = [user for user in users if name_of(user) in ("add", "add_")]
    if step.kind != "activation" or not 0 < len(additions) < len(users):
        return False
    real = OverMeans(copy.deepcopy(step.function), (0,), config.time_steps)
    value = _call(graph, step.node, free_path(f"{step.path}_shortcut", taken), real, options=False)
    for addition in additions:
        addition.replace_input_with(step.node, value)
    return True
