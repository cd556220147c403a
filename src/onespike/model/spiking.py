"""From an artificial network's graph to a spiking one's: batch norm folded, activations exchanged for neurons.

torch.fx traces the network into a graph of modules and functions. Each node that the images reach is one of:

    linear       convolution, linear layer, affine map, average pooling, addition, reshaping: stays, for it maps means
                 to means
    activation   ReLU, GELU, SiLU, a staircase: becomes `IntegrateFire`
    pooling      max pooling: becomes `OverMeans` of it, spikes in, spikes out
    product      of two tensors, at least one of spikes: becomes `OverMeans` of it, sums of spike counts
    real         all else: refused by its path; or, where that is allowed, left real-valued, inside `OverMeans`
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch.nn.functional as F
from timm.layers import BatchNormAct2d, DropPath
from timm.layers.activations import GELU, Swish
from timm.models.vgg import ConvMlp
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from onespike.errors import OnespikeError
from onespike.model.affine import Affine
from onespike.units.channel import ChannelLinear
from onespike.units.integrate import IntegrateFire, OverMeans, Staircase

WEIGHTS = (_ConvNd, nn.Linear)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, GELU, Swish, Staircase)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
#: Linear modules that keep channels where they are: a neuron behind them belongs to a channel of the layer before.
PASSING = (Affine, nn.Identity, nn.Dropout, nn.Dropout2d, DropPath, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
LINEAR = (
    *(*WEIGHTS, *PASSING, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Flatten),
    *(nn.Unflatten, nn.ZeroPad2d, nn.PixelShuffle, nn.PixelUnshuffle, nn.Upsample),
)

#: Functions of `torch`, `torch.nn.functional` and `operator`, and methods of tensors, by name.
FUNCTIONAL: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu_": nn.ReLU, "relu6": nn.ReLU6, "silu": nn.SiLU}
FUNCTIONAL |= {"gelu": nn.GELU}
MAX_POOL_NAMES = ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d")
PRODUCTS = {"mul", "imul", "mul_", "matmul", "bmm", "addcmul", "truediv", "div"}
RESHAPING = {
    *("flatten", "unflatten", "reshape", "view", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "expand"),
    *("getitem", "roll", "cat", "concat", "stack", "chunk", "split", "unbind", "contiguous", "clone", "narrow"),
    *("t", "T", "mT"),
}
LINEAR_NAMES = RESHAPING | {
    *("add", "add_", "iadd", "sub", "sub_", "isub", "neg", "mean", "sum", "linear", "conv1d", "conv2d", "conv3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool2d", "dropout", "pad", "interpolate", "to", "float"),
}
#: Reshaping, with its arguments, that leaves channels on axis 1, or makes a row of the last map of one pixel.
_LEAVING = {("flatten", 1), ("flatten", 1, -1), ("cat", 1), ("concat", 1)}
#: Functions that keep channels where they are.
KEEPING = {*FUNCTIONAL, *MAX_POOL_NAMES, "add", "add_", "iadd", "dropout", "avg_pool2d"}
#: What tells of a tensor's shape alone.
SHAPES = {"size", "dim", "numel", "shape", "ndim", "device", "dtype", "_assert"}


class ConvertedNetwork(nn.Module):
    """A plain integrate-and-fire network: images at each of T time steps, logits averaged.

    Args:
        graph: The graph, with `IntegrateFire` in place of activations.
        activations: What each neuron stands for, by its path in the graph.
        real: Paths of what is left real-valued.
        time_steps: T.
    """

    def __init__(
        self, graph: fx.GraphModule, activations: dict[str, nn.Module], real: tuple[str, ...], time_steps: int
    ) -> None:
        super().__init__()
        self.graph, self.real, self.time_steps = graph, real, time_steps
        self._activations = (activations,)  # in a tuple: they are no part of this network

    @property
    def neurons(self) -> dict[str, IntegrateFire]:
        """The neurons by their path, in the order in which a batch meets them."""
        return {path: self.graph.get_submodule(path) for path in self._activations[0]}  # type: ignore[misc]

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, C, H, W); logits (B, K)."""
        steps = images.repeat(self.time_steps, *[1] * (images.ndim - 1))
        return self.graph(steps).unflatten(0, (self.time_steps, -1)).mean(0)

    def analog(self) -> fx.GraphModule:
        """The artificial network that this one stands for, node by node the same graph, with weights of its own."""
        graph = copy.deepcopy(self.graph)
        for path, activation in self._activations[0].items():
            graph.set_submodule(path, copy.deepcopy(activation))
        for module in graph.modules():
            if isinstance(module, OverMeans):
                module.time_steps = 1
        return graph


