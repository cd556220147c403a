"""Trace a network into a graph to convert: evaluation mode, no operations in place, batch norm folded."""

import copy
import itertools
import operator
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, Conv2dSame, SyncBatchNormAct, get_notrace_functions
from timm.models.vgg import ConvMlp
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from onespike.conversion.kinds import ACTIVATIONS, LINEAR, MAX_POOLS, WEIGHTS, module_of, reached_by_images
from onespike.errors import OnespikeError, lacks_memory, reason
from onespike.models.affine import Affine
from onespike.neurons.copies import copied
from onespike.units.channel import ChannelLinear
from onespike.units.layers import Conv3x3

#: Convolutions that use their weights as they are. Another subclass may standardise or mask them first.
FOLDING = {nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d}
FOLDING |= {Conv2dSame, Conv3x3}
#: A subclass of a known layer is taken for that layer if it is from one of these packages, or changes no more than the
#: constructor; others are traced.
PACKAGES = ("torch", "torchvision", "timm", "onespike")
#: What torch.fx replaces while it traces.
_PLAIN = {name: getattr(nn.Module, name) for name in ("__call__", "__getattr__")}


def trace(network: nn.Module, images: Tensor, fold: bool) -> fx.GraphModule:
    """Trace a network by torch.fx, in evaluation mode; it is left as it is.

    The graph has weights of its own, and a copy of a weight layer for each call of it. The shape of each tensor, for
    images (N, C, H, W), is in `node.meta["shape"]`. With `fold`, batch norm is folded into the layers before it. It is
    an `OnespikeError` if the network cannot be copied or traced, or does not take the images.
    """
    root = copied(network)
    for path, module in list(root.named_modules(remove_duplicate=False)):  # one may be there under several names
        # Layers of timm's that are several layers, or that look at shapes, are taken apart.
        if isinstance(module, BatchNormAct2d | SyncBatchNormAct):
            norm: Any = copy.copy(module)
            norm.__class__, norm._modules = nn.BatchNorm2d, {}
            root.set_submodule(path, nn.Sequential(norm, module.drop, module.act).eval())
        elif isinstance(module, ConvMlp):
            parts = (module.fc1, module.act1, module.drop, module.fc2, module.act2)
            root.set_submodule(path, nn.Sequential(AtLeast(module.input_kernel_size), *parts))
        elif isinstance(module, _BatchNorm) and _known(module) is None:  # traced, where it may look at no shape
            setattr(module, "_check_input_dim", lambda _: None)  # noqa: B010 - a method of the class
    try:
        graph = fx.GraphModule(root, _Tracer(images).trace(root))
    except Exception as error:  # whatever a network's own code does when it meets a placeholder
        state = "the network's forward pass cannot be traced by torch.fx"
        calls = [one for one in traceback.extract_tb(error.__traceback__) if one.filename != __file__]
        own = [one for one in calls if "torch" not in Path(one.filename).parts]  # the network's code, not torch's
        where = "".join(f" ({Path(one.filename).name}, line {one.lineno}: {one.line})" for one in own[-1:])
        raise OnespikeError(f"{state}: {reason(error, first=True)}{where}") from error
    for module in graph.modules():
        if (known := _known(module)) is not None:
            module.__class__ = known
    _out_of_place(graph)
    _unshare(graph)
    interpreter = fx.Interpreter(graph, garbage_collect_values=False)
    with torch.no_grad(), taking(len(images)):
        interpreter.run(images)
    for node, value in interpreter.env.items():
        if isinstance(value, Tensor):
            node.meta["shape"] = value.shape
    if fold:
        _fold(graph)
    return graph


