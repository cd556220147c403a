"""Where the values of an operation come from: from the weights, or from the network's input.

Tensors are told apart by their place in memory, which views and in-place results share. A remembered tensor is kept
alive, or its storage reserved, so that no other tensor takes its place.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from onespike.errors import OnespikeError

#: Operations that use only a tensor's shape or dtype; those of them that give zeros; and those that keep zeros zeros.
BLANK = ("new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like")
_ZEROS, _SAME = ("new_zeros", "zeros_like", "new_empty", "empty_like"), ("clone", "_to_copy", "detach")
#: Operations that copy all values of a tensor to another place, some of them perhaps several times.
_COPIES = ("clone", "_to_copy", "repeat")
#: Functions that take values out of PyTorch.
_LEAVING = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__)


class Input:
    """Tensors that depend on the network's input in one forward pass, and whether a product lies in between."""

    def __init__(self) -> None:
        self._behind: dict[int, tuple[StorageWeakRef, bool]] = {}

    def trace(self, values: Any, behind: bool) -> None:
        """Record that all tensors in `values` come from the input, and whether a product lies in between (`behind`)."""
        for tensor in tensors_in(values):
            storage = tensor.untyped_storage()
            self._behind[storage._cdata] = (StorageWeakRef(storage), behind)

    def is_behind(self, tensors: Iterable[Tensor]) -> bool | None:
        """Whether a product lies between the input and any of the tensors; None if none come from the input at all."""
        found = [self._behind[place][1] for place in map(memory, tensors) if place in self._behind]
        return any(found) if found else None

    def clear(self) -> None:
        """Forget a forward pass."""
        self._behind.clear()


