"""What is rewritten in ONNX graphs: the same spikes, by fewer operations; bytes only where they are exact."""

import copy
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from onespike.exporting.graph import Graph, exact_step  # noqa: E402
from onespike.exporting.onnx import name_outputs  # noqa: E402
from onespike.exporting.rewriting import add_up_tied, fold_thresholds, quantise, store_taps  # noqa: E402

FLOAT = TensorProto.FLOAT
RANDOM = np.random.default_rng(0)


def test_a_value_that_is_given_out_twice_has_both_names() -> None:
    """What torch.onnx wrote before PyTorch 2.10, asked for the names first, second and third."""
    nodes = [
        helper.make_node("Relu", ["x"], ["third"]),
        helper.make_node("Neg", ["third"], ["second"]),
        helper.make_node("Identity", ["third"], ["third_alias"]),
    ]
    made = model(nodes, {}, "third")
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("second", "third_alias"))
    name_outputs(made.graph, ["first", "second", "third"])
    x = RANDOM.normal(size=(2, 3, 4, 4)).astype(np.float32)
    session = runtime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    first, second, third = session.run(["first", "second", "third"], {"x": x})
    assert (first == x.clip(0)).all()
    assert (second == -first).all()
    assert (third == first).all()


def model(nodes: list[Any], constants: dict[str, Any], output: str = "out") -> Any:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, ["B", 3, 4, 4])],
        [onnx.ValueInfoProto(name=output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def firing(scale: list[float], population: int = 2, copies: tuple[str, list[int]] | None = None) -> Any:
    """Batch norm, copies for a population, shifts, a threshold."""
    copy, repeats = copies or ("Tile", [1, population, 1, 1])
    norm = ["scale", "bias", "mean", "variance"]
    nodes = [
        helper.make_node("BatchNormalization", ["x", *norm], ["normed"], epsilon=1e-3, name="norm"),
        helper.make_node(copy, ["normed", "repeats"], ["copies"], name="tile"),
        helper.make_node("Add", ["copies", "shift"], ["potential"], name="add"),
        helper.make_node("Greater", ["potential", "threshold"], ["fired"], name="fire"),
        helper.make_node("Cast", ["fired"], ["out"], to=FLOAT, name="cast"),
    ]
    one = lambda: RANDOM.uniform(0.5, 2, 3).astype(np.float32)  # noqa: E731
    shift = RANDOM.normal(size=(3 * population, 1, 1)).astype(np.float32)
    constants = {"scale": np.float32(scale), "bias": one(), "mean": one(), "variance": one(), "shift": shift}
    return model(nodes, constants | {"repeats": np.array(repeats), "threshold": np.float32(0.5)})


def run(made: Any, images: np.ndarray) -> np.ndarray:
    session = runtime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": images})[0]


def test_thresholds_take_norm_copies_and_shifts() -> None:
    made, images = firing([0.5, 1.0, 3.0]), RANDOM.normal(size=(64, 3, 4, 4)).astype(np.float32)
    expected = run(made, images)
    assert 0.1 < expected.mean() < 0.9
    assert len(set(expected.mean((0, 2, 3)))) == 6, "each neuron has a threshold of its own"
    fold_thresholds(made)
    assert [node.op_type for node in made.graph.node] == ["Greater", "Greater", "Concat", "Cast"]
    assert len(made.graph.initializer) == 2
    assert np.array_equal(run(made, images), expected)


def test_a_negative_gain_turns_the_comparison_and_stays() -> None:
    made, images = firing([0.5, -1.0, 3.0]), RANDOM.normal(size=(8, 3, 4, 4)).astype(np.float32)
    expected, before = run(made, images), [node.op_type for node in made.graph.node]
    fold_thresholds(made)
    assert [node.op_type for node in made.graph.node] == before
    assert np.array_equal(run(made, images), expected)


@pytest.mark.parametrize("copies", [("Tile", [1, 1, 2, 1]), ("Expand", [2, 1, 1, 1])], ids=["pixels", "images"])
def test_copies_that_are_no_population_stay(copies: tuple[str, list[int]]) -> None:
    made, images = firing([0.5, 1.0, 3.0], 1, copies), RANDOM.normal(size=(1, 3, 4, 4)).astype(np.float32)
    expected, before = run(made, images), [node.op_type for node in made.graph.node]
    fold_thresholds(made)
    assert [node.op_type for node in made.graph.node] == before
    assert np.array_equal(run(made, images), expected)


SPIKES = [("Greater", ["x", "half"], "gt"), ("Cast", ["gt"], "s")]


@pytest.mark.parametrize(
    ("operations", "step"),
    [
        ([], 1.0),
        ([("MaxPool", ["s"], "t"), ("Transpose", ["t"], "out")], 1.0),
        ([("Add", ["s", "s"], "out")], 1.0),
        ([("Add", ["s", "s"], "t"), ("Div", ["t", "two"], "u"), ("Concat", ["u", "s"], "out")], 0.5),
        ([("Add", ["s", "s"], "t"), ("Mul", ["t", "quarter"], "u"), ("Where", ["gt", "one", "u"], "out")], 0.25),
        ([("Pad", ["s", "places"], "out")], 1.0),
        ([("Pad", ["s", "places", "half"], "out")], None),
        ([("Mul", ["s", "tenth"], "out")], None),  # no float says 1/10, let alone its multiples
        ([("Add", ["s", "x"], "out")], None),
        ([("Sub", ["s", "s"], "out")], None),
        ([("Mul", ["s", "x"], "out")], None),
        ([("Where", ["gt", "two", "s"], "out")], None),
        (
            [("Add", [f"{'s' * n}", f"{'s' * n}"], "s" * (n + 1)) for n in range(1, 8)]
            + [("Identity", ["s" * 8], "out")],
            1.0,
        ),
        (
            [("Add", [f"{'s' * n}", f"{'s' * n}"], "s" * (n + 1)) for n in range(1, 9)]
            + [("Identity", ["s" * 9], "out")],
            None,
        ),
    ],
)
def test_bytes_say_spikes_and_sums_and_halves_exactly(operations: list[Any], step: float | None) -> None:
    nodes = [helper.make_node(kind, inputs, [name], to=FLOAT) for kind, inputs, name in [*SPIKES, *operations]]
    numbers = {"half": 0.5, "one": 1.0, "two": 2.0, "quarter": 0.25, "tenth": 0.1}
    made = model(nodes, {name: np.float32(value) for name, value in numbers.items()})
    assert exact_step("out" if operations else "s", Graph(made)) == step
    assert exact_step("x", Graph(made)) is None


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("read", ["pixels", "x"])
def test_a_layer_that_reads_pixels_keeps_its_floats_whatever_moves_them(read: str, mean: bool) -> None:
    operations = [
        ("Cast", ["images"], "float"),
        ("Mul", ["float", "tenth"], "pixels"),
        ("GlobalAveragePool" if mean else "Transpose", [read], "turned"),
        ("Flatten", ["turned"], "flat"),
        ("Gemm", ["flat", "weight"], "out"),
    ]
    nodes = [
        helper.make_node(kind, inputs, [name], name=name, **({"to": FLOAT} if kind == "Cast" else {}))
        for kind, inputs, name in operations
    ]
    weight = RANDOM.integers(-127, 128, (48, 5)).astype(np.float32)
    weight[0] = 127  # so that rounding changes nothing
    made = model(nodes, {"tenth": np.float32(0.1), "weight": weight})
    made.graph.input.append(helper.make_tensor_value_info("images", TensorProto.UINT8, ["B", 3, 4, 4]))
    quantise(made)
    stored = [one.name for one in made.graph.initializer]
    assert ("weight_int8" in stored) == (read == "x"), stored


@pytest.mark.parametrize("reads", [["real"], ["spikes", "sums"]])
@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gemm of rows", "MatMul of turned rows"])
def test_weights_of_8_bits_are_stored_once_and_nothing_else_is_rounded(kind: str, reads: list[str]) -> None:
    """They have a scale for each output; ONNX Runtime would round what is real, too, if it could."""
    (operation, _, rows), turned = kind.partition(" of "), "turned" in kind
    integers, scales = RANDOM.integers(-127, 128, (48, 5)), 2.0 ** np.arange(-7, -2)
    integers[0] = 127
    nodes = [
        helper.make_node("Flatten", ["x"], ["real"]),
        helper.make_node("Greater", ["real", "half"], ["fired"]),
        helper.make_node("Cast", ["fired"], ["spikes"], to=FLOAT),
        helper.make_node("Add", ["spikes", "spikes"], ["sums"]),
        *([helper.make_node("Transpose", ["weight"], ["turned"], perm=[1, 0])] if turned else []),
    ]
    how = {"transB": 1} if kind == "Gemm of rows" else {}
    for read in reads:
        given = [read, "turned" if turned else "weight"]
        nodes.append(helper.make_node(operation, given, [f"{read}_out"], read, **how))
    nodes.append(helper.make_node("Sum", [f"{read}_out" for read in reads], ["out"]))
    weight = (integers * scales).astype(np.float32)
    made = model(nodes, {"weight": weight.T if rows else weight, "half": np.float32(0.5)})
    images = RANDOM.normal(size=(7, 3, 4, 4)).astype(np.float32)
    expected = run(made, images)
    quantise(made)
    stored = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    assert np.array_equal(stored["weight_int8"], integers.T if rows else integers)
    assert all(one.size <= 5 for one in stored.values() if one.dtype != np.int8)
    assert [node.op_type for node in made.graph.node].count("QuantizeLinear") == 2 * ("spikes" in reads)
    assert np.allclose(run(made, images), expected, rtol=1e-5, atol=1e-4)


def test_weights_that_tied_neurons_share_have_8_bits_too() -> None:
    """Where they are large, torch.onnx leaves their copies to the graph, by `Expand` and `Tile`."""
    nodes = [
        helper.make_node("Greater", ["x", "half"], ["fired"]),
        helper.make_node("Cast", ["fired"], ["spikes"], to=FLOAT),
        helper.make_node("Concat", ["spikes", "spikes"], ["neurons"], axis=1),
        helper.make_node("Expand", ["weight", "ones"], ["shared"]),
        helper.make_node("Tile", ["shared", "twice"], ["copies"]),
        helper.make_node("Conv", ["neurons", "copies"], ["out"], "layer"),
    ]
    integers, scales = RANDOM.integers(-127, 128, (5, 3, 2, 2)), 2.0 ** np.arange(-7, -2)
    integers[:, 0, 0, 0] = 127
    weight = (integers * scales[:, None, None, None]).astype(np.float32)
    constants = {"weight": weight, "half": np.float32(0.5), "ones": np.ones(4, int), "twice": np.array([1, 2, 1, 1])}
    made, images = model(nodes, constants), RANDOM.normal(size=(7, 3, 4, 4)).astype(np.float32)
    expected = run(made, images)
    quantise(made)
    stored = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}
    assert np.array_equal(stored["copies_int8"], np.concatenate([integers, integers], 1))
    assert all(one.size <= 5 for one in stored.values() if one.dtype != np.int8)
    assert np.allclose(run(made, images), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("copied", [False, True], ids=["stored", "copied in the graph"])
def test_convolutions_read_how_many_of_the_tied_neurons_fire(copied: bool) -> None:
    integers, scales = RANDOM.integers(-127, 128, (5, 3, 2, 2)), 2.0 ** np.arange(-7, -2)
    integers[:, 0, 0, 0] = 127
    weight = (integers * scales[:, None, None, None]).astype(np.float32)
    constants = {"low": np.float32(-0.5), "half": np.float32(0.5), "high": np.float32(1.0)}
    nodes = [
        *(helper.make_node("Greater", ["x", name], [f"above {name}"]) for name in constants),
        helper.make_node("Concat", [f"above {name}" for name in constants], ["fired"], axis=1),
        helper.make_node("Cast", ["fired"], ["spikes"], to=FLOAT),
        *([helper.make_node("Tile", ["weight", "thrice"], ["copies"])] if copied else []),
        helper.make_node("Conv", ["spikes", "copies"], ["out"], "layer"),
    ]
    repeats = np.array([1, 3, 1, 1])
    stored = {"weight": weight, "thrice": repeats} if copied else {"copies": np.tile(weight, repeats)}
    made, images = model(nodes, constants | stored), RANDOM.normal(size=(7, 3, 4, 4)).astype(np.float32)
    expected = run(made, images)
    add_up_tied(made)
    in_integers = copy.deepcopy(made)
    kept, name = {one.name: numpy_helper.to_array(one) for one in made.graph.initializer}, made.graph.node[-1].input[1]
    assert name == ("weight" if copied else "copies_shared")
    assert np.array_equal(kept.pop(name), weight)
    assert all(one.size == 1 for one in kept.values())
    assert np.allclose(run(made, images), expected, rtol=1e-5, atol=1e-5)
    quantise(in_integers)
    kept = {one.name: numpy_helper.to_array(one) for one in in_integers.graph.initializer}
    assert np.array_equal(kept[f"{name}_int8"], integers)
    assert [node.op_type for node in in_integers.graph.node].count("QuantizeLinear") == 1
    assert np.allclose(run(in_integers, images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["real values", "groups", "weights of its own", "zeros"])
def test_other_convolutions_add_nothing_up(case: str) -> None:
    weight = RANDOM.normal(size=(6, 1, 2, 2)).astype(np.float32)
    weight = weight if case == "groups" else np.tile(weight, [1, 3, 1, 1])
    weight[0, -1] += case == "weights of its own"
    weight = np.zeros((6, 17, 2, 2), np.float32) if case == "zeros" else weight
    how = {"group": 3} if case == "groups" else {}
    reads = "x" if case == "real values" else "s"
    nodes = [helper.make_node(kind, given, [name], to=FLOAT) for kind, given, name in SPIKES]
    nodes.append(helper.make_node("Conv", [reads, "weight"], ["out"], "layer", **how))
    made = model(nodes, {"weight": weight, "half": np.float32(0.5)})
    add_up_tied(made)
    assert "Split" not in [node.op_type for node in made.graph.node]


def test_calls_of_a_grouped_convolution_have_weights_of_their_own() -> None:
    """OpenVINO puts the batch norm behind each of them into weights that they share."""
    openvino, nodes, before = pytest.importorskip("openvino"), list[Any](), "x"
    for call in ("first", "second"):
        nodes += [
            helper.make_node("Greater", [before, "half"], [f"{call}_fired"]),
            helper.make_node("Cast", [f"{call}_fired"], [f"{call}_spikes"], to=FLOAT),
            helper.make_node("Conv", [f"{call}_spikes", "weight"], [f"{call}_conv"], call, group=3, pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", [f"{call}_conv", "gain", "zeros", "zeros", "gain"], [call]),
        ]
        before = call
    integers = RANDOM.integers(-127, 128, (3, 1, 3, 3))
    integers[:, :, 0, 0] = 127
    constants = {
        "weight": (integers / 64).astype(np.float32),
        "gain": np.float32([1, 2, 3]),
        "zeros": np.float32([0] * 3),
    }
    made = model(nodes, constants | {"half": np.float32(0.5)}, "second")
    images = RANDOM.normal(size=(7, 3, 4, 4)).astype(np.float32)
    expected = run(made, images)
    quantise(made)
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(made.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert np.allclose(compiled({"x": images})[0], expected, rtol=1e-5, atol=1e-4)


def test_of_a_kernel_over_one_pixel_the_tap_is_stored_with_the_scales_of_the_kernel() -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gather", ["kernel", "centre"], ["column"], axis=2),
        helper.make_node("Gather", ["column", "centre"], ["tap"], axis=2),
        helper.make_node("Gemm", ["flat", "tap"], ["out"], "layer", transB=1),
    ]
    integers, scales = RANDOM.integers(-126, 127, (5, 48, 3, 3)), 2.0 ** np.arange(-7, -2)
    integers[:, 0, 0, 0] = 127  # the largest weight of each channel is not in the tap
    kernel = (integers * scales[:, None, None, None]).astype(np.float32)
    made = model(nodes, {"kernel": kernel, "centre": np.int64(1)})
    images = RANDOM.normal(size=(7, 3, 4, 4)).astype(np.float32)
    expected = run(made, images)
    of_8_bits = copy.deepcopy(made)
    store_taps(made)
    assert [one.name for one in made.graph.initializer] == ["tap"]
    assert np.array_equal(run(made, images), expected)
    quantise(of_8_bits)
    stored = {one.name: numpy_helper.to_array(one) for one in of_8_bits.graph.initializer}
    assert np.array_equal(stored["tap_int8"], integers[:, :, 1, 1])
    assert all(one.size <= 5 for one in stored.values() if one.dtype != np.int8)
    assert np.allclose(run(of_8_bits, images), expected, rtol=1e-5, atol=1e-4)


def test_a_vector_of_weights_has_no_channels_and_stays() -> None:
    made = model([helper.make_node("MatMul", ["x", "weight"], ["out"])], {"weight": np.float32([127, 1, 0, 0])})
    quantise(made)
    assert [node.op_type for node in made.graph.node] == ["MatMul"]


def test_weights_that_are_no_numbers_stay_as_they_are() -> None:
    """A convolution and a norm, folded into one, may go beyond float32: the proof of parity tells."""
    made = model([helper.make_node("Conv", ["x", "w"], ["out"])], {"w": np.full((2, 3, 1, 1), np.inf, np.float32)})
    before = made.SerializeToString()
    quantise(made)
    assert made.SerializeToString() == before
