"""The scans against the framework's layers, values and gradients."""

import pytest
import torch
from torch import nn

from onespike.functional import scan, scan_gru, scan_rnn

CELLS = {scan_gru: nn.GRU, scan_rnn: nn.RNN}


def make(function, channels_in, channels, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    cell = CELLS[function](channels_in, channels, batch_first=True, bidirectional=True, dtype=dtype)
    return cell, [[getattr(cell, name + suffix) for name in NAMES] for suffix in ("", "_reverse")]


NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


@pytest.mark.parametrize("function", CELLS)
@pytest.mark.parametrize("chunk", [1, 6, 4096])
@pytest.mark.parametrize(("count", "tokens"), [(1, 1), (1, 9), (3, 7), (5, 2), (2, 16)])
@pytest.mark.parametrize(("channels_in", "channels"), [(5, 5), (3, 7), (1, 1)])
def test_both_directions_equal_the_framework(monkeypatch, function, chunk, count, tokens, channels_in, channels):
    monkeypatch.setattr(scan, "_CHUNK", chunk)
    cell, weights = make(function, channels_in, channels)
    x = torch.randn(count, tokens, channels_in, dtype=torch.float64, requires_grad=True)
    scanned = torch.cat([function(x, *weights[0]), function(x, *weights[1], backwards=True)], -1)
    expected, _ = cell(x)
    torch.testing.assert_close(scanned, expected, rtol=0, atol=1e-12)
    to_output = torch.randn_like(expected)
    given = (x, *cell.parameters())
    one, other = (torch.autograd.grad(h, given, to_output) for h in (scanned, expected))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", CELLS)
@pytest.mark.parametrize("backwards", [False, True])
def test_gradients_are_those_of_finite_differences(monkeypatch, function, backwards):
    monkeypatch.setattr(scan, "_CHUNK", 4)
    _, (weights, _) = make(function, 3, 2)
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *given: function(*given, backwards), (x, *weights))


@pytest.mark.parametrize("function", CELLS)
def test_gradients_may_be_taken_again_and_of_any_layout(function):
    cell, (weights, _) = make(function, 4, 4)
    x = torch.randn(3, 4, 6, dtype=torch.float64).transpose(1, 2).requires_grad_()
    h = function(x, *weights)
    to_output = torch.randn(4, 6, 3, dtype=torch.float64).permute(2, 1, 0)
    before = to_output.clone()
    first, second = (torch.autograd.grad(h, (x, *weights), to_output, retain_graph=True) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(to_output, before)
    expected = torch.autograd.grad(cell(x)[0][..., :4], (x, *weights), to_output)
    torch.testing.assert_close(first, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", CELLS)
def test_autocast_keeps_the_state_in_bfloat16_and_the_gradients_of_the_weights_in_float32(function):
    cell, (weights, _) = make(function, 16, 16, dtype=torch.float32)
    x = torch.randn(4, 9, 16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        h = function(x, *weights)
    assert h.dtype == torch.bfloat16
    expected = cell(x)[0][..., :16]
    torch.testing.assert_close(h.float(), expected, rtol=0, atol=0.02)
    to_output = torch.randn_like(expected)
    one = torch.autograd.grad(h, (x, *weights), to_output.bfloat16())
    other = torch.autograd.grad(expected, (x, *weights), to_output)
    for ours, theirs in zip(one, other, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("function", CELLS)
@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 0, 3)])
@pytest.mark.parametrize("backwards", [False, True])
def test_of_no_sequences_and_of_no_tokens_there_are_no_states(function, shape, backwards):
    _, (weights, _) = make(function, 3, 4)
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    h = function(x, *weights, backwards)
    assert h.shape == (*shape[:2], 4)
    to_x, *others = torch.autograd.grad(h.sum(), (x, *weights))
    assert to_x.shape == shape
    assert not any(one.any() for one in others)


@pytest.mark.parametrize("function", CELLS)
@pytest.mark.parametrize(("odd", "size"), [("w_ih", -1), ("w_hh", 1), ("b_ih", 0), ("b_hh", -1), ("x", 0)])
def test_what_does_not_fit_is_refused(function, odd, size):
    """It would be one of the framework's results, of another shape, with a warning alone."""
    _, (weights, _) = make(function, 3, 4)
    given = dict(zip(("x", "w_ih", "w_hh", "b_ih", "b_hh"), (torch.zeros(2, 5, 3).double(), *weights), strict=True))
    others = [given[odd].detach()[0], torch.cat([given[odd].detach()] * 2, size if given[odd].ndim > 1 else 0)]
    for other in others[: 1 if odd == "x" else 2]:
        with pytest.raises(ValueError, match=f"^(w_hh|{odd}|w_ih): expected"):
            function(**given | {odd: other})
    with pytest.raises(ValueError, match=r"^w_ih: expected .*, got"):
        function(**given | {"w_hh": weights[1].detach()[0, 0]})
    elsewhere = weights[3].detach().to("meta")
    with pytest.raises(ValueError, match=r"^b_hh: expected .* on cpu .*got .* on meta"):
        function(**given | {"b_hh": elsewhere})


@pytest.mark.parametrize("function", CELLS)
def test_numbers_of_another_precision_than_the_weights_are_refused_as_by_the_framework(function):
    cell, (weights, _) = make(function, 3, 4, dtype=torch.float32)
    for other in (torch.float64, torch.bfloat16):
        with pytest.raises(ValueError, match=f"^w_ih: expected {other} .*, got torch.float32"):
            function(torch.zeros(2, 5, 3, dtype=other), *weights)
        with pytest.raises((ValueError, RuntimeError), match="dtype"):
            cell(torch.zeros(2, 5, 3, dtype=other))
    with torch.autocast("cpu", torch.bfloat16):  # there both are cast
        assert function(torch.zeros(2, 5, 3, dtype=torch.bfloat16), *weights).dtype == torch.bfloat16


@pytest.mark.parametrize("function", CELLS)
def test_autocast_leaves_double_precision_alone(function):
    cell, (weights, _) = make(function, 4, 4)
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert function(x, *weights).dtype == cell(x)[0].dtype == torch.float64


@pytest.mark.parametrize("function", CELLS)
def test_shapes_alone_are_scanned_too(function):
    _, (weights, _) = make(function, 4, 5)
    elsewhere = (one.detach().to("meta") for one in weights)
    assert function(torch.empty(2, 3, 4, dtype=torch.float64, device="meta"), *elsewhere).shape == (2, 3, 5)