class Weights:
    """The parameters and buffers of a model, and tensors made of them alone: cast, transposed, or multiplied."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._original = {memory(tensor): tensor.detach() for tensor in chain(model.parameters(), model.buffers())}
        # {place: places of the originals that it was made of}
        self._sources: dict[int, tuple[int, ...]] = {place: (place,) for place in self._original}
        # {parts of weights: the number, below 0, of what is made of them}, {place: that number}
        self._numbers: dict[tuple[tuple[int, int], ...], int] = {}
        self._made: dict[int, int] = {}
        self._kept: list[Tensor] = []  # tensors made of weights, in this forward pass
        self._held: dict[int, StorageWeakRef] = {}  # of those that the network keeps, {place: storage}
        # Those of them with a weight's shape or dtype alone, such as weight.new_zeros(...), and whether they are 0.
        self._blank: dict[int, bool] = {}
        self._distinct: dict[int, int] = {}  # {place: how many values a copy has that are not repetitions}

    def __contains__(self, tensor: Tensor) -> bool:
        return memory(tensor) in self._sources

    def place(self, weight: Tensor) -> tuple[int, int, int]:
        """Identify a weight: by the first parameter or buffer that it was made of, and by which part of what it is.

        Attention projects queries, keys and values by three parts of one parameter; one gain may scale several weights.
        """
        return self._sources[memory(weight)][0], *self._part(weight)

    def _part(self, weight: Tensor) -> tuple[int, int]:
        """The parameter or buffer, or what was made of some, and where a weight begins in it."""
        place = memory(weight)
        return self._made.get(place, place), int(weight.storage_offset())

    def size(self, weight: Tensor) -> int:
        """How many values a weight has; what is expanded or repeated along an axis counts once."""
        found = math.prod(side for side, stride in zip(weight.shape, weight.stride(), strict=True) if stride)
        return min(found, self._distinct.get(memory(weight), found))

    def is_made_of(self, tensor: Tensor, weight: Tensor) -> bool:
        """Whether a parameter went into a tensor."""
        return memory(weight) in self._sources.get(memory(tensor), ())

    def makes_one(self, func: Any, given: Sequence[Tensor], is_product: bool) -> bool:
        """Whether an operation makes a weight: all its inputs are weights, and it draws no random numbers."""
        random = torch.Tag.nondeterministic_seeded in func.tags
        if not given or random or not all(tensor in self for tensor in given):
            return False
        states = self._blank.keys() & set(map(memory, given)) if is_product else ()
        for place in states:  # zeros that meet weights are an initial state
            self._sources.pop(place, None)
        return not states

    def add(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        """Remember the result of an operation on weights alone."""
        given = dict.fromkeys(map(memory, tensors_in([args, kwargs])))
        sources = [source for place in given for source in self._sources.get(place, ())]  # none of a number's
        parts = tuple(self._part(tensor) for tensor in tensors_in([args, kwargs]) if tensor in self)
        if func._schema.is_mutable and len(given) > 1:  # weights are written into it
            for place in map(memory, written(func, args, kwargs)):
                self._blank.pop(place, None)
                self._distinct.pop(place, None)
        for tensor in tensors_in(result):
            place = memory(tensor)
            if place not in given:  # no view, nor written in place
                self._made[place] = self._numbers.setdefault(parts, -1 - len(self._numbers))
            self._sources[place] = tuple(dict.fromkeys((*self._sources.get(place, ()), *sources)))
            self._kept.append(tensor)
            if func.overloadpacket.__name__ in _COPIES:
                self._distinct[place] = self.size(args[0])
            if (zero := _blank_after(func, [self._blank.get(one) for one in given])) is not None:
                self._blank[place] = zero

    def release(
        self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], as_state: Callable[[set[int]], None]
    ) -> None:
        """Forget weights that activations are about to overwrite; `as_state` gets the model's own among them."""
        if func._schema.is_mutable:
            places = set(map(memory, written(func, args, kwargs))) & self._sources.keys()
            as_state(places & self._original.keys())
            for place in places:
                self._sources.pop(place, None)

    def replaced(self) -> set[int]:
        """Buffers that the model has reassigned since, as in self.v = self.v + x: they are a state."""
        now = set(map(memory, chain(self._model.parameters(), self._model.buffers())))
        return (self._original.keys() - now) & self._sources.keys()

    def drop(self, places: set[int]) -> None:
        """Forget some of the model's weights, and all that was made of them."""
        self._sources = {place: sources for place, sources in self._sources.items() if places.isdisjoint(sources)}

    def clear(self) -> None:
        """Forget what was made in a forward pass, but for what the network has kept, such as binary weights."""
        self._held |= {memory(one): StorageWeakRef(one.untyped_storage()) for one in self._kept}
        self._kept.clear()
        held = self._held = {place: one for place, one in self._held.items() if not one.expired()}
        made: dict[int, Any]
        for made in (self._sources, self._made, self._blank, self._distinct):
            for place in made.keys() - held.keys() - (self._original.keys() if made is self._sources else set()):
                del made[place]


class OutOfSight(TorchFunctionMode):
    """Raises where a network takes values that depend on its input out of PyTorch: nothing could be counted then."""

    def __init__(self, origins: Input, refusal: Callable[[str], OnespikeError]) -> None:
        super().__init__()
        self.origins, self.refusal = origins, refusal

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func in _LEAVING and self.origins.is_behind(tensors_in(args)) is not None:
            remedy = "compute it with torch, so that it can be counted"
            raise self.refusal(f" takes values out of torch by {func.__name__}: {remedy}")
        return func(*args, **(kwargs or {}))


def _blank_after(func: Any, given: Sequence[bool | None]) -> bool | None:
    """Whether an operation on weights gives zeros; None if its result is not blank. `given` tells it of each weight."""
    name = func.overloadpacket.__name__
    if name in BLANK:
        return name in _ZEROS
    if name in ("mul", "mul_") and True in given:
        return True
    return None if None in given or not given else all(given) and (func.is_view or name in _SAME)


def memory(tensor: Tensor) -> int:
    """A tensor's place in memory."""
    return tensor.untyped_storage()._cdata


def written(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Find the arguments that an operation writes, as its schema declares them."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from tensors_in(args[position] if position < len(args) else kwargs.get(argument.name))


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Find all tensors in nested lists, tuples and mappings."""
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))
