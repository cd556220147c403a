"""ONNX: one static graph with a free batch size, float32; and with integers, for networks whose layers read spikes.

Where weights have 8 bits (`weights="int8"`), layers are written in the QDQ form that integer runtimes read: weights as
int8 with a scale for each output channel, and in front of a layer that reads spikes a quantisation with scale 1, which
is exact.
"""

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onespike.errors import OnespikeError
from onespike.exporting.network import Traced
from onespike.exporting.parity import Target
from onespike.functional import to_integers

FILE, OPSET = "model.onnx", 18
#: Operations that move or choose elements: of spikes they make spikes.
PASSING = {
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "ReduceMax", "Slice", "Gather"),
    *("Expand", "Tile", "Concat", "GlobalMaxPool", "Split", "Pad"),
}


def write(traced: Traced, folder: Path) -> dict[str, Target]:
    """Write `model.onnx`, whose input is "images" and whose output is "logits".

    ONNX Runtime is the target, and OpenVINO where it is installed.

    Raises:
        OnespikeError: The network cannot be traced, or an operation has no counterpart; packages are missing.
    """
    expect_packages()
    import onnx

    names = ["logits", *(f"spikes{number}" for number in range(traced.calls()))]
    watched = graph(traced, names)
    plain = onnx.ModelProto()
    plain.CopyFrom(watched)
    del plain.graph.output[1:]
    onnx.checker.check_model(plain)
    onnx.save(plain, folder / FILE)
    file, inside = folder / FILE, watched.SerializeToString()
    targets = {"onnx": _runtime(session(file), session(inside), names[1:], traced)}
    if importlib.util.find_spec("openvino"):
        targets["onnx (OpenVINO)"] = _runtime(openvino_model(file), openvino_model(inside), names[1:], traced)
    return targets


def expect_packages() -> None:
    """Raise `OnespikeError` where a package is missing that ONNX is written or proved with."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - what torch.onnx writes graphs with
    except ImportError as error:
        raise OnespikeError(f"onnx: {error.name} is missing: pip install 'onespike[export]'") from None


def graph(traced: Traced, names: Sequence[str]) -> Any:
    """Say a traced network as an `onnx.ModelProto`, which gives all that it gives, by these names."""
    try:
        with _quiet():
            made = torch.onnx.export(
                traced.program(), (), dynamo=True, opset_version=OPSET, input_names=["images"], output_names=names
            )
        assert made is not None
        model = made.model_proto
    except Exception as error:  # torch.onnx wraps whatever went wrong in errors of its own
        line = " ".join(str(error.__cause__ or error).split())[:300]
        raise OnespikeError(f"onnx: {traced.contract.model} cannot be said: {line}; pt2 can") from error
    if traced.contract.weights == "int8":
        _quantise(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = "contract", json.dumps(traced.contract.to_json())
    return model


#: A file that is loaded: names of outputs and images to these.
Loaded = Callable[[list[str], Any], list[Any]]


def session(model: Path | bytes) -> Loaded:
    """Load a graph by ONNX Runtime, on as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    source = str(model) if isinstance(model, Path) else model
    made = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return lambda outputs, images: made.run(outputs, {"images": images})


def openvino_model(model: Path | bytes) -> Loaded:
    """Load a graph by OpenVINO, in float32 where it is not in integers."""
    import openvino

    core = openvino.Core()
    chosen = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    made = core.compile_model(core.read_model(model), "CPU", chosen)

    def run(outputs: list[str], images: Any) -> list[Any]:
        found = made({"images": images})
        return [found[name] for name in outputs]

    return run


def _runtime(plain: Loaded, watched: Loaded, spikes: list[str], traced: Traced) -> Target:
    """A target that answers by the file itself, and shows its spikes by the same graph with more outputs."""

    def run(images: Tensor) -> tuple[Tensor, list[Tensor]]:
        inputs = traced.reads(images).numpy()
        (logits,) = plain(["logits"], inputs)
        return torch.from_numpy(logits), [torch.from_numpy(one) for one in watched(spikes, inputs)] if spikes else []

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch.onnx says on the way: its progress, and that it moves to opset 18."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def _quantise(model: Any) -> None:
    """Put weights of 8 bits, and spikes in front of them, into QDQ form."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    constants = {one.name: one for one in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    nodes: list[Any] = []
    zero = helper.make_tensor("spikes_zero", TensorProto.UINT8, [], [0])
    one = helper.make_tensor("spikes_scale", TensorProto.FLOAT, [], [1.0])
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            nodes.append(node)
            continue
        if _is_pixels(node.input[0], producers):
            nodes.append(node)
            continue
        name = node.input[1]
        weight, turned = constants.get(name), False
        if weight is None and name in producers and producers[name].op_type == "Transpose":
            weight, turned = constants.get(producers[name].input[0]), True
        if weight is None:
            nodes.append(node)
            continue
        values = torch.from_numpy(numpy_helper.to_array(weight).copy())
        last = node.op_type == "MatMul" and not turned
        transposed = (
            node.op_type == "Gemm" and not any(a.name == "transB" and a.i for a in node.attribute) and not turned
        )
        axis = values.ndim - 1 if last or transposed else 0
        integers, scale = to_integers(values.movedim(axis, 0))
        short = f"{weight.name}_int8"
        if short not in constants:
            constants[short] = weight
            stored = integers.movedim(0, axis).to(torch.int8).contiguous().numpy()
            graph.initializer.append(numpy_helper.from_array(stored, short))
            graph.initializer.append(numpy_helper.from_array(scale.flatten().numpy(), f"{short}_scale"))
            inputs = [short, f"{short}_scale"]
            nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{short}_real"], axis=axis, name=f"{short}_dq"))
            if turned:
                transpose = producers[name]
                transpose.input[0] = f"{short}_real"
                nodes.remove(transpose)
                nodes.append(transpose)
        if not turned:
            node.input[1] = f"{short}_real"
        if _is_spikes(node.input[0], producers):
            quantised, real = f"{node.name}_q", f"{node.name}_dq"
            nodes.append(
                helper.make_node(
                    "QuantizeLinear", [node.input[0], one.name, zero.name], [quantised], name=f"{quantised}_node"
                )
            )
            nodes.append(
                helper.make_node("DequantizeLinear", [quantised, one.name, zero.name], [real], name=f"{real}_node")
            )
            node.input[0] = real
        nodes.append(node)
    graph.initializer.extend([zero, one])
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input} | {one.name for one in graph.output}
    kept = [one for one in graph.initializer if one.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(model)


def _is_spikes(name: str, producers: dict[str, Any]) -> bool:
    """Whether a tensor is made of comparisons alone, by operations that move or choose elements."""
    node = producers.get(name)
    if node is None:
        return False
    if node.op_type == "Cast":
        before = producers.get(node.input[0])
        return before is not None and (
            before.op_type in ("Greater", "GreaterOrEqual") or _is_spikes(node.input[0], producers)
        )
    if node.op_type in PASSING:
        inputs = node.input if node.op_type == "Concat" else node.input[:1]
        return all(_is_spikes(one, producers) for one in inputs)
    return False


def _is_pixels(name: str, producers: dict[str, Any]) -> bool:
    """Whether a tensor is bytes that were normalised: OpenVINO would take these for quantised values, and lose bits."""
    node = producers.get(name)
    return node is not None and (
        (node.op_type == "Cast" and node.input[0] == "images")
        or (node.op_type in ("Add", "Mul", "Sub", "Div") and _is_pixels(node.input[0], producers))
    )