def spiking(
    network: nn.Module, per_channel: bool, surrogate: str, time_steps: int, allow_real: bool = False
) -> ConvertedNetwork:
    """Exchange a network's activations for integrate-and-fire neurons. Their thresholds are still to be found.

    Args:
        network: An artificial network; left as it is.
        per_channel: A threshold per channel, where the channels' axis is known, rather than one per layer.
        surrogate: Stand-in for the derivative of firing.
        time_steps: T.
        allow_real: Leave real-valued what cannot be converted, rather than refuse it.

    Returns:
        The spiking network, in evaluation mode. Neurons that stand for a staircase have its threshold.

    Raises:
        OnespikeError: There is no activation, something cannot be converted (its path is named), or the network's
            forward pass cannot be traced.
    """
    graph = _trace(network)
    _fold(graph)
    steps = list(_plan(graph, per_channel))
    real = [step for step in steps if step.kind == "real"]
    if real and not allow_real:
        names = ", ".join(f"{step.path} ({_called(step.function)})" for step in real)
        raise OnespikeError(f"cannot be converted: {names}; --allow-real (allow_real=True) leaves these real-valued")
    activations = {step.path: step.function for step in steps if step.kind == "activation"}
    if not activations:
        raise OnespikeError("no activation to convert: expected ReLU, GELU, SiLU or a staircase in the network")
    for step in steps:
        if step.kind == "activation":
            neurons = IntegrateFire(*step.channels, time_steps, surrogate)
            if isinstance(step.function, Staircase):
                neurons.raw_threshold.data.fill_(step.function.raw_threshold.item())
            _exchange(graph, step.node, step.path, neurons, keep_options=False)
        else:
            over_means = OverMeans(step.function, step.varying, time_steps)
            _exchange(graph, step.node, step.path, over_means, keep_options=True)
    graph.delete_all_unused_submodules()
    graph.recompile()
    for module in graph.modules():
        if isinstance(module, WEIGHTS) and module.bias is None:  # what calibration corrects
            rows = module.out_channels if isinstance(module, _ConvNd) else module.out_features
            module.bias = nn.Parameter(module.weight.new_zeros(rows))
    return ConvertedNetwork(graph, activations, tuple(step.path for step in real), time_steps).eval()


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return isinstance(module, (*LINEAR, *ACTIVATIONS, *MAX_POOLS)) or super().is_leaf_module(module, path)


def _trace(network: nn.Module) -> fx.GraphModule:
    root = copy.deepcopy(network).eval()
    for path, module in list(root.named_modules()):
        # Layers of timm's that are several layers, or that look at shapes, are taken apart.
        if isinstance(module, BatchNormAct2d):
            norm = nn.BatchNorm2d(module.num_features, module.eps)
            norm.load_state_dict({name: value for name, value in module.state_dict().items() if "." not in name})
            root.set_submodule(path, nn.Sequential(norm, module.drop, module.act).eval())
        elif isinstance(module, ConvMlp):
            root.set_submodule(path, nn.Sequential(module.fc1, module.act1, module.drop, module.fc2, module.act2))
    for module in root.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010 - not every module has one
    try:
        return fx.GraphModule(root, _Tracer().trace(root))
    except Exception as error:  # whatever a network's own code does when it meets a placeholder
        reason = " ".join(str(error).split())
        raise OnespikeError(f"the network's forward pass cannot be traced by torch.fx: {reason}") from error


def _fold(graph: fx.GraphModule) -> None:
    """Fold batch norm into the layer before; one that stands alone becomes an affine map."""
    uses = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    for node in list(graph.graph.nodes):
        norm = graph.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
            continue
        before = node.args[0]
        layer = graph.get_submodule(before.target) if before.op == "call_module" else None
        fold: Callable[..., nn.Module] | None = None
        if isinstance(layer, _ConvNd):
            fold = partial(fuse_conv_bn_eval, transpose=layer.transposed)
        elif isinstance(layer, ChannelLinear) == isinstance(norm, nn.BatchNorm2d):  # both know where channels are
            fold = fuse_linear_bn_eval
        if fold and isinstance(layer, WEIGHTS) and len(before.users) == 1 and uses[before.target] == 1:
            graph.set_submodule(before.target, fold(layer, norm))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
        else:
            graph.set_submodule(node.target, Affine.of(norm))
    graph.recompile()


class _Step(NamedTuple):
    """What becomes of a node that is not linear: its kind, what it computes, its new path; channels of its currents."""

    node: fx.Node
    kind: str
    function: Any
    path: str
    channels: tuple[int | None, int]
    varying: tuple[bool, ...]


