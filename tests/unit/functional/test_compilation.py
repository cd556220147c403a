"""Every function compiles into one whole graph, which computes what the function computes."""

import pytest
import torch

from onespike.functional import (
    ENCODINGS,
    FUSIONS,
    SURROGATES,
    Surrogate,
    bernoulli,
    charge,
    charge_and_fire,
    constant_mask,
    conv3x3,
    encode,
    fuse,
    max_pool,
    partition,
    recompose,
    region_threshold,
    spike,
)
from tests.running import thorough

# The compiler itself instantiates an autograd function, and is warned about it.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def values(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 0.5


MAP = values(2, 3, 8, 8)
DRAWS = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
THRESHOLD = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64).view(3, 1, 1)
WINDOWS = values(4, 2, 3, 4, 4), values(4, 2, 3, 4, 4, seed=3)
#: A function of tensors, and the tensors.
CASES = {
    "partition-average": (lambda x: partition(x, "average"), MAP),
    "partition-dilated": (lambda x: partition(x, "dilated"), MAP),
    "partition-odd": (lambda x: partition(x, "average"), values(2, 3, 5, 5)),
    "recompose-average": (lambda windows: recompose(windows, 8, "average"), values(4, 2, 3, 4, 4)),
    "recompose-dilated": (lambda windows: recompose(windows, 8, "dilated"), values(4, 2, 3, 6, 6)),
    "recompose-odd": (lambda windows: recompose(windows, 5, "average"), values(4, 2, 3, 3, 3)),
    "region_threshold": (lambda x: region_threshold(x, 0.1), MAP),
    "bernoulli": (bernoulli, MAP, DRAWS),
    "constant_mask": (lambda u: constant_mask(u, 0.1), DRAWS),
    "conv3x3": (conv3x3, MAP, values(4, 3, 3, 3)),
    "conv3x3-pool": (lambda x, weight: conv3x3(x, weight, pool=True), MAP, values(4, 3, 3, 3)),
    "max_pool": (max_pool, MAP),
    "charge": (lambda i, x: charge(i, 0.4, x), *WINDOWS),
    "charge_and_fire": (lambda i, x: charge_and_fire(i, 0.4, 0.5, "rectangle", x, 1)[1], *WINDOWS),
    **{f"fuse-{kind}": (lambda x, y, kind=kind: fuse(x, y, kind, 0.3), MAP, DRAWS) for kind in FUSIONS},
    **{f"spike-{name}": (lambda v, th, name=name: spike(v, th, name), MAP, THRESHOLD) for name in SURROGATES},
    **{f"spike-{name}-wide": (lambda v, name=name: spike(v, 0.4, Surrogate(name, 1.7)), MAP) for name in SURROGATES},
    **{f"encode-{kind}": (lambda x, u, kind=kind: encode(x, kind, u), MAP, DRAWS) for kind in ENCODINGS},
}


def output_and_gradients(function, inputs):
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    output = function(*inputs)
    if not output.requires_grad:
        return output, [None] * len(inputs)
    upstream = values(*output.shape, seed=2)
    return output, torch.autograd.grad(output, inputs, upstream, allow_unused=True)


@pytest.mark.parametrize("name", thorough([*CASES], 10))
def test_compiled_in_one_graph_a_function_has_the_same_values_and_gradients(name):
    function, *inputs = CASES[name]
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected, expected_gradients = output_and_gradients(function, inputs)
    output, gradients = output_and_gradients(compiled, inputs)
    torch.testing.assert_close(output, expected, rtol=1e-14, atol=1e-15)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(
            torch.zeros(()) if gradient is None else gradient,
            torch.zeros(()) if wanted is None else wanted,
            rtol=1e-14,
            atol=1e-15,
        )
