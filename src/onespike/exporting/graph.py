"""An ONNX graph that can be asked: who makes a tensor, what a constant is, which values a tensor can have."""

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

#: Operations that move or choose elements: spikes stay spikes.
PASSING = {
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "ReduceMax", "Slice", "Gather"),
    *("Expand", "Tile", "Concat", "GlobalMaxPool", "Split", "Pad"),
}
#: The largest byte.
BYTE = 255
#: Operations that copy a constant, such as the weights that tied neurons share.
_COPYING: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Expand": lambda x, shape: np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape))),
    "Tile": np.tile,
}


class Graph:
    """An ONNX graph that can be asked who makes a tensor, and what a constant is."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self.graph = model.graph
        self.stored = {one.name: one for one in self.graph.initializer}
        self.producers = {name: node for node in self.graph.node for name in node.output}
        values = (*self.graph.input, *self.graph.value_info, *self.graph.output)
        self.ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}
        self.steps: dict[str, Steps | None] = {}  # of tensors seen so far
        self._array = numpy_helper.to_array
        self._tensor = numpy_helper.from_array

    def constant(self, name: str) -> np.ndarray | None:
        """A constant's value, or that of its copies; None for a tensor that is computed."""
        if name in self.stored:
            return self._array(self.stored[name])
        node = self.producers.get(name)
        if node is None or node.op_type not in _COPYING:
            return None
        of, shape = map(self.constant, node.input)
        return None if of is None or shape is None else _COPYING[node.op_type](of, shape)

    def store(self, name: str, value: Any) -> str:
        """Add a constant, unless there is one of that name."""
        if name not in self.stored:
            self.stored[name] = self._tensor(np.asarray(value, order="C"), name)
        return name

    def store_first(self, copies: str, first: np.ndarray) -> str:
        """Find the constant that another one copies, or store it: the same for all that copy it."""
        while copies not in self.stored:
            copies = self.producers[copies].input[0]
        return (
            copies if np.array_equal(self._array(self.stored[copies]), first) else self.store(f"{copies}_shared", first)
        )

    def before(self, name: str, kind: str) -> Any:
        """The node that makes a tensor, if it is of that kind."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type == kind else None

    def replace(self, nodes: Iterable[Any]) -> None:
        """Replace all nodes by these, in this order; keep only the nodes and constants that outputs need."""
        used, kept = {one.name for one in self.graph.output}, list[Any]()
        for node in reversed(list(nodes)):
            if used.intersection(node.output):
                kept.append(node)
                used.update(node.input)
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(reversed(kept))
        self.graph.initializer.extend(one for name, one in self.stored.items() if name in used)


class Steps(NamedTuple):
    """The number of which all values are whole multiples, and the largest value."""

    step: Fraction
    most: Fraction


def exact_step(name: str, graph: Graph) -> float | None:
    """The step, a power of two, of which a tensor's values are 0 to 255 multiples, so that bytes are exact.

    Spikes and their sums are multiples of 1, means of two and of four spikes of 1/2 and 1/4; None for all else.
    """
    found = steps(name, graph)
    if found is None or found.most / found.step > BYTE or not math.log2(found.step).is_integer():
        return None
    return float(found.step)


def steps(name: str, graph: Graph) -> Steps | None:
    """The step of a tensor's values, as far as its operations tell."""
    if name not in graph.steps:
        graph.steps[name] = _steps_of(graph.producers[name], graph) if name in graph.producers else None
    return graph.steps[name]


def _steps_of(node: Any, graph: Graph) -> Steps | None:
    once = Steps(Fraction(1), Fraction(1))
    match node.op_type:
        case "Greater" | "GreaterOrEqual":
            return once
        case "Cast":
            return steps(node.input[0], graph)
        case "Add" | "Sum":
            both = _together(node.input, graph)
            most = [found.most for one in node.input if (found := steps(one, graph))]
            return both and Steps(both.step, sum(most, Fraction()))
        case "Mul" | "Div":
            found, factor = steps(node.input[0], graph), graph.constant(node.input[1])
            if found is None or factor is None or factor.size != 1 or not factor > 0:
                return None
            times = Fraction(float(factor.item()) if node.op_type == "Mul" else 1 / float(factor.item()))
            return Steps(found.step * times, found.most * times)
        case "Where":  # a region threshold: what exceeds it becomes 1
            found, chosen = steps(node.input[2], graph), graph.constant(node.input[1])
            if found is None or chosen is None or chosen.size != 1 or chosen != 1 or (1 / found.step).denominator > 1:
                return None
            return Steps(found.step, max(found.most, once.most))
        case "Pad":
            filler = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
            return None if filler is None or filler.any() else steps(node.input[0], graph)
        case "Concat":
            return _together(node.input, graph)
    return _together(node.input[:1], graph) if node.op_type in PASSING else None


def _together(names: Sequence[str], graph: Graph) -> Steps | None:
    """The step of the values of several tensors."""
    found = [one for name in names if (one := steps(name, graph))]
    step = min((one.step for one in found), default=Fraction(1))
    if len(found) < len(names) or any((one.step / step).denominator > 1 for one in found):
        return None
    return Steps(step, max(one.most for one in found))
