"""Rewrites of an ONNX graph that make runtimes fast, with the same spikes.

Batch norm is folded into the thresholds after it, and neurons that share a current read it as it is:

    gain * x + offset + shift > threshold    is    x > (threshold - shift - offset) / gain        (gain > 0)

A convolution with the same weights for all P neurons of a channel reads how many of them fire, which takes P times
fewer products. Of a kernel over a map of one pixel, only the tap that meets it is stored. Weights of 8 bits are written
as int8 with a scale for each output channel. Layers that read spikes are in the QDQ form that integer runtimes read:
before them is a quantisation that is exact. Others multiply in floats.
"""

from typing import Any

import numpy as np
import torch

from onespike.exporting.graph import PASSING, Graph, exact_step, steps
from onespike.functional import to_integers
from onespike.neurons.integrate_fire import MOST_NEURONS

#: What else may stand between bytes and the first layer with weights: normalisation and means.
_OF_PIXELS = ("Add", "Mul", "Sub", "Div", "AveragePool", "GlobalAveragePool", "ReduceMean")


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
        if weight is None or steps(node.input[0], graph) is None:  # sums of spikes are exact, others round
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


def _is_pixels(name: str, graph: Graph) -> bool:
    """Whether a tensor is normalised bytes, or means of these: OpenVINO would quantise them again, and lose bits."""
    node = graph.producers.get(name)
    return node is not None and (
        (node.op_type == "Cast" and node.input[0] == "images")
        or (node.op_type in (*_OF_PIXELS, *PASSING) and _is_pixels(node.input[0], graph))
    )
