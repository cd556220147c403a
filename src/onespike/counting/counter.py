"""Counting what a network does while it runs: every operation of the framework passes by and is counted, or named.

Hooks on the modules say where the program is. A dispatch mode below them sees every operation, whatever called it: a
module, a function, autocast, inference mode. One that it does not know stops the audit; so does what would take values
out of its sight.
"""

import math
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from onespike.counting.elementwise import work
from onespike.counting.products import Tally
from onespike.errors import OnespikeError
from onespike.units import cells
from onespike.units.conv import WindowConv


class ProductCounter(TorchDispatchMode):
    """Counts products and element-wise work of a model, by module, during the forward passes inside `watch()`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # By path of their module, name, weights, and whether they read the network's input.
        self.tallies: dict[tuple[str, str, object, bool], Tally] = {}
        self.elementwise: dict[str, Counter[str]] = defaultdict(Counter)  # by path of the module that did it
        self._model, self._modules = model, dict(model.named_modules())
        self._stack: list[str] = []  # paths of the modules that are running
        self._inside_recurrent = 0
        # Parameters and buffers by where they lie in memory: alive, so that their memory is not used again.
        self._original = {_memory(tensor): tensor.detach() for tensor in chain(model.parameters(), model.buffers())}
        # Where weights lie, those included that were made of others: {place: places of the originals}.
        self._weights: dict[int, tuple[int, ...]] = {place: (place,) for place in self._original}
        self._kept: list[Tensor] = []  # what was made of weights: alive, for the same reason
        # Those of them that took a weight's shape or type alone, weight.new_zeros(...), and whether they are 0.
        self._blank: dict[int, bool] = {}
        # What was done with nothing but weights: (module, operation, arguments, by name, result).
        self._uncounted: list[tuple[str, Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._whole: set[Any] = set()  # operations that are not composed of others
        # Where values lie that come from the network's input, and whether a product is in between. The references keep
        # these places from being used again.
        self._origins: dict[int, tuple[StorageWeakRef, bool]] = {}
        self._first = False  # whether the operation that is looked at reads it with no product in between
        # Activations that were multiplied by weights, by place; only once they are summed up was that a product.
        self._weighted: dict[int, _Weighted] = {}
        self._thread = threading.get_ident()

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
            stack.enter_context(_OutOfSight(self))
            stack.enter_context(self)
            self._thread = threading.get_ident()
            yield
        replaced = self._original.keys() - set(map(_memory, chain(self._model.parameters(), self._model.buffers())))
        self._count_as_state(replaced & self._weights.keys())  # buffers that were assigned anew: self.v = self.v + x
        for place in set(map(_memory, self._kept)) - self._original.keys():
            self._weights.pop(place, None)
        for remembered in (self._kept, self._blank, self._uncounted, self._origins, self._weighted):
            remembered.clear()

    def _hooks(self, path: str, module: nn.Module) -> Iterator[Any]:
        recurrent = isinstance(module, nn.RNNBase)

        def enter(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._stack.append(path)
            self._inside_recurrent += recurrent
            if threading.get_ident() != self._thread:
                remedy = "where nothing is counted: call it in this one"
                raise OnespikeError(f"{self.here()} runs in a thread of its own, {remedy}")
            if recurrent and type(layer).forward not in _RECURRENT:
                added = "adds to a recurrent layer's forward, and the two cannot be told apart"
                raise OnespikeError(f"{self.here()} {added}: make it a module that holds such a layer")
            if len(self._stack) == 1:
                self._trace((inputs, named), behind=False)

        # Called also where something raised, which the network may catch: then there is no output.
        def leave(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            if isinstance(layer, nn.RNNBase):
                self._inside_recurrent -= 1
                if output is not None:
                    self._recurrent(path, layer, inputs[0] if inputs else named["input"])
            self._stack.pop()

        # Before the layer's own hooks: one that raises ends in `leave`.
        yield module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True)
        yield module.register_forward_hook(leave, with_kwargs=True, always_call=True)

    def _trace(self, values: Any, behind: bool) -> None:
        """Remember of values that they come from the network's input, and whether they are behind a product."""
        for tensor in _tensors([values]):
            storage = tensor.untyped_storage()
            self._origins[storage._cdata] = (StorageWeakRef(storage), behind)

    def is_behind(self, tensors: Iterable[Tensor]) -> bool | None:
        """Whether some values are behind a product; None if none come from the network's input at all."""
        found = [self._origins[place][1] for place in map(_memory, tensors) if place in self._origins]
        return any(found) if found else None

    def _recurrent(self, path: str, layer: nn.RNNBase, x: Any) -> None:
        # From outside, and dense: fused, it is one opaque operation, or many, by the device. At its input spikes may
        # arrive; its own state is a real number, at the first token 0.
        if not isinstance(x, Tensor):
            raise OnespikeError(f"{self.here()}: packed sequences cannot be counted; pass a padded tensor")
        tokens, directions = x.numel() // layer.input_size, 2 if layer.bidirectional else 1
        gates = len(layer.get_parameter("weight_ih_l0"))  # all gates' rows
        values = (layer.proj_size or layer.hidden_size) * directions  # of a layer's state
        hidden = layer.hidden_size * directions * layer.num_layers
        with _disable_current_modes():
            self._first = self.is_behind([x]) is False
            self._tally(path, "input", gates * layer.input_size * directions).see_linear(x, gates * directions)
            self._first = False
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
        given = list(_tensors([*args, *kwargs.values()]))
        behind = self.is_behind(given)
        multiplies = bool(self._inside_recurrent) or _product_of(func) is not None
        if self._inside_recurrent:
            result = func(*args, **kwargs)
        else:
            of_weights = self._only_weights(func, args, kwargs)
            if not of_weights:
                self._release(func, args, kwargs)
            result = func(*args, **kwargs)
            self._first = behind is False
            if of_weights:
                self._see_weights(func, args, kwargs, result)
            else:
                multiplies = self._see(func, args, kwargs, result) or multiplies
        if behind is not None and func.overloadpacket.__name__ not in _BLANK:  # these look at its shape alone
            places = set(map(_memory, given))  # a view lies where it did
            made = [tensor for tensor in _tensors([result]) if _memory(tensor) not in places]
            self._trace([*made, *_written(func, args, kwargs)], behind or multiplies)
        return result

    def _only_weights(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether an operation makes a weight: all that goes in are weights, and no chance is in it."""
        tensors = list(_tensors([*args, *kwargs.values()]))
        random = torch.Tag.nondeterministic_seeded in func.tags
        if not tensors or random or not all(map(self._is_weight, tensors)):
            return False
        states = self._blank.keys() & set(map(_memory, tensors)) if _product_of(func) is not None else ()
        for place in states:  # zeros that meet weights are a first state
            self._weights.pop(place, None)
        return not states

    def _see_weights(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Remember what is made of weights alone: one that is cast, transposed, or learned as its logarithm."""
        given = dict.fromkeys(map(_memory, _tensors([*args, *kwargs.values()])))
        sources = [source for place in given for source in self._weights[place]]
        if func._schema.is_mutable and len(given) > 1:  # weights are written into it
            for place in map(_memory, _written(func, args, kwargs)):
                self._blank.pop(place, None)
        for tensor in _tensors([result]):
            place = _memory(tensor)
            self._weights[place] = tuple(dict.fromkeys((*self._weights.get(place, ()), *sources)))
            self._kept.append(tensor)
            if (zero := _blank_after(func, [self._blank.get(one) for one in given])) is not None:
                self._blank[place] = zero
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
        pending, self._uncounted, self._first = self._uncounted, [], False
        for entry in pending:
            if self._only_weights(*entry[1:4]):
                self._uncounted.append(entry)
                continue
            self._stack.append(entry[0])
            self._see(*entry[1:])
            self._stack.pop()

    def _see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
        """Count what was done with activations; says whether it turned out to be a product."""
        tensors, path = list(_tensors([*args, *kwargs.values()])), self._path
        count = _product_of(func)
        if count is not None:
            if any(tensor.is_complex() for tensor in tensors):
                raise OnespikeError(
                    f"{self.here()} does {func.overloadpacket} of complex numbers: it cannot be counted"
                )
            count(self, path, args, result)
            scales = sum(kwargs.get(name, 1) not in (0, 1) for name in ("alpha", "beta"))  # alpha * a @ b + beta * c
            self.elementwise[path] += Counter({"multiply": scales * result.numel()} if scales else {})
            return True
        done = work(func, args, kwargs, result, of_input=self.is_behind(tensors) is not None)
        if done is None:
            remedy = "add it to onespike.counting.elementwise or .counter"
            raise OnespikeError(f"{self.here()} does {func.overloadpacket}, which the audit cannot count: {remedy}")
        arriving = [tensor for tensor in tensors if not self._is_weight(tensor)]
        meet = done and isinstance(result, Tensor) and 0 < len(arriving) < len(tensors)
        if meet and result.numel() > max(tensor.numel() for tensor in arriving):
            raise OnespikeError(
                f"{self.here()} spreads its parameters by {func.overloadpacket}, where the audit cannot "
                "tell spikes from real numbers: write it as a linear layer, a convolution or a matrix product"
            )
        if self._sums_up(func, args):
            return True
        if done and not self._adds_bias(func, path, tensors):
            self.elementwise[path] += done
        self._weigh(func, path, args, result)
        return False

    def _weigh(self, func: Any, path: str, args: tuple[Any, ...], result: Any) -> None:
        """Look at activations that are multiplied by weights one by one: they may be summed up after."""
        for tensor in _written(func, args, {}):
            self._weighted.pop(_memory(tensor), None)
        if func.overloadpacket.__name__ not in ("mul", "mul_") or not all(isinstance(one, Tensor) for one in args):
            return
        (x, weight), place = sorted(args, key=self._is_weight), _memory(result)
        if not self._is_weight(weight) or self._is_weight(x) or result.is_complex() or not x.numel():
            return
        self._weighted = {at: one for at, one in self._weighted.items() if not one.storage.expired()}
        sides = zip(result.shape, weight.expand(result.shape).stride(), strict=True)
        if axes := {axis for axis, (side, step) in enumerate(sides) if side > 1 and step}:
            layout = StorageWeakRef(result.untyped_storage()), result.shape, result.stride()
            self._weighted[place] = _Weighted(*layout, axes, path, x, weight, self._first)

    def _sums_up(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether activations are summed up along an axis on which their weights differ: that makes it a product."""
        if func.overloadpacket.__name__ not in ("sum", "mean") or _memory(args[0]) not in self._weighted:
            return False
        one, made = self._weighted[_memory(args[0])], args[0]
        axes = args[1] if len(args) > 1 and args[1] else range(made.dim())
        alike = (made.shape, made.stride()) == (one.shape, one.stride)
        if not alike or one.axes.isdisjoint(axis % made.dim() for axis in axes):
            return False
        del self._weighted[_memory(made)]
        key = one.path, f"sums of {one.weight.numel()} weights", self._place(one.weight), one.first
        tally = self.tallies.setdefault(key, Tally(key[1], one.weight.numel(), first=one.first))
        tally.see_linear(one.x, made.numel() // one.x.numel())
        self.elementwise[one.path] -= Counter(multiply=made.numel())
        return True

    def _adds_bias(self, func: Any, path: str, tensors: Sequence[Tensor]) -> bool:
        """Whether this is a linear layer's bias, which the framework adds apart at times; it starts the sum."""
        module, adds = self._modules[path], func.overloadpacket.__name__ in ("add", "add_")
        if not (adds and isinstance(module, nn.Linear) and module.bias is not None):
            return False
        return any(_memory(module.bias) in self._weights.get(_memory(tensor), ()) for tensor in tensors)

    @property
    def _path(self) -> str:
        return self._stack[-1] if self._stack else ""

    def here(self) -> str:
        """The module that is running, for a message."""
        return f"{self._path or 'the model itself'} ({type(self._modules[self._path]).__name__})"

    def _tally(self, path: str, name: str, weights: int, which: object = None, channels: int | None = None) -> Tally:
        key = (path, name, which, self._first)
        return self.tallies.setdefault(key, Tally(name, weights, channels, self._first))

    def _is_weight(self, tensor: Tensor) -> bool:
        return _memory(tensor) in self._weights

    def _convolution(self, path: str, args: tuple[Any, ...], result: Tensor) -> None:
        x, weight, _bias, stride, padding, dilation, transposed, _output_padding, groups = args
        if not self._is_weight(weight):
            raise OnespikeError(f"{self.here()}: a convolution with weights that are activations cannot be counted")
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


class _Weighted(NamedTuple):
    """Activations times weights."""

    storage: StorageWeakRef  # where they lie
    shape: torch.Size
    stride: tuple[int, ...]
    axes: set[int]  # along which the weights differ
    path: str  # of the module that multiplied them
    x: Tensor
    weight: Tensor
    first: bool  # as in `Product`


class _OutOfSight(TorchFunctionMode):
    """Stops where a network takes what comes from its input out of the framework: nobody could count what follows."""

    def __init__(self, counter: ProductCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func in _LEAVING and self.counter.is_behind(_tensors(args)) is not None:
            remedy = "compute it with torch, so that it can be counted"
            raise OnespikeError(f"{self.counter.here()} takes values out of torch by {func.__name__}: {remedy}")
        return func(*args, **(kwargs or {}))


_LEAVING = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__)
#: Recurrent layers that are counted from outside.
_RECURRENT = tuple(kind.forward for kind in (nn.LSTM, nn.GRU, nn.RNN, cells.LSTM, cells.GRU, cells.RNN))
#: Work of one hidden unit at one token. Input and state parts are added, gates squash, states are mixed:
#: LSTM c = f c + i g, h = o tanh(c); GRU n = tanh(W x + r (U h)), h = (1 - z) n + z h; RNN h = tanh(W x + U h).
_GATES = {
    "LSTM": Counter(add=4 + 1, multiply=3, special=4 + 1),
    "GRU": Counter(add=3 + 2, multiply=3, special=3),
    "RNN_TANH": Counter(add=1, special=1),
    "RNN_RELU": Counter(add=1, compare=1),
}
#: Operations that take a tensor's shape or type alone; those of them that give zeros, and what leaves zeros zeros.
_BLANK = ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like")
_ZEROS, _SAME = ("new_zeros", "zeros_like", "new_empty", "empty_like"), ("clone", "_to_copy", "detach")
#: The products among the framework's operations. Biases start an accumulator and are not counted.
_PRODUCTS: dict[str, Callable[[ProductCounter, str, tuple[Any, ...], Any], None]] = {
    "convolution": ProductCounter._convolution,
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm"), ProductCounter._matrices),
}


def _product_of(func: Any) -> Callable[[ProductCounter, str, tuple[Any, ...], Any], None] | None:
    return _PRODUCTS.get(func.overloadpacket.__name__) if func.namespace == "aten" else None


def _blank_after(func: Any, given: Sequence[bool | None]) -> bool | None:
    """Whether what an operation makes of weights is zeros; None if it is not blank. `given` says so of each weight."""
    name = func.overloadpacket.__name__
    if name in _BLANK:
        return name in _ZEROS
    if name in ("mul", "mul_") and True in given:
        return True
    return None if None in given or not given else all(given) and (func.is_view or name in _SAME)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Find the arguments that an operation writes, as its schema declares them."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors([args[position] if position < len(args) else kwargs.get(argument.name)])


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))
