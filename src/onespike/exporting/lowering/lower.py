"""A network as maps of numbers, or the names of operations that cannot be expressed."""

import warnings
from typing import Any

import torch
from torch import Tensor

from onespike.exporting.lowering.layers import Layers
from onespike.exporting.lowering.maps import Map, Sum, needed
from onespike.exporting.lowering.values import Value, as_value
from onespike.exporting.network import Exported

#: Operations that PyTorch takes apart into others, which are known.
APART = (torch.ops.aten.einsum.default,)


def lower(
    exported: Exported, numbers: type[Layers], name: str, image: str = "u8"
) -> tuple[Layers, list[list[Value] | None]]:
    """Lower a network to maps of one kind of numbers, the last of them the class scores; returns its spikes, too.

    The spikes of a layer are values of bits, of which they are the sum. They are None if the scores do not need them,
    so that nothing computes them, or if the layer's outputs are no spikes, such as a ReLU's.

    Args:
        exported: The network.
        numbers: `Integers` or `Reals`.
        name: The format, for messages.
        image: The kind of numbers of an image.

    Raises:
        OnespikeError: Operations cannot be expressed; they are named.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's: what will change, and, up to 2.7, of constants
        apart = {one: torch.export.default_decompositions()[one] for one in APART}
        graph: Any = exported.program(dynamic=False).run_decompositions(apart).module()
    lowering = numbers(graph)
    with torch.no_grad():
        outputs = lowering.run(lowering.image(torch.Size((1, *exported.contract.shape)), image))
    lowering.check(name, exported.contract.model)
    logits, *spikes = [as_value(one) if isinstance(one, Tensor) else one for one in outputs]  # some are constants
    lowering.unit = lowering.scores(logits)
    computed = set(needed(lowering.maps))
    found = [(value, lowering.maps_of(value.index)) for value in spikes]
    return lowering, [in_bits(value, maps) if computed.issuperset(maps) else None for value, maps in found]


def in_bits(value: Value, maps: list[Map]) -> list[Value] | None:
    """Values of bits that add up to a value, such as the two of a ternary spike; None if it is no such sum."""
    none, zeros = torch.full_like(value.index, -1), torch.zeros_like(value.gain)
    parts = [Value(none, zeros, value.shift)]
    for of in maps:
        here = of.holds(value.index)
        if of.kind == "bits":
            parts.append(Value(torch.where(here, value.index, none), value.gain, zeros))
            continue
        if not isinstance(of, Sum) or of.rectified or of.drop or of.constant.any():
            return None
        place = torch.where(here, value.index - of.offset, 0)
        for term in of.terms:
            source, channel, pixel = term.read.map, term.read.channels[place % of.channels], place // of.channels
            if source.kind != "bits" or term.drop:
                return None
            pixel = pixel if term.read.pixels is None else term.read.pixels[pixel]
            index = torch.where(here & (channel >= 0), source.offset + pixel * source.channels + channel, none)
            parts.append(Value(index, value.gain * term.factors[place % of.channels], zeros))
    return parts
