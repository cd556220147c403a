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

import torch
from torch import Tensor, fx, nn

from onespike.conversion import kinds
from onespike.conversion.config import ConversionConfig
from onespike.conversion.kinds import WEIGHTS, module_of, name_of
from onespike.conversion.over_time import OverMeans, PoolSpikes
from onespike.conversion.plan import Step, plan
from onespike.conversion.shortcuts import add_real_values
from onespike.conversion.trace import call, trace
from onespike.errors import OnespikeError
from onespike.neurons.integrate_fire import QCFS, IntegrateFire
from onespike.neurons.watch import neuron_layers

#: Functions by which an unknown neuron fires.
FIRING = {"gt", "ge", "heaviside"}


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
    steps = list(plan(graph, config.neurons == "channel"))
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
    if config.shortcuts == "real" and not add_real_values(graph, steps, taken, config.time_steps):
        why = "no activation of this network is both weighed and added, so none can be added as it is"
        raise OnespikeError(f"shortcuts: expected spikes: {why}")
    first = next(network.parameters(), None)
    for step in steps:
        module = _over_time(step, config)
        if first is not None:
            module.to(first if step.kind == "activation" else first.device)
        step.node.replace_all_uses_with(call(graph, step.node, step.path, module, step.kind != "activation"))
        graph.graph.erase_node(step.node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    for layer in graph.modules():
        if isinstance(layer, WEIGHTS) and layer.bias is None:  # for calibration to correct
            layer.bias = nn.Parameter(layer.weight.new_zeros(kinds.channels_of(layer)[1]))
    return ConvertedNetwork(graph, activations, tuple(step.path for step in real), config).eval()


def _over_time(step: Step, config: ConversionConfig) -> nn.Module:
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
