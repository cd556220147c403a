"""A network as maps of numbers, or the names of what cannot be said."""

import warnings
from typing import Any

import torch

from onespike.errors import OnespikeError, listed
from onespike.exporting.lowering.layers import Layers
from onespike.exporting.lowering.values import Unsaid, Value
from onespike.exporting.network import Traced


def lower(traced: Traced, numbers: type[Layers], name: str, image: str = "u8") -> tuple[Layers, list[Value]]:
    """Turn a network into maps of some kind of numbers, of which the last is the class scores; and give its spikes.

    Args:
        traced: The network.
        numbers: `Integers` or `Reals`.
        name: The format, for messages.
        image: The kind of numbers that an image has.

    Raises:
        OnespikeError: What cannot be said is named.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own
        graph: Any = traced.program(dynamic=False).run_decompositions({}).module()
    lowering = numbers(graph)
    with torch.no_grad():
        logits, *spikes = lowering.run(lowering.image(torch.Size((1, *traced.contract.shape)), image))
    lowering.check(name, traced.contract.model)
    if lowering.problems or isinstance(logits, Unsaid):
        raise OnespikeError(f"{name}: it cannot say {listed(lowering.problems, '; ')}; {numbers.others}")
    lowering.unit = lowering.scores(logits)
    return lowering, spikes
