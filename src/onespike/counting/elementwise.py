"""Element-wise work: what each operation of PyTorch's costs.

Every operation of a network is in one of the tables below, moves data, or is a product (`products`). Any other
operation is unknown, and the audit stops there rather than count it as nothing.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: Work for each value of the result. A pointwise operation that is not here counts as "special", the most costly.
_POINTWISE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("add", "sub", "rsub", "neg", "abs"), ("add",)),
    **dict.fromkeys(("mul", "div", "reciprocal"), ("multiply",)),
    **dict.fromkeys(("addcmul", "lerp"), ("multiply", "add")),
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne", "maximum", "minimum", "clamp", "clamp_min"), ("compare",)),
    **dict.fromkeys(("relu", "where", "masked_fill", "sign", "round", "floor", "ceil", "heaviside"), ("compare",)),
    **dict.fromkeys(("hardtanh", "threshold", "isnan", "clamp_max"), ("compare",)),
    **dict.fromkeys(("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not"), ("compare",)),
    **dict.fromkeys(("logical_and", "logical_or", "logical_xor", "logical_not"), ("compare",)),
    **dict.fromkeys(("__lshift__", "__rshift__", "bitwise_left_shift", "bitwise_right_shift"), ("add",)),
    **dict.fromkeys(("leaky_relu", "_prelu_kernel"), ("compare", "multiply")),
    "hardswish": ("special",),  # as hardsigmoid; it lacks the tag
    "glu": ("special", "multiply"),
}
#: Work for each value of the first argument.
_REDUCTIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("sum", "mean", "cumsum", "col2im"), ("add",)),
    **dict.fromkeys(("amax", "amin", "max", "min", "argmax", "argmin", "any", "all"), ("compare",)),
    **dict.fromkeys(("linalg_vector_norm", "norm"), ("multiply", "add")),
    **dict.fromkeys(("var", "var_mean", "std", "std_mean"), ("add", "add", "multiply")),
    **dict.fromkeys(("_softmax", "_safe_softmax", "_log_softmax"), ("compare", "special", "add", "multiply")),
    "logsumexp": ("compare", "special", "add"),
    "log_sigmoid_forward": ("special",),
    "prod": ("multiply",),
    **dict.fromkeys(
        ("_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm"), ("multiply", "add")
    ),
    # These take means and deviations of what they read. The last is an instance norm, or a batch norm of no averages.
    **dict.fromkeys(("native_layer_norm", "native_group_norm", "_native_batch_norm_legit"), 3 * ("add", "multiply")),
    **dict.fromkeys(("cummax", "cummin", "median", "kthvalue"), ("compare",)),
    "aminmax": ("compare", "compare"),
    "count_nonzero": ("compare", "add"),
    "cumprod": ("multiply",),
}
#: Work for each value of a pooling window; the window is the second argument.
_POOLS = {
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), "add"),
    **dict.fromkeys(("max_pool2d_with_indices", "max_pool3d_with_indices"), "compare"),
}
#: Pooling to a size that the second argument gives, likewise.
_ADAPTIVE = {
    f"{kind}_pool{axes}d": work
    for axes in (2, 3)
    for kind, work in (("_adaptive_avg", "add"), ("adaptive_max", "compare"))
}
#: How many values each one of an enlarged map is a weighted sum of.
_MIXED = {"upsample_linear1d": 2, "upsample_bilinear2d": 4, "upsample_trilinear3d": 8, "upsample_bicubic2d": 16}
_SORTS = ("sort", "topk")  # they compare each value with log2(n) others
#: The operations on real numbers that make up one on complex numbers.
_COMPLEX = {"add": ("add",) * 2, "multiply": ("multiply",) * 4 + ("add",) * 2}
_RANDOM = (
    *("rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm"),
    *("uniform", "normal", "bernoulli", "poisson", "exponential", "multinomial"),
)
#: Operations that move, copy, make or convert values and compute none.
_MOVES = frozenset(
    """
    clone copy _to_copy cat stack constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d pixel_shuffle pixel_unshuffle channel_shuffle im2col
    index _unsafe_index index_put index_select gather embedding repeat roll flip
    empty empty_like empty_strided new_empty new_empty_strided zeros zeros_like new_zeros
    ones ones_like new_ones full full_like new_full fill zero arange linspace scalar_tensor lift_fresh lift_fresh_copy
    _unsafe_view _reshape_alias as_strided _local_scalar_dense detach resize tril triu eye
    scatter select_scatter slice_scatter is_same_size masked_select nonzero unsafe_split unsafe_split_with_sizes
    squeeze unsqueeze transpose t
    """.split()  # noqa: SIM905 - a list would take a line for each
)


def work(
    func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, of_input: bool = True
) -> Counter[str] | None:
    """Return the element-wise work of an operation, by kind; empty if it only moves data, None if it is unknown.

    Arithmetic on integers that do not depend on the network's input (`of_input`) is that of indices, and free.
    """
    # Additions or subtractions ("add"), multiplications or divisions ("multiply"), comparisons or choices ("compare"),
    # functions such as sine, exponential or GELU ("special"), and random numbers ("random").
    if func.namespace not in ("aten", "prim", "prims"):
        return None
    name = func.overloadpacket.__name__
    name = name.rstrip("_") if not name.startswith("__") else name
    tensors = [argument for argument in args if isinstance(argument, Tensor)]
    if name in ("cudnn_batch_norm", "miopen_batch_norm") and args[5]:  # a batch's own statistics: unknown anywhere
        return None
    if name == "index_put" and any((*args[3:], *kwargs.values())):  # it adds up, and nothing tells which weights met
        return None
    if name == "scatter" and kwargs:  # a `reduce`, likewise
        return None
    if name == "pow" and not isinstance(args[1], Tensor) and args[1] == 2:
        name = "mul"
    if name in _RANDOM:
        return Counter(random=result.numel())
    if func.is_view or name in _MOVES or func.namespace == "prim":
        return Counter()
    axes = next((int(letter) for letter in name if letter.isdigit()), 0)  # of a map, if it is pooled
    if name in _POOLS:
        out = result[0] if isinstance(result, tuple) else result
        window = args[1] if len(args[1]) > 1 else list(args[1]) * axes
        return Counter({_POOLS[name]: out.numel() * math.prod(window)})
    if name in _ADAPTIVE:
        out = (result[0] if isinstance(result, tuple) else result).shape
        sides = zip(tensors[0].shape[-axes:], out[-axes:], strict=True)
        return Counter({_ADAPTIVE[name]: math.prod(out[:-axes]) * math.prod(_covered(*pair) for pair in sides)})
    if name in _MIXED:
        return Counter(multiply=_MIXED[name] * result.numel(), add=(_MIXED[name] - 1) * result.numel())
    if name in _SORTS:
        x, axis = tensors[0], kwargs.get("dim", (*args[2 if name == "topk" else 1 :], -1)[0])
        length = x.shape[axis] if x.ndim else 1
        return Counter(compare=x.numel() * max(1, math.ceil(math.log2(max(length, 1)))))
    # Of an in-place operation, only the out-of-place one may be tagged as pointwise.
    twin = getattr(getattr(torch.ops.aten, name, None), func._overloadname, func)
    if name in _REDUCTIONS:
        kinds, values = _REDUCTIONS[name], tensors[0].numel()
    elif name not in _POINTWISE and torch.Tag.pointwise not in (*func.tags, *twin.tags):
        return None
    elif not of_input and not any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors):
        return Counter()
    else:
        # In one operation: x + alpha * y, x + value * y * z.
        scaled = any(kwargs.get(factor, 1) not in (1, -1) for factor in ("alpha", "value"))
        kinds, values = _POINTWISE.get(name, ("special",)) + ("multiply",) * scaled, result.numel()
    if any(tensor.is_complex() for tensor in tensors):
        kinds = tuple(part for kind in kinds for part in _COMPLEX.get(kind, (kind,) * 2))
    return Counter({kind: times * values for kind, times in Counter(kinds).items()})


def _covered(size: int, out: int) -> int:
    """Count the values that adaptive pooling's windows cover along one axis; they overlap if `out` is no divisor."""
    return sum(-(-(i + 1) * size // out) - i * size // out for i in range(out))
