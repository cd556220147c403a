"""Counting what a network does while it runs: every operation of the framework passes by and is counted, or named.

Hooks on the modules say where the program is. A dispatch mode below them sees every operation, whatever called it: a
module, a function, autocast, inference mode. One that it does not know stops the audit.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from onespike.counting.elementwise import work
from onespike.counting.products import Tally
from onespike.errors import OnespikeError
from onespike.units.conv import WindowConv


class ProductCounter(TorchDispatchMode):
    """Counts products and element-wise work of a model, by module, during the forward passes inside `watch()`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.tallies: dict[tuple[str, str, object], Tally] = {}  # by path of their module, name, and weights
        self.elementwise: dict[str, Counter[str]] = defaultdict(Counter)  # by path of the module that did it
        self._model, self._modules = model, dict(model.named_modules())
        self._stack: list[str] = []  # paths of the modules that are running
        self._inside_recurrent = 0
        # Parameters and buffers by where they lie in memory: alive, so that their memory is not used again.
        self._original = {_memory(tensor): tensor.detach() for tensor in chain(model.parameters(), model.buffers())}
        # Where weights lie, those included that were made of others: {place: places of the originals}.
        self._weights: dict[int, tuple[int, ...]] = {place: (place,) for place in self._original}
        self._kept: list[Tensor] = []  # what was made of weights: alive, for the same reason
        self._blank: set[int] = set()  # those of them that took a weight's shape or type alone: weight.new_zeros(...)
        # What was done with nothing but weights: (module, operation, arguments, by name, result).
        self._uncounted: list[tuple[str, Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._whole: set[Any] = set()  # operations that are not composed of others

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count during the forward passes inside this context."""
        torch.clear_autocast_cache()  # weights cast before we looked could not be told from activations
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        with ExitStack() as stack:
            stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
            for path, module in self._modules.items():
                for hook in self._hooks(path, module):
                    stack.callback(hook.remove)
            # Compiled parts run as they are written; attention runs as the products that it consists of.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(self)
            yield
        replaced = self._original.keys() - set(map(_memory, chain(self._model.parameters(), self._model.buffers())))
        self._count_as_state(replaced & self._weights.keys())  # buffers that were assigned anew: self.v = self.v + x
        for place in set(map(_memory, self._kept)) - self._original.keys():
            self._weights.pop(place, None)
        for remembered in (self._kept, self._blank, self._uncounted):
            remembered.clear()

    def _hooks(self, path: str, module: nn.Module) -> Iterator[Any]:
        recurrent = isinstance(module, nn.RNNBase)

        def enter(_module: nn.Module, _inputs: Any) -> None:
            self._stack.append(path)
            self._inside_recurrent += recurrent

        def leave(layer: nn.Module, inputs: tuple[Any, ...], _output: Any) -> None:
            if isinstance(layer, nn.RNNBase):
                self._inside_recurrent -= 1
                self._recurrent(path, layer, inputs[0])
            self._stack.pop()

        yield module.register_forward_pre_hook(enter)
        yield module.register_forward_hook(leave)

    def _recurrent(self, path: str, layer: nn.RNNBase, x: Any) -> None:
        # From outside, and dense: fused, it is one opaque operation, or many, by the device. At its input spikes may
        # arrive; its own state is a real number, at the first token 0.
        if not isinstance(x, Tensor):
            raise OnespikeError(f"{self._here()}: packed sequences cannot be counted; pass a padded tensor")
        tokens, directions = x.numel() // layer.input_size, 2 if layer.bidirectional else 1
        gates = len(layer.get_parameter("weight_ih_l0"))  # all gates' rows
        values = (layer.proj_size or layer.hidden_size) * directions  # of a layer's state
        hidden = layer.hidden_size * directions * layer.num_layers
        with _disable_current_modes():
            self._tally(path, "input", gates * layer.input_size * directions).see_linear(x, gates * directions)
            if layer.num_layers > 1:
                between = values * (layer.num_layers - 1)
                weights = between * gates * directions
                self._tally(path, "between layers", weights).see_real(tokens * between, tokens * weights)
            weights = values * layer.num_layers * gates + layer.proj_size * hidden
            self._tally(path, "state", weights).see_real(tokens * values * layer.num_layers, tokens * weights)
        self.elementwise[path] += Counter({kind: n * tokens * hidden for kind, n in _GATES[layer.mode].items()})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        """See one operation of the framework."""
        kwargs = kwargs or {}
        if func not in self._whole:
            with self:  # in inference mode composed operations arrive whole: look at what they consist of
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            self._whole.add(func)
        if self._inside_recurrent:
            return func(*args, **kwargs)
        of_weights = self._only_weights(func, args, kwargs)
        if not of_weights:
            self._release(func, args, kwargs)
        result = func(*args, **kwargs)
        see = self._see_weights if of_weights else self._see
        see(func, args, kwargs, result)
        return result

    def _only_weights(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether an operation makes a weight: all that goes in are weights, and no chance is in it."""
        tensors = list(_tensors([*args, *kwargs.values()]))
        random = torch.Tag.nondeterministic_seeded in func.tags
        if not tensors or random or not all(map(self._is_weight, tensors)):
            return False
        states = self._blank.intersection(map(_memory, tensors)) if func.overloadpacket.__name__ in _PRODUCTS else ()
        for place in states:  # zeros that meet weights are a first state
            self._weights.pop(place, None)
        return not states

    def _see_weights(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Remember what is made of weights alone: one that is cast, transposed, or learned as its logarithm."""
        given = dict.fromkeys(map(_memory, _tensors([*args, *kwargs.values()])))
        sources = [source for place in given for source in self._weights[place]]
        if func._schema.is_mutable and len(given) > 1:  # weights are written into it
            self._blank.difference_update(map(_memory, _written(func, args, kwargs)))
        for tensor in _tensors([result]):
            place = _memory(tensor)
            self._weights[place] = tuple(dict.fromkeys((*self._weights.get(place, ()), *sources)))
            self._kept.append(tensor)
            if func.overloadpacket.__name__ in _BLANK:
                self._blank.add(place)
        self._uncounted.append((self._path, func, args, kwargs, result))

    def _release(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before activations are written where a weight lies, in place or by `out=`: it is none any more."""
        if not func._schema.is_mutable:
            return
        written = set(map(_memory, _written(func, args, kwargs))) & self._weights.keys()
        self._count_as_state(written & self._original.keys())
        for place in written:
            self._weights.pop(place, None)

    def _count_as_state(self, places: set[int]) -> None:
        """Take buffers for what they are, state kept from image to image, and count what was done with them so far."""
        if not places:
            return
        self._weights = {place: sources for place, sources in self._weights.items() if places.isdisjoint(sources)}
        pending, self._uncounted = self._uncounted, []
        for entry in pending:
            if self._only_weights(*entry[1:4]):
                self._uncounted.append(entry)
                continue
            self._stack.append(entry[0])
            self._see(*entry[1:])
            self._stack.pop()

    def _see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        tensors, path = list(_tensors([*args, *kwargs.values()])), self._path
        count = _PRODUCTS.get(func.overloadpacket.__name__)
        if count is not None and func.namespace == "aten":
            count(self, path, args, result)
            return
        done = work(func, args, kwargs, result)
        if done is None:
            remedy = "add it to onespike.counting.elementwise or .counter"
            raise OnespikeError(f"{self._here()} does {func.overloadpacket}, which the audit cannot count: {remedy}")
        arriving = [tensor for tensor in tensors if not self._is_weight(tensor)]
        meet = done and isinstance(result, Tensor) and 0 < len(arriving) < len(tensors)
        if meet and result.numel() > max(tensor.numel() for tensor in arriving):
            raise OnespikeError(
                f"{self._here()} multiplies out its parameters by {func.overloadpacket}, where the audit cannot "
                "tell spikes from real numbers: write it as a linear layer, a convolution or a matrix product"
            )
        if done and not self._adds_bias(func, path, tensors):
            self.elementwise[path] += done

    def _adds_bias(self, func: Any, path: str, tensors: Sequence[Tensor]) -> bool:
        """Whether this is a linear layer's bias, which the framework adds apart at times; it starts the sum."""
        module, adds = self._modules[path], func.overloadpacket.__name__ in ("add", "add_")
        if not (adds and isinstance(module, nn.Linear) and module.bias is not None):
            return False
        return any(_memory(module.bias) in self._weights.get(_memory(tensor), ()) for tensor in tensors)

    @property
    def _path(self) -> str:
        return self._stack[-1] if self._stack else ""

    def _here(self) -> str:
        return f"{self._path or 'the model itself'} ({type(self._modules[self._path]).__name__})"

    def _tally(self, path: str, name: str, weights: int, which: object = None, channels: int | None = None) -> Tally:
        return self.tallies.setdefault((path, name, which), Tally(name, weights, channels))

    def _is_weight(self, tensor: Tensor) -> bool:
        return _memory(tensor) in self._weights

    def _convolution(self, path: str, args: tuple[Any, ...], result: Tensor) -> None:
        x, weight, _bias, stride, padding, dilation, transposed, _output_padding, groups = args
        if not self._is_weight(weight):
            raise OnespikeError(f"{self._here()}: a convolution with weights that are activations cannot be counted")
        axes = weight.dim() - 2
        steps = [list(value) * (axes if len(value) == 1 else 1) for value in (stride, padding, dilation)]
        shape = result.shape
        if x.dim() == axes + 1:
            x, shape = x[None], torch.Size((1, *shape))
        kernel = "x".join(map(str, weight.shape[2:]))
        name, place = f"conv {kernel}, {x.shape[1]} -> {shape[1]}", self._place(weight)
        self._tally(path, name, weight.numel(), place, 1).see_conv(x, weight, shape, steps, groups, transposed)

    def _matrices(self, path: str, args: tuple[Any, ...], _result: Tensor) -> None:
        """Count a product of two vectors, matrices or stacks of them; either may be the weights."""
        a, b = args[-2:]  # before them, what is added
        a, b = a if a.dim() > 1 else a[None], b if b.dim() > 1 else b[:, None]
        if self._is_weight(b):
            self._linear(path, a, b, b.shape[-1], channels=-1)
        elif self._is_weight(a):
            self._linear(path, b, a, a.shape[-2], channels=-2)
        else:
            a, b = (one if one.dim() == 3 else one[None] for one in (a, b))
            self._tally(path, f"matmul {a.shape[1]} x {a.shape[2]} x {b.shape[2]}", 0).see_matmul(a, b)

    def _linear(self, path: str, x: Tensor, weight: Tensor, out: int, channels: int) -> None:
        module = self._modules[path]
        if isinstance(module, WindowConv):  # on windows of one pixel it computes its centre tap alone
            pixel = (x[:, :, None, None], module.weight, None, module.stride, module.padding, module.dilation)
            self._convolution(path, (*pixel, False, None, module.groups), x.new_empty(len(x), out, 1, 1))
            return
        sides = [side for side, stride in zip(weight.shape, weight.stride(), strict=True) if stride]
        name = f"linear {math.prod(weight.shape[-2:]) // out} -> {out}"
        self._tally(path, name, math.prod(sides), self._place(weight), channels).see_linear(x, out)

    def _place(self, weight: Tensor) -> tuple[int, int]:
        """Tell weights apart: attention projects queries, keys and values by three parts of one parameter."""
        return self._weights[_memory(weight)][0], int(weight.storage_offset())


#: Work of one hidden unit at one token. Input and state parts are added, gates squash, states are mixed:
#: LSTM c = f c + i g, h = o tanh(c); GRU n = tanh(W x + r (U h)), h = (1 - z) n + z h; RNN h = tanh(W x + U h).
_GATES = {
    "LSTM": Counter(add=4 + 1, multiply=3, special=4 + 1),
    "GRU": Counter(add=3 + 2, multiply=3, special=3),
    "RNN_TANH": Counter(add=1, special=1),
    "RNN_RELU": Counter(add=1, compare=1),
}
_BLANK = ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like")
#: The products among the framework's operations. Biases start an accumulator and are not counted.
_PRODUCTS: dict[str, Callable[[ProductCounter, str, tuple[Any, ...], Any], None]] = {
    "convolution": ProductCounter._convolution,
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm"), ProductCounter._matrices),
}


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Find the arguments that an operation writes, as its schema declares them."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors([args[position] if position < len(args) else kwargs.get(argument.name)])


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))
