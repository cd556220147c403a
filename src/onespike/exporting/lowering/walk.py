"""From a graph to maps: an interpreter of exported programs, and how it handles elements that are only moved.

Operations that move elements (views, slices, concatenation, repetition) move index, gain and shift of a `Value`;
constants and scales change gain and shift. Operations that make new maps are elsewhere: `layers`, `integers`, `reals`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from onespike.errors import OnespikeError, listed, shown
from onespike.exporting.lowering.maps import Collect, Map, Part, Pixels, Read, Term
from onespike.exporting.lowering.values import CannotSayError, Unsaid, Value, as_value, sides_of, without

#: Operations that move elements, and those that leave them as they are.
MOVES = {
    *("view", "_unsafe_view", "reshape", "flatten", "unflatten", "permute", "transpose", "movedim", "squeeze"),
    *("unsqueeze", "slice", "narrow", "select", "expand", "expand_as", "repeat", "unbind"),
    *("split", "chunk", "split_with_sizes", "stack", "cat", "slice_scatter", "select_scatter", "flip", "roll"),
    *("t", "copy", "numpy_T", "tile", "view_as", "swapaxes", "broadcast_to", "unfold", "diagonal", "fliplr", "flipud"),
    *("rot90", "concat", "concatenate", "hstack", "vstack", "dstack", "column_stack"),
    *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
}
#: Operations that move the elements of their first tensor to where others, of whole numbers, say.
BY_NUMBERS = {"index_select", "index", "repeat_interleave"}
#: Those that move elements, and know no whole numbers.
NEAREST = {f"{kind}{axes}d" for kind in ("upsample_nearest", "_upsample_nearest_exact") for axes in (1, 2, 3)}
SAME = {"to", "_to_copy", "contiguous", "clone", "alias", "detach", "lift_fresh_copy", "dropout", "type_as", "float"}
SAME |= {"feature_dropout", "double"}
#: Second names of operations.
ALIASES = {"subtract": "sub", "multiply": "mul", "divide": "div", "true_divide": "div", "negative": "neg"}
ALIASES |= {"greater": "gt", "greater_equal": "ge", "clip": "clamp"}


class Walk(fx.Interpreter):
    """Walks over a graph and makes `maps`, in the order of computation; `problems` lists what cannot be expressed.

    Args:
        graph: A graph of ATen operations on float64, without effects, for one image.
    """

    others = "onnx and pt2 can"  # for errors: which formats can express more

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.maps: list[Map] = []
        self.problems: list[str] = []  # operations that cannot be expressed
        self.unit = 1.0  # the logit that a class score of 1 stands for
        self._layer, self._shape, self._dtype = "", torch.Size(), torch.float64

    def image(self, shape: torch.Size, kind: str = "u8") -> Value:
        """The image, (1, C, H, W)."""
        _, channels, height, width = shape
        self._add(pixels := Pixels(shape=(1, height, width, channels), kind=kind, bound=255, image=True))
        return self._value(pixels)

    def check(self, name: str, model: str) -> None:  # noqa: ARG002
        """Raise `OnespikeError`, which begins with the format's name, if these numbers cannot express a model."""
        if self.problems:
            raise OnespikeError(f"{name}: it cannot say {listed(self.problems, '; ')}; {self.others}")

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation; remember which layer it belongs to."""
        stack = list((n.meta.get("nn_module_stack") or {"": ("",)}).values())
        self._layer = str(stack[-1][0]).removeprefix("L['self'].").removeprefix("network.") or n.name
        value = n.meta.get("val")
        self._shape = value.shape if isinstance(value, Tensor) else torch.Size()
        self._dtype = value.dtype if isinstance(value, Tensor) else torch.float64
        return super().run_node(n)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Weights and other constants, in float64."""
        value = super().get_attr(target, args, kwargs)
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> None:
        """Leave out the guards, which look at shapes: an exported graph has no other modules."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Compute constants; lower operations that depend on the image."""
        leaves = pytree.tree_leaves((args, kwargs))
        name = target._schema.name.split("::")[1] if hasattr(target, "_schema") else target.__name__
        name = name.rstrip("_") if not name.startswith("_") else name
        name = ALIASES.get(name, name)
        if name == "_assert_tensor_metadata":  # types differ here
            return None
        if not any(isinstance(leaf, Value | Unsaid) for leaf in leaves):
            return super().call_function(target, args, kwargs)
        if name == "getitem":
            if isinstance(args[0], Unsaid):
                return args[0]
            return args[0][args[1]] if args[1] < len(args[0]) else self._refuse(f"indices of maxima in {self._layer}")
        if name in SAME:
            if self._dtype.is_floating_point or isinstance(args[0], Unsaid) or self._are_spikes(args[0]):
                return args[0]
            return self._refuse(f"a conversion to whole numbers in {self._layer}")
        if name.startswith("new_") or name.endswith("_like"):
            fill = args[-1] if "full" in name else float("ones" in name)
            return torch.full(self._shape, float(fill), dtype=torch.float64)
        if any(isinstance(leaf, Unsaid) for leaf in leaves):
            return self._of_unsaid(name, args)
        handler: Callable[..., Any] | None = getattr(self, f"_op_{name}", None)
        try:
            if name in BY_NUMBERS:
                return self._move_by_numbers(target, args, kwargs)
            if name in NEAREST:
                return args[0].each(lambda part: target(part.double(), *args[1:], **kwargs).to(part.dtype))
            if name in MOVES:
                return self._move(target, args, kwargs)
            if handler is not None:
                return handler(*args, **kwargs)
        except CannotSayError as reason:
            return self._refuse(str(reason))
        except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            # Arguments that nobody expected, and numbers that are not finite.
            return self._refuse(f"{name} of {self._layer} ({shown(error)})")
        return self._refuse(f"{name} of {self._layer}")

    # What cannot be expressed.

    def _refuse(self, reason: str) -> Unsaid:
        self.problems += [reason] if reason else []  # without a reason, `check` says it
        return Unsaid()

    def _of_unsaid(self, name: str, args: tuple[Any, ...]) -> Any:  # noqa: ARG002
        """The result of an operation on a tensor that cannot be expressed."""
        return Unsaid()

    # Elements that are moved.

    def _add(self, new: Map) -> None:
        new.offset = self.maps[-1].offset + self.maps[-1].size if self.maps else 0
        new.layer = self._layer
        self.maps.append(new)

    def _value(self, of: Map, gain: Tensor | float = 1.0, shift: Tensor | float = 0.0) -> Value:
        """A whole map as (N, C, H, W), with a gain and a shift, () or (C,)."""
        images, height, width, channels = of.shape
        return self._laid(of, (images, channels, height, width), 1, gain, shift)

    def _laid(
        self, of: Map, shape: Sequence[int], axis: int, gain: Tensor | float = 1.0, shift: Tensor | float = 0.0
    ) -> Value:
        """A whole map as a tensor of a shape whose channels lie along an axis, likewise."""
        index = (torch.arange(of.size) + of.offset).view(*without(shape, axis), -1).movedim(-1, axis)
        behind = [1] * (len(shape) - 1 - axis % len(shape))
        both = (torch.as_tensor(one, dtype=torch.float64).view(-1, *behind) for one in (gain, shift))
        return Value(index, *(one.expand(index.shape) for one in both))

    def _move(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            target = torch.reshape  # here a clone has not made it contiguous

        def part(which: str) -> Any:
            def pick(leaf: Any) -> Any:
                if isinstance(leaf, Value):
                    return getattr(leaf, which)
                return getattr(as_value(leaf), which) if isinstance(leaf, Tensor) else leaf

            return target(*pytree.tree_map(pick, args), **pytree.tree_map(pick, kwargs))

        parts = part("index"), part("gain"), part("shift")
        return Value(*parts) if isinstance(parts[0], Tensor) else [Value(*one) for one in zip(*parts, strict=True)]

    def _move_by_numbers(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
        x, *others = args
        if not isinstance(x, Value) or any(isinstance(one, Value) for one in pytree.tree_leaves((others, kwargs))):
            raise CannotSayError(f"an order that depends on the image in {self._layer}")
        return x.each(lambda part: target(part, *others, **kwargs))

    # Which maps a value reads.

    def _owners(self, index: Tensor) -> Tensor:
        """The number of the map of each element; -1 for constants."""
        starts = torch.tensor([one.offset for one in self.maps])
        return torch.searchsorted(starts, index.contiguous(), right=True) - 1

    def maps_of(self, index: Tensor) -> list[Map]:
        """The maps that an index names."""
        return [self.maps[place] for place in torch.unique(self._owners(index)).tolist() if place >= 0]

    def _decoded(self, value: Value, axis: int) -> list[Term] | None:
        """A value as pixels and channels of maps, times the gain of each channel; None if it has no such form."""
        flat = value.rows(axis)
        index, gain, shift = flat.index, flat.gain, flat.shift
        if bool((gain != gain[0]).any()) or bool((shift != shift[0]).any()):
            return None
        found = []
        for of in self.maps_of(index):
            inside = of.holds(index)
            columns = inside[0]
            if bool((inside != columns).any()):
                return None
            place = index[:, columns] - of.offset
            pixels, channels = place // of.channels, place % of.channels
            if bool((pixels != pixels[:, :1]).any()) or bool((channels != channels[0]).any()):
                return None
            chosen = torch.full((value.shape[axis],), -1)
            chosen[columns] = channels[0]
            same = len(pixels) == of.pixels and torch.equal(pixels[:, 0], torch.arange(of.pixels))
            read = Read(of, chosen, None if same else pixels[:, 0])
            found.append(Term(read, torch.where(columns, gain[0], 0.0)))
        return found

    def _are_spikes(self, value: Value) -> bool:
        """Whether all elements are 0 or 1."""
        constant = (value.index < 0) & (value.shift * (1 - value.shift) == 0)
        plain = (value.index >= 0) & (value.gain == 1) & (value.shift == 0)
        return bool((constant | plain).all()) and all(of.kind == "bits" for of in self.maps_of(value.index))

    def _of_one_map(self, value: Value, axis: int) -> Term | None:
        """A value that reads one map, and has no channel of constants; None if it has no such form."""
        decoded = self._decoded(value, axis) or []
        return decoded[0] if len(decoded) == 1 and bool((decoded[0].read.channels >= 0).all()) else None

    def _single(self, value: Value, axis: int) -> Read | None:
        """The one map that a value reads, all its pixels in order; None if it has no such form."""
        if (term := self._of_one_map(value, axis)) is None or term.read.pixels is not None:
            return None
        return term.read if len(term.read.channels.unique()) == len(term.read.channels) else None

    def _contiguous(self, value: Value) -> Value:
        """A value (N, C, H, W) that covers one whole map."""
        return value if self._single(value, 1) is not None else self._collected(value, 1)

    def _collected(self, value: Value, axis: int) -> Value:
        flat = value.rows(axis)
        index, gain, shift = flat.index, flat.gain, flat.shift
        maps = self.maps_of(index)
        kinds = {of.kind for of in maps}
        if "u8" in kinds:
            raise CannotSayError(f"pixels of the image that are moved or padded before {self._layer}")
        if len(kinds) != 1:
            raise CannotSayError(f"numbers of several kinds side by side in {self._layer}")
        gain = torch.where(index < 0, torch.nan, gain)
        column = gain.nan_to_num(-math.inf).amax(0)
        column = torch.where(column.isinf(), 1.0, column)
        if bool(((gain != column) & ~gain.isnan()).any()) or bool((shift != shift[0]).any()):
            raise CannotSayError(f"values of several scales side by side in {self._layer}")
        new = Collect(
            shape=sides_of(value.shape, axis),
            kind=kinds.pop(),
            bound=max(of.bound for of in maps),
            image=all(of.image for of in maps),
            parts=[part for of in maps for part in _parts(of, index)],
        )
        self._add(new)
        laid = self._laid(new, value.shape, axis, column)
        return Value(laid.index, laid.gain, value.shift)


def _parts(of: Map, index: Tensor) -> Iterator[Part]:
    """The elements of (pixels, channels) that are those of a map, in parts that have the same channels and pixels."""
    inside = of.holds(index)
    for columns in torch.unique(inside, dim=0):  # pixels that take the same channels of it
        if not columns.any():
            continue
        rows, to_channels = (inside == columns).all(1), torch.nonzero(columns).flatten()
        place = index[rows][:, columns] - of.offset
        for channels in torch.unique(place % of.channels, dim=0):
            chosen = (place % of.channels == channels).all(1)
            to_pixels = torch.nonzero(rows).flatten()[chosen]
            blocks, which = torch.unique(place[chosen] // of.channels, dim=1, return_inverse=True)
            for number, pixels in enumerate(blocks.unbind(1)):  # channels that come from the same pixels
                own = which == number
                yield Part(of, to_pixels, pixels, to_channels[own], channels[own])