def _plan(graph: fx.GraphModule, per_channel: bool) -> Iterator[_Step]:
    """Say of each node that the images reach, and that is not linear, what it is."""
    reached, spikes = set[fx.Node](), set[fx.Node]()
    paths: Counter[str] = Counter()
    for node in graph.graph.nodes:
        module = graph.get_submodule(node.target) if node.op == "call_module" else None
        name = "" if module is not None else _name(node)
        inputs = reached.intersection(node.all_input_nodes)
        if node.op == "placeholder" or (inputs and name not in SHAPES):
            reached.add(node)
        if not inputs or name in SHAPES or node.op == "output":
            continue
        count = sum(argument in inputs for argument in node.args)  # x * x has two of them
        kind = _kind(module, name, count, bool(spikes & inputs), node.args[0] in inputs)
        moves = kind == "pooling" or name in RESHAPING or isinstance(module, nn.Flatten | nn.Identity)
        if kind == "activation" or (moves and inputs <= spikes):
            spikes.add(node)
        if kind == "linear":
            continue
        path = str(node.target) if module is not None else ".".join(filter(None, [_owner(node), node.name]))
        paths[path] += 1  # a module that is called several times is several layers of neurons
        if paths[path] > 1:
            path = f"{path}_{paths[path]}"
        if kind == "activation" and module is None:
            options = {key: value for key, value in node.kwargs.items() if key == "approximate"}
            function: Any = FUNCTIONAL[name](**options)
        else:
            function = copy.deepcopy(module) if module is not None else _callable(node)
        channels = _channels(graph, node) if per_channel and _factor_folds(graph, node) else (None, 1)
        yield _Step(node, kind, function, path, channels, tuple(argument in reached for argument in node.args))


def _kind(module: nn.Module | None, name: str, inputs: int, spiking: bool, first: bool) -> str:
    """Classify a node by its module or function; its inputs: how many, any of spikes, the first argument one?"""
    if isinstance(module, ACTIVATIONS) or name in FUNCTIONAL:
        return "activation"
    if isinstance(module, MAX_POOLS) or name in MAX_POOL_NAMES:
        return "pooling"
    if isinstance(module, LINEAR) or name in LINEAR_NAMES:
        return "linear"
    if name in PRODUCTS and inputs == 1 and (first or "div" not in name):
        return "linear"
    return "product" if name in PRODUCTS and spiking and "div" not in name else "real"


def _exchange(graph: fx.GraphModule, node: fx.Node, path: str, module: nn.Module, keep_options: bool) -> None:
    """Put a module in the place of a node; without its options it takes the first argument alone."""
    graph.add_submodule(path, module)
    with graph.graph.inserting_after(node):
        arguments, options = (node.args, node.kwargs) if keep_options else (node.args[:1], {})
        new = graph.graph.call_module(path, arguments, options)
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)


def _name(node: fx.Node) -> str:
    """Name of the function, method or attribute that a node reads."""
    if node.target is getattr:
        return str(node.args[1])
    # Max pooling is called through a dispatcher that has no name of its own.
    pools = [name for name in MAX_POOL_NAMES if node.target is getattr(F, name)]
    return pools[0] if pools else str(getattr(node.target, "__name__", node.target))


def _called(function: Any) -> str:
    return type(function).__name__ if isinstance(function, nn.Module) else str(getattr(function, "__name__", function))


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


def _factor_folds(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a neuron's output could have a factor per channel and still be a spike to whatever weighs it.

    The factor folds into weights that belong to a channel. Token mixing and attention sum over something else.
    """
    for user in node.users:
        module = graph.get_submodule(str(user.target)) if user.op == "call_module" else None
        name = "" if module is not None else _name(user)
        if isinstance(module, WEIGHTS) or name in SHAPES or user.op == "output":
            continue
        moved = name in RESHAPING and (name, *user.args[1:], *user.kwargs.values()) not in _LEAVING
        several = name in PRODUCTS and sum(isinstance(one, fx.Node) for one in user.args) > 1
        if moved or several or not _factor_folds(graph, user):
            return False
    return True


def _channels(graph: fx.GraphModule, node: fx.Node) -> tuple[int | None, int]:
    """Number and axis of the channels that a neuron's currents have: those of the weight layer they come from."""
    while node.args and isinstance(node.args[0], fx.Node):
        node = node.args[0]
        module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, _ConvNd):
            return module.out_channels, 1
        if isinstance(module, nn.Linear):
            return module.out_features, -3 if isinstance(module, ChannelLinear) else -1
        if not isinstance(module, (*PASSING, *MAX_POOLS, *ACTIVATIONS)) and _name(node) not in KEEPING:
            break
    return None, 1
