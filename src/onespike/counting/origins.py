"""Where the values that an operation meets come from: from the weights, or from the network's input.

Tensors are told apart by where they lie in memory: views, and what is written in place, lie where they did. What is
remembered is kept alive, or its place reserved, so that no other tensor comes to lie there.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from onespike.errors import OnespikeError

#: Operations that take a tensor's shape or type alone; those of them that give zeros, and what leaves zeros zeros.
BLANK = ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like")
_ZEROS, _SAME = ("new_zeros", "zeros_like", "new_empty", "empty_like"), ("clone", "_to_copy", "detach")
#: What takes values out of the framework.
_LEAVING = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__)


class Input:
    """What comes from the network's input in one forward pass, and whether a product is in between."""

    def __init__(self) -> None:
        self._behind: dict[int, tuple[StorageWeakRef, bool]] = {}

    def trace(self, values: Any, behind: bool) -> None:
        """Remember of all tensors in `values` that they come from the input, and whether they are behind a product."""
        for tensor in tensors_in(values):
            storage = tensor.untyped_storage()
            self._behind[storage._cdata] = (StorageWeakRef(storage), behind)

    def is_behind(self, tensors: Iterable[Tensor]) -> bool | None:
        """Whether some values are behind a product; None if none come from the network's input at all."""
        found = [self._behind[place][1] for place in map(memory, tensors) if place in self._behind]
        return any(found) if found else None

    def clear(self) -> None:
        """Forget a forward pass."""
        self._behind.clear()


class Weights:
    """The parameters and buffers of a model, and what is made of them alone: cast, transposed, or multiplied."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._original = {memory(tensor): tensor.detach() for tensor in chain(model.parameters(), model.buffers())}
        # {place: places of the originals that it was made of}
        self._sources: dict[int, tuple[int, ...]] = {place: (place,) for place in self._original}
        self._kept: list[Tensor] = []  # what was made of weights
        # Those of them that took a weight's shape or type alone, weight.new_zeros(...), and whether they are 0.
        self._blank: dict[int, bool] = {}

    def __contains__(self, tensor: Tensor) -> bool:
        return memory(tensor) in self._sources

    def place(self, weight: Tensor) -> tuple[int, int]:
        """Tell weights apart: attention projects queries, keys and values by three parts of one parameter."""
        return self._sources[memory(weight)][0], int(weight.storage_offset())

    def is_made_of(self, tensor: Tensor, weight: Tensor) -> bool:
        """Whether a parameter is in a tensor."""
        return memory(weight) in self._sources.get(memory(tensor), ())

    def makes_one(self, func: Any, given: Sequence[Tensor], is_product: bool) -> bool:
        """Whether an operation makes a weight: all that goes in are weights, and no chance is in it."""
        random = torch.Tag.nondeterministic_seeded in func.tags
        if not given or random or not all(tensor in self for tensor in given):
            return False
        states = self._blank.keys() & set(map(memory, given)) if is_product else ()
        for place in states:  # zeros that meet weights are a first state
            self._sources.pop(place, None)
        return not states

    def add(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """Remember what an operation made of weights alone."""
        given = dict.fromkeys(map(memory, tensors_in([args, kwargs])))
        sources = [source for place in given for source in self._sources[place]]
        if func._schema.is_mutable and len(given) > 1:  # weights are written into it
            for place in map(memory, written(func, args, kwargs)):
                self._blank.pop(place, None)
        for tensor in tensors_in(result):
            place = memory(tensor)
            self._sources[place] = tuple(dict.fromkeys((*self._sources.get(place, ()), *sources)))
            self._kept.append(tensor)
            if (zero := _blank_after(func, [self._blank.get(one) for one in given])) is not None:
                self._blank[place] = zero

    def release(
        self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], as_state: Callable[[set[int]], None]
    ) -> None:
        """Before activations are written where a weight lies, it is none any more; `as_state` is told of originals."""
        if func._schema.is_mutable:
            places = set(map(memory, written(func, args, kwargs))) & self._sources.keys()
            as_state(places & self._original.keys())
            for place in places:
                self._sources.pop(place, None)

    def replaced(self) -> set[int]:
        """Buffers that the model has assigned anew since, self.v = self.v + x: they were a state."""
        now = set(map(memory, chain(self._model.parameters(), self._model.buffers())))
        return (self._original.keys() - now) & self._sources.keys()

    def drop(self, places: set[int]) -> None:
        """Take originals, and all that was made of them, for weights no more."""
        self._sources = {place: sources for place, sources in self._sources.items() if places.isdisjoint(sources)}

    def clear(self) -> None:
        """Forget what was made in a forward pass."""
        for place in set(map(memory, self._kept)) - self._original.keys():
            self._sources.pop(place, None)
        self._kept.clear()
        self._blank.clear()


class OutOfSight(TorchFunctionMode):
    """Stops where a network takes what comes from its input out of the framework: nobody could count what follows."""

    def __init__(self, origins: Input, here: Callable[[], str]) -> None:
        super().__init__()
        self.origins, self.here = origins, here

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func in _LEAVING and self.origins.is_behind(tensors_in(args)) is not None:
            remedy = "compute it with torch, so that it can be counted"
            raise OnespikeError(f"{self.here()} takes values out of torch by {func.__name__}: {remedy}")
        return func(*args, **(kwargs or {}))


def _blank_after(func: Any, given: Sequence[bool | None]) -> bool | None:
    """Whether what an operation makes of weights is zeros; None if it is not blank. `given` says so of each weight."""
    name = func.overloadpacket.__name__
    if name in BLANK:
        return name in _ZEROS
    if name in ("mul", "mul_") and True in given:
        return True
    return None if None in given or not given else all(given) and (func.is_view or name in _SAME)


def memory(tensor: Tensor) -> int:
    """Where a tensor lies."""
    return tensor.untyped_storage()._cdata


def written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Find the arguments that an operation writes, as its schema declares them."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors_in(args[position] if position < len(args) else kwargs.get(argument.name))


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Find all tensors in nested lists, tuples and mappings."""
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))