@contextmanager
def taking(count: int, blamed: type[Exception] | tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what a graph raises on this many images into an `OnespikeError`; a lack of memory passes through.

    Where the error is one of `blamed`, their number is to blame, and the message says so.
    """
    try:
        yield
    except Exception as error:  # for one, if it uses an argument that is None, or knows the number of images
        if isinstance(error, OnespikeError) or lacks_memory(error):
            raise
        state = f"the network's graph by torch.fx does not take {count} images"
        expected = "; expected a forward pass that takes any number of them" if isinstance(error, blamed) else ""
        raise OnespikeError(f"{state}: {reason(error, first=True)}{expected}") from error


def call(graph: fx.GraphModule, node: fx.Node, path: str, module: nn.Module, options: bool) -> fx.Node:
    """Call a module after a node, with its first input, or with all and the options."""
    graph.add_submodule(path, module)
    arguments = (node.args, node.kwargs) if options else ((node.all_input_nodes[0],),)
    with graph.graph.inserting_after(node):
        return graph.graph.call_module(path, *arguments)


def free_path(path: str, taken: set[str]) -> str:
    """The path if it is not taken, else the first of path_2, path_3, ... that is not; it is taken from then on."""
    candidates = (f"{path}_{number}" if number > 1 else path for number in itertools.count(1))
    free = next(one for one in candidates if one not in taken)
    taken.add(free)
    return free


class AtLeast(nn.AdaptiveAvgPool2d):
    """Average pooling that stretches a map that is smaller than the next layer's kernel, as timm's VGG does."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to sides of at least `output_size`."""
        height, width = (max(int(self.output_size), side) for side in x.shape[-2:])  # type: ignore[arg-type]
        return x if (height, width) == x.shape[-2:] else F.adaptive_avg_pool2d(x, (height, width))


class _Tracer(fx.Tracer):
    def __init__(self, images: Tensor) -> None:
        # Functions of timm's that compute with sizes stay whole, such as the one that fits a position embedding.
        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self._images, self._values = images.clone(), dict[fx.Node, Any]()

    @torch.no_grad()
    def to_bool(self, obj: fx.Proxy) -> bool:
        """Decide a condition on sizes alone as for these images; the graph then asserts that it is the same."""
        if obj.node in reached_by_images(self.graph):
            return super().to_bool(obj)
        interpreter = fx.Interpreter(self.root, garbage_collect_values=False, graph=self.graph)
        interpreter.args_iter, interpreter.env = iter([self._images]), self._values
        with patch.multiple(nn.Module, **_PLAIN):
            for node in self.graph.nodes:
                if node not in self._values:
                    self._values[node] = interpreter.run_node(node)
        answer = bool(self._values[obj.node])
        alike = self.create_proxy("call_function", operator.truth if answer else operator.not_, (obj,), {})
        message = "expected images of the sizes that the network was converted for"
        self.create_proxy("call_function", torch._assert, (alike, message), {})
        return answer

    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        return _known(module) is not None or super().is_leaf_module(module, path)

    def create_args_for_root(self, *given: Any) -> tuple[Any, list[Any]]:
        function, arguments = super().create_args_for_root(*given)
        # Options behind the images keep their defaults: as inputs of the graph they would be as unknown as the images.
        for place, one in enumerate(arguments[2:], 2):
            if isinstance(one, fx.Proxy) and one.node.args:
                arguments[place] = one.node.args[0]
                self.graph.erase_node(one.node)
        return function, arguments


def _known(module: nn.Module) -> type[nn.Module] | None:
    """The class of a known layer, from `PACKAGES`, that a module is but for its constructor; None if it is none.

    In single-step mode, SpikingJelly's layers are PyTorch's.
    """
    kind: Any = type(module)
    single = getattr(module, "step_mode", None) == "s"
    while kind.__module__.split(".")[0] not in PACKAGES:
        wraps = single and kind.__module__.startswith("spikingjelly.activation_based.layer")
        own = {name for name, one in vars(kind).items() if callable(one) or isinstance(one, property)}
        if not wraps and (own - {"__init__", "reset_parameters"} or len(kind.__bases__) > 1):
            return None
        kind = kind.__bases__[0]
    return kind if issubclass(kind, LINEAR + ACTIVATIONS + MAX_POOLS) else None


def _out_of_place(graph: fx.GraphModule) -> None:
    """Take operations out of place; all later nodes that read the changed tensor read the result instead."""
    order = {node: number for number, node in enumerate(graph.graph.nodes)}
    for node in graph.graph.nodes:
        method = node.op == "call_method" and node.target.endswith("_") and not node.target.endswith("__")
        name, home = (str(getattr(node.target, part, "")) for part in ("__name__", "__module__"))
        named = name.endswith("_") and home != "_operator"  # a & b is operator.and_
        inplace = getattr(module_of(graph, node), "inplace", False) or node.kwargs.get("inplace") or method or named
        if not inplace or not node.all_input_nodes:
            continue
        changed = node.all_input_nodes[0]
        for user in [user for user in changed.users if order[user] > order[node]]:
            user.replace_input_with(changed, node)
        if "inplace" in node.kwargs:
            node.update_kwarg("inplace", False)
        if method:
            twin: Any = node.target.rstrip("_")
            known = callable(getattr(Tensor, twin, None))
        else:
            own = (place for place in (torch, F) if named and getattr(place, name, None) is node.target)
            twin = getattr(next(own, None), name.rstrip("_"), None)
            known = callable(twin)
        if known:
            node.target = twin
        elif method or named:  # no twin, such as `zero`: a copy is changed
            with graph.graph.inserting_before(node):
                node.replace_input_with(changed, graph.graph.call_method("clone", (changed,)))
    for module in graph.modules():
        if hasattr(module, "inplace"):
            setattr(module, "inplace", False)  # noqa: B010 - not every module has one
    graph.recompile()


def _unshare(graph: fx.GraphModule) -> None:
    """Give every call of a weight layer weights of its own, since each is corrected on its own."""
    taken = {path for path, _ in graph.named_modules()}
    parameters = dict(graph.named_parameters(remove_duplicate=False))
    # What functions read, as tied weights, stays as it is.
    read = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]
    called, used = {path.rpartition(".")[0] for path in read}, {parameters[one] for one in read if one in parameters}
    for node in graph.graph.nodes:
        layer = module_of(graph, node)
        if not isinstance(layer, WEIGHTS):
            continue
        if used.intersection(layer.parameters()):  # it is called again, or tied to another
            layer = copy.deepcopy(layer)
            node.target = free_path(str(node.target), taken) if node.target in called else node.target
            graph.add_submodule(node.target, layer)
        called.add(node.target)
        used.update(layer.parameters())
    graph.recompile()


