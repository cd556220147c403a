"""A block with a recurrent unit, as section 6 of the method says it, by loops over windows and the framework's cell."""

import math

import pytest
import torch
from torch import Tensor, nn

from onespike.functional import FUSIONS
from onespike.models import Block, OnespikeConfig
from onespike.neurons import NeuronConfig

CHANNELS, SIDE, DECAY = 6, 8, 0.4
both_kinds = pytest.mark.parametrize("kind", ["average", "dilated"])


def make_block(kind: str, **overrides: object) -> Block:
    torch.manual_seed(0)
    config = OnespikeConfig(unit="lstm", fusion="nested", **overrides)
    block = Block(CHANNELS, SIDE, kind, config).double().eval()
    with torch.no_grad():
        for parameter in block.unit.parameters():
            parameter.mul_(3)  # so that neurons fire
    return block


def inputs(block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """The stream, the potential map of the block before, and the draws of the encoding."""
    stream = torch.rand(2, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    return (
        stream,
        torch.randn(2, 2 * CHANNELS, SIDE, SIDE, dtype=torch.float64),
        torch.rand(block.draw_shape(2)).double(),
    )


def nested(x: Tensor, y: Tensor) -> Tensor:
    quarter = math.pi / 4
    return 2 * torch.sin(quarter * x * torch.cos(quarter * y))


def by_loops(block: Block, stream: Tensor, above: Tensor, draws: Tensor, slip: bool = False) -> tuple[Tensor, ...]:
    """Potentials and spikes of all windows, the new stream, the recomposed potentials; with the released code's slip.

    The slip: in window 2 the potential of window 1 takes the place of the one from the block above, and the other way
    round.
    """
    side = SIDE // 2 if block.window_kind == "average" else 3 * SIDE // 4
    low, high = slice(0, side), slice(SIDE - side, SIDE)
    corners = [(low, low), (low, high), (high, low), (high, high)]
    cell = nn.LSTM(CHANNELS, CHANNELS, batch_first=True, bidirectional=True).double()
    cell.load_state_dict(block.unit.layer.cell.state_dict())
    from_above = [above[..., rows, columns] for rows, columns in corners]
    potentials: list[Tensor] = []
    for number, (rows, columns) in enumerate(corners):
        arriving = (stream[..., rows, columns] > draws[number]).double().flatten(2).transpose(1, 2)
        currents = cell(arriving)[0].transpose(1, 2).reshape(2, 2 * CHANNELS, side, side)
        if number == 0:
            fused = nested(from_above[0], from_above[1])  # its neighbour is window 2's, from above
        elif number == 1 and slip:
            fused = nested(potentials[0], from_above[1])
        else:
            fused = nested(from_above[number], potentials[number - 1])
        potentials.append(DECAY * fused + currents)
    spikes = [(potential > block.unit.neuron.threshold).double() for potential in potentials]

    def joined(windows: list[Tensor]) -> Tensor:
        whole, covered = torch.zeros_like(above), torch.zeros(SIDE, SIDE, dtype=torch.float64)
        for window, (rows, columns) in zip(windows, corners, strict=True):
            whole[..., rows, columns] += window
            covered[rows, columns] += 1
        return whole / covered

    whole = joined(spikes)
    if block.region_threshold is not None:
        whole = torch.where(whole > block.region_threshold, 1.0, whole)
    stream = stream + block.fc(whole)
    return torch.stack(potentials), torch.stack(spikes), stream + block.mlp(stream), joined(potentials)


@both_kinds
@pytest.mark.parametrize("threshold", [0.5, 0.1])
@pytest.mark.parametrize("training", [False, True])
def test_potentials_spikes_and_maps_are_those_of_the_loops(kind: str, threshold: float, training: bool) -> None:
    block = make_block(kind, neuron=NeuronConfig(threshold=threshold), dropout=0.0).train(training)
    stream, above, draws = inputs(block)
    with torch.set_grad_enabled(training):
        out, potential, state = block(stream, above, None, draws)
    potentials, spikes, expected, recomposed = by_loops(block, stream, above, draws)
    assert 0.05 < spikes.mean() < 0.95
    torch.testing.assert_close(state.memory[0][0], potentials, rtol=0, atol=1e-12)
    assert torch.equal(state.memory[0][1], spikes)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(potential, recomposed, rtol=0, atol=1e-12)


@both_kinds
def test_with_the_slip_put_in_it_is_the_released_code(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = make_block(kind)
    stream, above, draws = inputs(block)
    right, slipped = (by_loops(block, stream, above, draws, slip) for slip in (False, True))
    assert torch.equal(right[0][0], slipped[0][0]), "window 1 is as it was"
    assert not torch.allclose(right[0][1], slipped[0][1])
    calls, fusion = [0], FUSIONS["nested"]

    def slipping(x: Tensor, y: Tensor, angle: float) -> Tensor:
        calls[0] += 1
        return fusion(y, x, angle) if calls[0] % 4 == 2 else fusion(x, y, angle)

    monkeypatch.setitem(FUSIONS, "nested", slipping)
    with torch.no_grad():
        out, potential, state = block(stream, above, None, draws)
    for found, expected in zip((state.memory[0][0], state.memory[0][1], out, potential), slipped, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
