"""What a block with each registered unit promises: maps of any side, time steps, gradients, layouts, compilation."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from onespike.models import Block, OnespikeConfig
from onespike.neurons import NeuronConfig
from onespike.units.registry import UNITS

CHANNELS = 6

every_unit = pytest.mark.parametrize("unit", list(UNITS))
# The compiler itself instantiates an autograd function, and is warned about it.
compiler_warning = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def make(unit: str, side: int, kind: str = "dilated") -> Block:
    torch.manual_seed(0)
    neuron = NeuronConfig(threshold=0.05)  # so low that neurons fire
    config = OnespikeConfig(unit=unit, neuron=neuron, encoding="threshold", dropout=0.0)
    return Block(CHANNELS, side, kind, config)


def run(block: Block, side: int, time_steps: int = 1, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The stream, and the potential map if there is one, after each time step."""
    generator, out, state = torch.Generator().manual_seed(1), [], None
    x = torch.randn(2, CHANNELS, side, side, generator=generator).to(dtype)
    above = torch.randn(2, block.unit.out_channels, side, side, generator=generator).to(dtype)
    for _ in range(time_steps):
        stream, potential, state = block(x, above if block.unit.travels else None, state)
        out += [stream] if potential is None else [stream, potential]
    return out


@every_unit
@pytest.mark.parametrize("side", [1, 3, 5, 8])
@pytest.mark.parametrize("time_steps", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_maps_of_any_side_keep_their_shape(unit: str, side: int, time_steps: int, training: bool) -> None:
    block = make(unit, side).train(training)
    found = run(block, side, time_steps)
    assert len(found) == time_steps * (2 if block.unit.travels else 1)
    for number, maps in enumerate(found):
        is_potential = block.unit.travels and number % 2
        assert maps.shape == (2, block.unit.out_channels if is_potential else CHANNELS, side, side)
        assert maps.isfinite().all()


@every_unit
@pytest.mark.parametrize("side", [3, 8])
@pytest.mark.parametrize("time_steps", [1, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_reach_every_parameter(unit: str, side: int, time_steps: int, precision: str) -> None:
    block = make(unit, side)
    layer = next(module for module in block.modules() if isinstance(module, nn.Conv2d | nn.Linear))
    seen: set[torch.dtype] = set()
    layer.register_forward_hook(lambda _module, _inputs, out: seen.add(out.dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        maps = run(block, side, time_steps)
    assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}
    assert all(one.isfinite().all() for one in maps)
    sum(one.float().square().sum() for one in maps).backward()  # type: ignore[union-attr]
    missing = [name for name, one in block.named_parameters() if one.grad is None or not one.grad.any()]
    assert missing == []
    assert {one.grad.dtype for one in block.parameters() if one.grad is not None} == {torch.float32}


@every_unit
def test_the_layout_in_memory_changes_nothing(unit: str) -> None:
    block = make(unit, 8).double()
    expected = run(block, 8, 2, torch.float64)
    block = block.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for found, wanted in zip(run(block, 8, 2, torch.float64), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.slow
@compiler_warning
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of the compiler's, too
@every_unit
def test_a_compiled_block_computes_the_same_forwards_and_backwards(unit: str) -> None:
    def everything(blocks: Callable[[], list[Tensor]]) -> list[Tensor]:
        block.zero_grad()
        maps = blocks()
        sum(one.square().sum() for one in maps).backward()  # type: ignore[union-attr]
        return [one.detach() for one in maps] + [one.grad for one in block.parameters() if one.grad is not None]

    torch._dynamo.reset()
    block = make(unit, 5).double()
    expected = everything(lambda: run(block, 5, 1, torch.float64))
    found = everything(torch.compile(lambda: run(block, 5, 1, torch.float64), backend="aot_eager"))
    for one, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(one, wanted, rtol=0, atol=1e-10)