def _fold(graph: fx.GraphModule) -> None:
    """Fold batch norm into the layer before; where that is impossible, it becomes an affine map."""
    for node in list(graph.graph.nodes):
        norm = module_of(graph, node)
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
            continue
        before = node.all_input_nodes[0]
        layer: Any = module_of(graph, before)
        flat = type(layer) is nn.Linear and len(before.meta["shape"]) == 2
        fold: Any = None
        if type(layer) in FOLDING and (not layer.transposed or layer.groups == 1):  # torch's fusion takes no others
            fold = partial(fuse_conv_bn_eval, transpose=layer.transposed)
        elif flat or (type(layer) is ChannelLinear and isinstance(norm, nn.BatchNorm2d)):  # norm's channels: axis 1
            # torch's fusion of linear layers takes no norm without weights, that of convolutions does.
            fold = fuse_linear_bn_eval if norm.weight is not None else None
        if fold and len(before.users) == 1:
            fused = fold(layer, norm)
            # Where the layer had no bias, torch's fusion takes the new one for frozen, as running statistics are.
            trained = [one for one in (layer.weight, layer.bias, norm.bias) if one is not None and one.requires_grad]
            fused.bias.requires_grad_(bool(trained))
            graph.set_submodule(before.target, fused)
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
        else:
            graph.set_submodule(node.target, Affine.of(norm))
    graph.recompile()
