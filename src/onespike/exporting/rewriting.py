"""Rewrites of an ONNX graph that make runtimes fast, with the same spikes.

Batch norm is folded into the thresholds after it, and neurons that share a current read it as it is:

    gain * x + offset + shift > threshold    is    x > (threshold - shift - offset) / gain        (gain > 0)

A convolution with the same weights for all P neurons of a channel reads how many of them fire, which takes P times
fewer products. Of a kernel over a map of one pixel, only the tap that meets it is stored. Weights of 8 bits are written
as int8 with a scale for each output channel. Layers that read spikes are in the QDQ form that integer runtimes read:
before them is a quantisation that is exact. Others multiply in floats.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch

from onespike.functional import to_integers
from onespike.neurons.integrate_fire import MOST_NEURONS

#: Operations that move or choose elements: spikes stay spikes.
PASSING = {
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "ReduceMax", "Slice", "Gather"),
    *("Expand", "Tile", "Concat", "GlobalMaxPool", "Split", "Pad"),
}
#: What else may stand between bytes and the first layer with weights: normalisation and means.
_OF_PIXELS = ("Add", "Mul", "Sub", "Div", "AveragePool", "GlobalAveragePool", "ReduceMean")
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


def fold_thresholds(model: Any) -> None:
    """Fold batch norm, copies for a population and shifts into the thresholds after them."""
    from onnx import helper

    graph, nodes = Graph(model), list[Any]()
    for node in model.graph.node:
        found = _thresholds(graph, node) if node.op_type == "Greater" else None
        if found is None:
            nodes.append(node)
            continue
        current, thresholds = found
        parts = [f"{node.name}_{number}" for number in range(len(thresholds))]
        for part, threshold in zip(parts, thresholds, strict=True):
            stored = graph.store(f"{part}_threshold", threshold[:, None, None])
            nodes.append(helper.make_node("Greater", [current, stored], [part], name=f"{part}_node"))
        nodes.append(helper.make_node("Concat", parts, list(node.output), axis=1, name=node.name))
    graph.replace(nodes)


def _thresholds(graph: Graph, node: Any) -> tuple[str, np.ndarray] | None:
    """The current of a comparison, and its thresholds (P, C); None where there is no batch norm to fold."""
    threshold, name, shift, population = graph.constant(node.input[1]), node.input[0], np.zeros(1), 1
    if (add := graph.before(name, "Add")) is not None and (stored := graph.constant(add.input[1])) is not None:
        shift, name = stored, add.input[0]
    if (tile := graph.before(name, "Tile")) is not None:
        repeats = graph.constant(tile.input[1])
        if repeats is None or repeats.size != 4 or repeats.prod() != repeats[1]:
            return None
        population, name = int(repeats[1]), tile.input[0]
    if (expand := graph.before(name, "Expand")) is not None:  # by ones: what `repeat` is exported to
        shape = graph.constant(expand.input[1])
        if shape is None or shape.prod() != 1:
            return None
        name = expand.input[0]
    norm = graph.before(name, "BatchNormalization")
    constants = [] if norm is None else [graph.constant(one) for one in norm.input[1:5]]
    known = [one.astype(np.float64) for one in constants if one is not None]
    if threshold is None or len(known) < 4 or graph.ranks.get(norm.input[0]) != 4:  # thresholds are of maps
        return None
    scale, bias, mean, variance = known
    gain = scale / np.sqrt(variance + next((one.f for one in norm.attribute if one.name == "epsilon"), 1e-5))
    neurons = population * len(gain)
    # One number, or one for each neuron, (N, 1, 1).
    if (gain <= 0).any() or any(one.size != 1 and one.shape != (neurons, 1, 1) for one in (threshold, shift)):
        return None
    apart = threshold.astype(np.float64).reshape(-1) - shift.astype(np.float64).reshape(-1)
    each = np.broadcast_to(apart, neurons).reshape(population, -1)
    return norm.input[0], ((each - bias) / gain + mean).astype(np.float32)


def add_up_tied(model: Any) -> None:
    """Add up the spikes of tied neurons in front of each convolution, and store the weights that they share once."""
    from onnx import helper

    graph, nodes = Graph(model), list[Any]()
    for node in model.graph.node:
        nodes.append(node)
        weight = graph.constant(node.input[1]) if node.op_type == "Conv" and not _is_grouped(node) else None
        if weight is None or _steps(node.input[0], graph) is None:  # sums of spikes are exact, others round
            continue
        own = own_channels(weight)
        if not 1 < (population := weight.shape[1] // own) <= MOST_NEURONS:  # more repeat by accident, as zeros do
            continue
        parts, added = [f"{node.output[0]}_neuron{number}" for number in range(population)], f"{node.output[0]}_fire"
        nodes[-1:] = [
            helper.make_node("Split", [node.input[0]], parts, name=f"{added}_apart", axis=1, num_outputs=population),
            helper.make_node("Sum", parts, [added], name=f"{added}_together"),
            node,
        ]
        node.input[0], node.input[1] = added, graph.store_first(node.input[1], weight[:, :own])
    graph.replace(nodes)


def own_channels(weight: np.ndarray) -> int:
    """How many input channels have weights (C_out, C_in, ...) of their own, which those behind repeat: tied neurons."""
    channels = weight.shape[1]
    sizes = (size for size in range(1, channels + 1) if channels % size == 0)
    return next(size for size in sizes if np.array_equal(weight[:, size:], weight[:, : channels - size]))


def _is_grouped(node: Any) -> bool:
    return any(one.name == "group" and one.i > 1 for one in node.attribute)


def store_taps(model: Any) -> dict[str, np.ndarray]:
    """Store each tap that a graph takes of a kernel in the kernel's place; gives the kernels by the taps' names."""
    graph, nodes, kernels = Graph(model), list[Any](), dict[str, np.ndarray]()
    for node in model.graph.node:
        weight, index = map(graph.constant, node.input) if node.op_type == "Gather" else (None, None)
        if weight is None or index is None or index.ndim:
            nodes.append(node)
            continue
        axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
        kernels[graph.store(node.output[0], weight.take(index, axis))] = kernels.get(node.input[0], weight)
    graph.replace(nodes)
    return kernels


def quantise(model: Any) -> None:
    """Store weights of 8 bits as int8, taps by the scales of kernels; where they meet spikes, both get the QDQ form."""
    from onnx import TensorProto, helper

    kernels = store_taps(model)
    graph, nodes, present = Graph(model), list[Any](), set[str]()

    def once(kind: str, given: list[str], made: str, **attributes: Any) -> str:
        """Add a node that makes a tensor, unless it is there for another layer with the same weights."""
        if made not in present:
            present.add(made)
            nodes.append(helper.make_node(kind, given, [made], name=made, **attributes))
        return made

    for node in model.graph.node:
        nodes.append(node)
        if node.op_type not in ("Conv", "Gemm", "MatMul") or _is_pixels(node.input[0], graph):
            continue
        transpose = graph.before(node.input[1], "Transpose")
        name = node.input[1] if transpose is None else transpose.input[0]
        weight = graph.constant(name)
        if weight is None or weight.ndim < 2 or not np.isfinite(weight).all():  # no channels, or no scale
            continue
        by_column = node.op_type == "Gemm" and not any(one.name == "transB" and one.i for one in node.attribute)
        axis = weight.ndim - 1 if transpose is None and (by_column or node.op_type == "MatMul") else 0
        exact, step = torch.from_numpy(weight.copy()).movedim(axis, 0), exact_step(node.input[0], graph)
        integers, scale = to_integers(exact)
        if len(kernels.get(name, ())) == len(exact):
            scale = to_integers(torch.from_numpy(kernels[name].copy()))[1].view(scale.shape)
            integers = (exact / scale).round()
        if not torch.allclose(integers * scale, exact, rtol=1e-5, atol=0.0):
            continue  # not of 8 bits, such as a recurrent cell's
        nodes.pop()
        # Of grouped convolutions each call has a copy: OpenVINO folds the norm behind each into what they share.
        name = node.output[0] if _is_grouped(node) else name
        stored = graph.store(f"{name}_int8", integers.movedim(0, axis).to(torch.int8).numpy())
        if step is None:  # behind a DequantizeLinear, ONNX Runtime would round what the layer reads to 8 bits, too
            scales = graph.store(f"{stored}_scales", scale.movedim(0, axis).numpy())
            cast = once("Cast", [stored], f"{stored}_cast", to=TensorProto.FLOAT)
            real = once("Mul", [cast, scales], f"{stored}_scaled")
        else:
            scales = graph.store(f"{stored}_scale", scale.flatten().numpy())
            real = once("DequantizeLinear", [stored, scales], f"{stored}_dequantised", axis=axis)
        if transpose is not None:
            turned = {one.name: helper.get_attribute_value(one) for one in transpose.attribute}
            real = once("Transpose", [real], f"{real}_turned", **turned)
        node.input[1] = real
        if step is not None:
            scale_and_zero = graph.store(f"step_{step}", np.float32(step)), graph.store("step_zero", np.uint8(0))
            before, during, after = node.input[0], f"{node.name}_q", f"{node.name}_dq"
            for kind, given, made in (("Quantize", before, during), ("Dequantize", during, after)):
                nodes.append(helper.make_node(f"{kind}Linear", [given, *scale_and_zero], [made], name=f"{made}_node"))
            node.input[0] = after
        nodes.append(node)
    graph.replace(nodes)


class Steps(NamedTuple):
    """The number of which all values are whole multiples, and the largest value."""

    step: Fraction
    most: Fraction


def exact_step(name: str, graph: Graph) -> float | None:
    """The step, a power of two, of which a tensor's values are 0 to 255 multiples, so that bytes are exact.

    Spikes and their sums are multiples of 1, means of two and of four spikes of 1/2 and 1/4; None for all else.
    """
    found = _steps(name, graph)
    if found is None or found.most / found.step > BYTE or not math.log2(found.step).is_integer():
        return None
    return float(found.step)


def _steps(name: str, graph: Graph) -> Steps | None:
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
            return _steps(node.input[0], graph)
        case "Add" | "Sum":
            both = _together(node.input, graph)
            most = [found.most for one in node.input if (found := _steps(one, graph))]
            return both and Steps(both.step, sum(most, Fraction()))
        case "Mul" | "Div":
            found, factor = _steps(node.input[0], graph), graph.constant(node.input[1])
            if found is None or factor is None or factor.size != 1 or not factor > 0:
                return None
            times = Fraction(float(factor.item()) if node.op_type == "Mul" else 1 / float(factor.item()))
            return Steps(found.step * times, found.most * times)
        case "Where":  # a region threshold: what exceeds it becomes 1
            found, chosen = _steps(node.input[2], graph), graph.constant(node.input[1])
            if found is None or chosen is None or chosen.size != 1 or chosen != 1 or (1 / found.step).denominator > 1:
                return None
            return Steps(found.step, max(found.most, once.most))
        case "Pad":
            filler = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
            return None if filler is None or filler.any() else _steps(node.input[0], graph)
        case "Concat":
            return _together(node.input, graph)
    return _together(node.input[:1], graph) if node.op_type in PASSING else None


def _together(names: Sequence[str], graph: Graph) -> Steps | None:
    """The step of the values of several tensors."""
    found = [one for name in names if (one := _steps(name, graph))]
    step = min((one.step for one in found), default=Fraction(1))
    if len(found) < len(names) or any((one.step / step).denominator > 1 for one in found):
        return None
    return Steps(step, max(one.most for one in found))


def _is_pixels(name: str, graph: Graph) -> bool:
    """Whether a tensor is normalised bytes, or means of these: OpenVINO would quantise them again, and lose bits."""
    node = graph.producers.get(name)
    return node is not None and (
        (node.op_type == "Cast" and node.input[0] == "images")
        or (node.op_type in (*_OF_PIXELS, *PASSING) and _is_pixels(node.input[0], graph))
    )
