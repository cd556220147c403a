"""Count what a network does while it runs: each operation of PyTorch's is counted, or an error names it.

Hooks on the modules tell which one is running. A dispatch mode below them sees every operation, whatever called it: a
module, a function, autocast, inference mode. An operation that it does not know stops the audit; so does one that takes
values out of PyTorch.
"""

import math
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from onespike.counting.composed import Composed
from onespike.counting.elementwise import work
from onespike.counting.origins import BLANK, Input, OutOfSight, Weights, memory, tensors_in, written
from onespike.counting.products import Tally
from onespike.errors import OnespikeError
from onespike.neurons.watch import batch_of
from onespike.units import cells
from onespike.units.conv import WindowConv


class ProductCounter(TorchDispatchMode):
    """Counts products and element-wise work of a model, by module, during the forward passes inside `watch()`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # The keys: path of the module, name, weights, and whether the product reads the network's input.
        self.tallies: dict[tuple[str, str, object, bool], Tally] = {}
        self.elementwise: dict[str, Counter[str]] = defaultdict(Counter)  # by path of the module that did it
        self._modules = dict(model.named_modules())
        self._stack: list[tuple[str, torch.Size | None]] = []  # modules that are running: path, shape of the input
        self._images = self._frames = 0  # in the batch; over time, of each image
        self._calls: dict[str, Counter[str]] = defaultdict(Counter)  # by module, of each matmul in this pass through it
        self._inside_recurrent = 0
        self._input, self._weights = Input(), Weights(model)
        self._composed = Composed(self._weights)
        # Operations on weights alone: (module, operation, arguments, by name, result).
        self._uncounted: list[tuple[str, Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self._whole: set[Any] = set()  # operations that are not composed of others
        self._first = False  # whether the current operation reads the input with no product in between
        self._thread = threading.get_ident()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Count during the forward passes inside this context."""
        torch.clear_autocast_cache()  # weights that were cast earlier could not be told from activations
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
            stack.enter_context(OutOfSight(self._input, self._refusal))
            stack.enter_context(self)
            self._thread = threading.get_ident()
            yield
        self._count_as_state(self._weights.replaced())
        for remembered in (self._input, self._uncounted, self._composed, self._weights):
            remembered.clear()

    def _hooks(self, path: str, module: nn.Module) -> Iterator[Any]:
        recurrent = isinstance(module, nn.RNNBase)

        def enter(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            first = next(tensors_in((inputs, named)), None)
            self._stack.append((path, None if first is None else first.shape))
            self._calls.pop(path, None)
            self._inside_recurrent += recurrent
            if threading.get_ident() != self._thread:
                raise self._refusal(" runs in a thread of its own, where nothing is counted: call it in this one")
            if recurrent and type(layer).forward not in _RECURRENT:
                added = " adds to a recurrent layer's forward, and the two cannot be told apart"
                raise self._refusal(f"{added}: make it a module that holds such a layer")
            if len(self._stack) == 1:
                self._images = batch_of(first) if first is not None and first.ndim else 0
                self._frames = len(first) if first is not None and first.ndim == 5 else 0
                self._input.trace((inputs, named), behind=False)

        # Also called after an exception, which the network may catch: then there is no output.
        def leave(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            if isinstance(layer, nn.RNNBase):
                self._inside_recurrent -= 1
                if output is not None:
                    self._recurrent(path, layer, inputs[0] if inputs else named["input"])
            self._stack.pop()

        # Before the layer's own hooks: one that raises ends in `leave`.
        yield module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True)
        yield module.register_forward_hook(leave, with_kwargs=True, always_call=True)

    def _recurrent(self, path: str, layer: nn.RNNBase, x: Any) -> None:
        # Counted from outside, and dense: on some devices the layer is one opaque operation, on others many. Its input
        # may be spikes; its own state is real, and 0 at the first token.
        if not isinstance(x, Tensor):
            raise self._refusal(": packed sequences cannot be counted; pass a padded tensor")
        tokens, directions = x.numel() // layer.input_size, 2 if layer.bidirectional else 1
        gates = len(layer.all_weights[0][0])  # all gates' rows
        values = (layer.proj_size or layer.hidden_size) * directions  # of a layer's state
        hidden = layer.hidden_size * directions * layer.num_layers
        with _disable_current_modes():
            first = self._input.is_behind([x]) is False
            tally = self._tally(path, Tally("input", gates * layer.input_size * directions, first=first))
            tally.see_linear(x, gates * directions, self._rows(x, tally) or tokens)
            if layer.num_layers > 1:
                between = values * (layer.num_layers - 1)
                weights = between * gates * directions
                self._tally(path, Tally("between layers", weights)).see_real(tokens * between, tokens * weights)
            weights = values * layer.num_layers * gates + layer.proj_size * hidden
            self._tally(path, Tally("state", weights)).see_real(tokens * values * layer.num_layers, tokens * weights)
        self.elementwise[path] += Counter({kind: n * tokens * hidden for kind, n in _GATES[layer.mode].items()})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Count one operation of PyTorch's."""
        kwargs = kwargs or {}
        if func not in self._whole:
            with self:  # in inference mode composite operations arrive whole: count their parts
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            self._whole.add(func)
        given = list(tensors_in([args, kwargs]))
        behind = self._input.is_behind(given)
        is_product = _product_of(func) is not None
        if self._inside_recurrent:
            result, is_product = func(*args, **kwargs), True
        elif self._weights.makes_one(func, self._varying(given), is_product):
            result = func(*args, **kwargs)
            self._weights.add(func, args, kwargs, result)
            self._uncounted.append((self._path, func, args, kwargs, result))
        else:
            self._weights.release(func, args, kwargs, self._count_as_state)
            before = args
            if func.overloadpacket.__name__ == "mul_" and args[0] not in self._weights:
                before = (args[0].clone(), *args[1:])  # what is multiplied is gone then
            result = func(*args, **kwargs)
            self._first = behind is False
            is_product = self._see(func, args, kwargs, result, before)
        if behind is not None and func.overloadpacket.__name__ not in BLANK:  # these read its shape alone
            places = set(map(memory, given))  # a view shares its base's place
            made = [tensor for tensor in tensors_in(result) if memory(tensor) not in places]
            self._input.trace([*made, *written(func, args, kwargs)], behind or is_product)
        return result

    def _varying(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Tensors but for single numbers of the code, such as 1 and -1 in `torch.where(w > 0, 1.0, -1.0)`."""
        return [one for one in tensors if one.dim() or one in self._weights or self._input.is_behind([one]) is not None]

    def _count_as_state(self, places: set[int]) -> None:
        """Treat buffers as state kept from image to image, not as weights, and count the operations on them so far."""
        if not places:
            return
        self._weights.drop(places)
        pending, self._uncounted, self._first = self._uncounted, [], False
        shape = self._stack[-1][1] if self._stack else None
        for entry in pending:
            path, func, args, kwargs, result = entry
            given = self._varying(tensors_in([args, kwargs]))
            if self._weights.makes_one(func, given, _product_of(func) is not None):
                self._uncounted.append(entry)
                continue
            self._stack.append((path, shape))
            self._see(func, args, kwargs, result)
            self._stack.pop()

    def _see(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any, before: tuple[Any, ...] = ()
    ) -> bool:
        """Count an operation on activations, `before` which `args` held these; returns whether it was a product."""
        tensors, path = list(tensors_in([args, kwargs])), self._path
        if count := _product_of(func):
            if any(tensor.is_complex() for tensor in tensors):
                raise self._refusal(f" does {func.overloadpacket} of complex numbers: it cannot be counted")
            count(self, path, args, result)
            scales = sum(kwargs.get(name, 1) not in (0, 1) for name in ("alpha", "beta"))  # alpha * a @ b + beta * c
            self.elementwise[path] += Counter({"multiply": scales * result.numel()} if scales else {})
            return True
        done = work(func, args, kwargs, result, of_input=self._input.is_behind(tensors) is not None)
        if done is None:
            remedy = "add it to onespike.counting.elementwise or .counter"
            raise self._refusal(f" does {func.overloadpacket}, which the audit cannot count: {remedy}")
        arriving = [tensor for tensor in tensors if tensor not in self._weights]
        meet = done and isinstance(result, Tensor) and 0 < len(arriving) < len(tensors)
        if meet and result.numel() > max(tensor.numel() for tensor in arriving):
            where = "where the audit cannot tell spikes from real numbers"
            remedy = "write it as a linear layer, a convolution or a matrix product"
            weighs = "multiply" in done or func.overloadpacket.__name__ in ("where", "masked_fill")
            remedy = remedy if weighs else "expand the activation to the result's shape first"
            raise self._refusal(f" spreads its parameters by {func.overloadpacket}, {where}: {remedy}")
        if self._counts_sum(func, args):
            return True
        if done and not self._adds_bias(func, path, tensors):
            self.elementwise[path] += done
        for tensor in written(func, args, kwargs):
            self._composed.forget(tensor)
        self._composed.see(func, path, before or args, result, self._first)
        return False

    def _counts_sum(self, func: Any, args: tuple[Any, ...]) -> bool:
        """If weighted activations are summed along an axis on which their weights differ, count that as a product."""
        if (one := self._composed.summed(func, args)) is None:
            return False
        weights, place = self._weights.size(one.weight), self._weights.place(one.weight)
        tally = self._tally(one.path, Tally(f"sums of {weights} weights", weights, first=one.first), place)
        rows = one.x.numel() // (one.x.shape[-1] if one.x.ndim else 1)
        tally.see_linear(one.x, args[0].numel() // one.x.numel(), rows)
        self.elementwise[one.path] -= Counter({"multiply" if one.multiplies else "compare": args[0].numel()})
        return True

    def _adds_bias(self, func: Any, path: str, tensors: Sequence[Tensor]) -> bool:
        """Whether this adds the bias of a linear layer, as PyTorch does separately at times; a bias starts the sum."""
        module, adds = self._modules[path], func.overloadpacket.__name__ in ("add", "add_")
        if not (adds and isinstance(module, nn.Linear) and module.bias is not None):
            return False
        return any(self._weights.is_made_of(tensor, module.bias) for tensor in tensors)

    @property
    def _path(self) -> str:
        return self._stack[-1][0] if self._stack else ""

    def _refusal(self, text: str) -> OnespikeError:
        """The error for what the running module does."""
        here = f"{self._path or 'the model itself'} ({type(self._modules[self._path]).__name__})"
        return OnespikeError(here + text)

    def _tally(self, path: str, new: Tally, which: object = None) -> Tally:
        """The tally of a module's product, `new` at its first call; `which` tells products of one name apart."""
        return self.tallies.setdefault((path, new.name, which, new.first), new)

    def _convolution(self, path: str, args: tuple[Any, ...], result: Tensor) -> None:
        x, weight, _bias, stride, padding, dilation, transposed, _output_padding, groups = args
        if weight not in self._weights:
            if self._input.is_behind([weight]) is not None:
                raise self._refusal(": a convolution with weights that are activations cannot be counted")
            expected = "expected a parameter, a buffer, or what is made of these alone: use register_buffer"
            raise self._refusal(f": a convolution with weights that are unknown: {expected}")
        axes = weight.dim() - 2
        steps = [list(value) * (axes if len(value) == 1 else 1) for value in (stride, padding, dilation)]
        if not transposed:
            for axis, (before, behind) in enumerate(self._composed.zeros(x, axes), 1):
                x = x.narrow(-axis, before, x.shape[-axis] - before - behind)
                steps[1][-axis] += before
        kernel = "x".join(map(str, weight.shape[2:]))
        name, place = f"conv {kernel}, {x.shape[1]} -> {result.shape[1]}", self._weights.place(weight)
        tally = self._tally(path, Tally(name, self._weights.size(weight), 1, self._first), place)
        tally.see_conv(x, weight, result.shape, steps, groups, transposed)

    def _matrices(self, path: str, args: tuple[Any, ...], _result: Tensor) -> None:
        """Count a product of two vectors, matrices or stacks of them; either may be the weights."""
        a, b = args[-2:]  # before them comes a term to add
        a, b = a if a.dim() > 1 else a[None], b if b.dim() > 1 else b[:, None]
        if b in self._weights:
            self._linear(path, a, b, b.shape[-1], channels=-1)
        elif a in self._weights:
            self._linear(path, b, a, a.shape[-2], channels=-2)
        else:
            sides = *a.shape[-2:], b.shape[-1]
            # The rows of a single matrix are images, of which the last batch may have fewer.
            name = f"matmul {' x '.join(map(str, sides[a.dim() == 2 :]))}"
            a, b = (one if one.dim() == 3 else one[None] for one in (a, b))
            number = self._calls[path][name]  # queries and keys meet, and scores and values, perhaps in equal shapes
            self._calls[path][name] += 1
            tally = self._tally(path, Tally(name, 0, first=self._first), number)
            tally.see_matmul(a, b, self._rows(a, tally) or self._rows(b, tally) or len(a))

    def _linear(self, path: str, x: Tensor, weight: Tensor, out: int, channels: int) -> None:
        module = self._modules[path]
        if isinstance(module, WindowConv):  # on windows of one pixel it computes its centre tap alone
            pixel = (x[:, :, None, None], module.weight, None, module.stride, module.padding, module.dilation)
            self._convolution(path, (*pixel, False, None, module.groups), x.new_empty(len(x), out, 1, 1))
            return
        name, place = f"linear {math.prod(weight.shape[-2:]) // out} -> {out}", self._weights.place(weight)
        tally = self._tally(path, Tally(name, self._weights.size(weight), channels, self._first), place)
        tally.see_linear(x, out, self._rows(x, tally) or x.numel() // max(x.shape[channels], 1))

    def _rows(self, x: Tensor, tally: Tally) -> int:
        """Images in an operand, at all time steps in it, if it is what the running module was given; else 0.

        Tokens of an image are no images: they lie behind its axis. What is as many as the images counts as time steps
        if the network, in the end, takes so many.
        """
        shape = self._stack[-1][1] if self._stack else None
        if not shape or shape.numel() != x.numel():
            return 0
        steps_first = len(shape) > 2 and shape[1] == self._images and (shape[0] == self._frames or shape[0] != shape[1])
        if len(shape) > 2 and shape[0] == shape[1] == self._images != self._frames:
            tally.more_rows[shape[0]] += shape[0] * (shape[0] - 1)
        return shape[0] * shape[1] if steps_first else shape[0]


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
#: The products among PyTorch's operations. Biases start an accumulator and are not counted.
_PRODUCTS: dict[str, Callable[[ProductCounter, str, tuple[Any, ...], Any], None]] = {
    "convolution": ProductCounter._convolution,
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm"), ProductCounter._matrices),
}


def _product_of(func: Any) -> Callable[[ProductCounter, str, tuple[Any, ...], Any], None] | None:
    return _PRODUCTS.get(func.overloadpacket.__name__) if func.namespace == "aten" else None
