"""A network as maps of numbers, or the names of operations that cannot be expressed."""

import warnings
from typing import Any

import torch

from onespike.errors import OnespikeError, listed
from onespike.exporting.lowering.layers import Layers
from onespike.exporting.lowering.maps import needed
from onespike.exporting.lowering.values import Unsaid, Value
from onespike.exporting.network import Exported


def lower(exported: Exported, numbers: type[Layers], name: str, image: str = "u8") -> tuple[Layers, list[Value | None]]:
    """Lower a network to maps of one kind of numbers, the last of them the class scores; returns its spikes, too.

    Spikes that the scores do not need are None: nothing computes them.

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
        graph: Any = exported.program(dynamic=False).run_decompositions({}).module()
    lowering = numbers(graph)
    with torch.no_grad():
        logits, *spikes = lowering.run(lowering.image(torch.Size((1, *exported.contract.shape)), image))
    lowering.check(name, exported.contract.model)
    if lowering.problems or isinstance(logits, Unsaid):
        raise OnespikeError(f"{name}: it cannot say {listed(lowering.problems, '; ')}; {numbers.others}")
    lowering.unit = lowering.scores(logits)
    computed = set(needed(lowering.maps))
    return lowering, [value if computed.issuperset(lowering.maps_of(value.index)) else None for value in spikes]
