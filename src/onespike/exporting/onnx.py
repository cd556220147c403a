"""ONNX: one static graph with a free batch size, float32; and with integers, for networks whose layers read spikes."""

import ctypes
import importlib.util
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onespike.errors import OnespikeError, printable, reason, requires, warn
from onespike.exporting.network import Exported
from onespike.exporting.parity import Target
from onespike.exporting.rewriting import add_up_tied, fold_thresholds, quantise, store_taps

FILE, OPSET = "model.onnx", 18


def write(exported: Exported, folder: Path) -> dict[str, Target]:
    """Write `model.onnx`, whose input is "images" and whose output is "logits".

    ONNX Runtime is the target, and OpenVINO where it is installed.

    Raises:
        OnespikeError: The network cannot be traced, or an operation has no counterpart; packages are missing.
    """
    expect_packages()
    import onnx

    outputs = exported.program().graph_signature.user_outputs  # logits, then the spikes of each call of a layer
    names = ["logits", *(f"spikes{number}" for number in range(len(outputs) - 1))]
    watched = graph(exported, names)
    plain = onnx.ModelProto()
    plain.CopyFrom(watched)
    del plain.graph.output[1:]
    onnx.checker.check_model(plain)
    file, inside = folder / FILE, watched.SerializeToString()
    onnx.save(plain, file)
    try:
        targets = {"onnx": _runtime(session(file), session(inside), names[1:], exported)}
    except Exception as error:  # ONNX Runtime has errors of its own
        raise OnespikeError(
            f"onnx: ONNX Runtime does not take {exported.contract.model}: {reason(error)[:300]}; pt2 can"
        ) from error
    if importlib.util.find_spec("openvino"):
        try:
            targets["onnx (OpenVINO)"] = _runtime(openvino_model(file), openvino_model(inside), names[1:], exported)
        except RuntimeError as error:  # 2026.4, for some linear layers of 8-bit weights
            warn(f"OpenVINO does not take {FILE}, and proves nothing of it: {reason(error)[-200:]}")
    return targets


def expect_packages() -> None:
    """Raise `OnespikeError` if a package is missing, or too old, that ONNX is written or proved with."""
    if torch.__version__ < "2.7.dev0":  # it cannot write batch norm
        old = f"onnx: expected PyTorch 2.7 or newer, got {torch.__version__}"
        raise OnespikeError(f"{old}: pip install 'onespike[export]'; pt2, c and nir do with it")
    with requires("export", "onnx"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401 - what torch.onnx writes graphs with


def graph(exported: Exported, names: Sequence[str]) -> Any:
    """Convert a network to an `onnx.ModelProto` with all its outputs, by these names."""
    try:
        with _quiet():
            made = torch.onnx.export(
                exported.program(), (), dynamo=True, opset_version=OPSET, input_names=["images"], output_names=names
            )
        assert made is not None
        model = made.model_proto
    except Exception as error:  # torch.onnx wraps whatever went wrong in errors of its own
        line = printable(reason(error.__cause__ or error), 300)
        raise OnespikeError(f"onnx: {exported.contract.model} cannot be written: {line}; try pt2") from error
    for part in (model.graph, *model.functions):
        for node in part.node:
            del node.metadata_props[:]  # where in PyTorch each comes from: most of a small file
    name_outputs(model.graph, names)
    _name_batch(model.graph)
    fold_thresholds(model)
    add_up_tied(model)
    (quantise if exported.contract.weights == "int8" else store_taps)(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = "contract", json.dumps(exported.contract.to_json())
    return model


def name_outputs(graph: Any, names: Sequence[str]) -> None:
    """Give the outputs their names: up to PyTorch 2.9, they are wrong where one value is two outputs.

    Then the first output has the second one's name, and the second is an alias, by a name that nobody asked for.
    """
    if [value.name for value in graph.output] == list(names):
        return
    renamed = {value.name: name for value, name in zip(graph.output, names, strict=True)}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in (*graph.output, *graph.value_info):
        value.name = renamed.get(value.name, value.name)


def _name_batch(graph: Any) -> None:
    """Call the size of a batch "batch": PyTorch calls it s34, or by another number."""
    size = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if size and dim.dim_param:  # perhaps a multiple of it
                dim.dim_param = re.sub(rf"\b{re.escape(size)}\b", "batch", dim.dim_param)


#: A loaded file: maps names of outputs, and images, to these outputs.
Loaded = Callable[[list[str], Any], list[Any]]


def session(model: Path | bytes) -> Loaded:
    """Load a graph with ONNX Runtime, on as many threads as PyTorch has."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    source = model.read_bytes() if isinstance(model, Path) else model
    if any(node.op_type == "Conv" for node in onnx.load_from_string(source).graph.node):
        # ONNX Runtime has no convolution of bytes that returns plain sums: it computes in floats. With this option it
        # converts weights to floats once, instead of at every call.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    made = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return lambda outputs, images: made.run(outputs, {"images": images})


def openvino_model(model: Path | bytes) -> Loaded:
    """Load a graph with OpenVINO, in float32 where it is not in integers; by default it rounds real inputs, too."""
    import openvino

    core = openvino.Core()
    chosen = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    chosen["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
    with _signal_stack():
        made = core.compile_model(core.read_model(model), "CPU", chosen)

    def run(outputs: list[str], images: Any) -> list[Any]:
        found = made({"images": images})
        return [found[name] for name in outputs]

    return run


def _runtime(plain: Loaded, watched: Loaded, spikes: list[str], exported: Exported) -> Target:
    """A target with the logits of the file itself, and the spikes of the same graph with more outputs."""

    def run(images: Tensor) -> tuple[Tensor, list[Tensor]]:
        inputs = exported.reads(images).numpy()
        (logits,) = plain(["logits"], inputs)
        return torch.from_numpy(logits), [torch.from_numpy(one) for one in watched(spikes, inputs)] if spikes else []

    return run


@contextmanager
def _signal_stack() -> Iterator[None]:
    """Put back this thread's stack for signals, which OpenVINO replaces by memory of a compiled model.

    If two models were released in the order in which they were compiled, that memory would be freed: the next signal,
    such as Ctrl-C, would be a segmentation fault.
    """
    if os.name != "posix":
        yield
        return
    system, before = ctypes.CDLL(None), ctypes.create_string_buffer(64)  # a stack_t has 24 bytes on 64-bit systems
    system.sigaltstack(None, before)
    try:
        yield
    finally:
        system.sigaltstack(before, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch.onnx: its progress, and that it converts to opset 18."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
