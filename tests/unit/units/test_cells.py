"""Our cells: what they give is what the framework's give, whichever way they take."""

import pytest
import torch
from torch import nn

from onespike.units import cells

KINDS = [(cells.GRU, nn.GRU), (cells.RNN, nn.RNN)]


@pytest.fixture
def scans(monkeypatch):
    """Counts the scans."""
    seen = []
    for name in ("scan_gru", "scan_rnn"):
        scan = getattr(cells, name)
        monkeypatch.setattr(cells, name, lambda *a, scan=scan, **k: seen.append(1) or scan(*a, **k))
    return seen


def make(kind, framework, **options):
    torch.manual_seed(0)
    cell = kind(4, 6, **{"batch_first": True, "dtype": torch.float64, **options})
    other = framework(4, 6, **{"batch_first": True, "dtype": torch.float64, **options})
    other.load_state_dict(cell.state_dict())
    return cell, other


def check_equal(cell, other, x, *state):
    for one, expected in zip(cell(x, *state), other(x, *state), strict=True):
        torch.testing.assert_close(one, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "framework"), KINDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_long_sequences_are_scanned(scans, kind, framework, bidirectional):
    cell, other = make(kind, framework, bidirectional=bidirectional)
    x = torch.randn(3, 16, 4, dtype=torch.float64)
    check_equal(cell, other, x)
    assert len(scans) == 1 + bidirectional
    for layer in (cell, other):
        layer(x)[0].square().sum().backward()
    for (name, one), expected in zip(cell.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, expected.grad, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize(("kind", "framework"), KINDS)
@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bias": False}, {"batch_first": False}])
def test_what_the_scan_does_not_know_is_left_to_the_framework(scans, kind, framework, options):
    check_equal(*make(kind, framework, **options), torch.randn(17, 16, 4, dtype=torch.float64))
    assert not scans


@pytest.mark.parametrize(("kind", "framework"), KINDS)
def test_so_are_short_sequences_a_state_to_start_from_one_sequence_and_inference(scans, kind, framework):
    cell, other = make(kind, framework)
    x = torch.randn(3, 16, 4, dtype=torch.float64)
    check_equal(cell, other, x[:, :15])
    check_equal(cell, other, x, torch.randn(1, 3, 6, dtype=torch.float64))
    check_equal(cell, other, torch.randn(16, 4, dtype=torch.float64))
    with torch.no_grad():
        check_equal(cell, other, x)
    assert not scans


def test_so_is_relu(scans):
    check_equal(*make(cells.RNN, nn.RNN, nonlinearity="relu"), torch.randn(3, 16, 4, dtype=torch.float64))
    assert not scans


@pytest.mark.parametrize(("kind", "framework"), KINDS)
def test_hooks_fire_when_it_scans(scans, kind, framework):
    cell, _ = make(kind, framework)
    assert isinstance(cell, framework)
    seen = []
    cell.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    cell.register_forward_hook(lambda _, __, output: seen.append(output[0].shape))
    cell(torch.randn(2, 20, 4, dtype=torch.float64))
    assert scans
    assert seen == [(2, 20, 4), (2, 20, 6)]


@pytest.mark.parametrize(("kind", "framework"), [(cells.LSTM, nn.LSTM), *KINDS])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_single_token_never_meets_the_weights_of_the_state(kind, framework, bidirectional, monkeypatch):
    cell, other = make(kind, framework, bidirectional=bidirectional)
    x = torch.randn(3, 1, 4, dtype=torch.float64)
    expected = other(x)
    monkeypatch.setattr(framework, "forward", None)  # whoever calls it fails
    output = cell(x)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-14)
    for h, _ in (output, expected):
        h.square().sum().backward()
    for (name, one), wanted in zip(cell.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, wanted.grad, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize(("kind", "framework"), KINDS)
def test_under_autocast_a_single_token_has_the_dtype_of_many(kind, framework):
    cell, _ = make(kind, framework, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert {cell(torch.randn(3, tokens, 4))[0].dtype for tokens in (1, 16)} == {torch.bfloat16}


@pytest.mark.parametrize("options", [{"proj_size": 3}, {"num_layers": 2}, {"bias": False}, {"batch_first": False}])
def test_an_lstm_of_another_kind_is_the_framework_s(options):
    cell, other = make(cells.LSTM, nn.LSTM, **options)
    x = torch.randn(1, 1, 4, dtype=torch.float64)
    for one, expected in ((cell(x), other(x)), (cell(x, other(x)[1]), other(x, other(x)[1]))):
        torch.testing.assert_close(one, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "framework"), [(cells.LSTM, nn.LSTM), *KINDS])
def test_a_packed_sequence_is_left_to_the_framework(kind, framework):
    cell, other = make(kind, framework)
    packed = nn.utils.rnn.pack_sequence([torch.randn(length, 4, dtype=torch.float64) for length in (3, 2)])
    torch.testing.assert_close(cell(packed)[0].data, other(packed)[0].data, rtol=0, atol=0)


def test_an_lstm_under_bf16_computes_in_single_precision_where_there_is_no_other(monkeypatch):
    monkeypatch.setattr("onespike.units.cells.emulates_bf16", lambda: True)
    torch.manual_seed(0)
    cell, tokens = cells.LSTM(4, 5, batch_first=True, bidirectional=True), torch.randn(2, 3, 4)
    expected, _ = cell(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = cell(tokens)
        state = cell(tokens[:, :1])[1]
        cell(tokens[:, 1:], tuple(one.bfloat16() for one in state))  # as a single token leaves it
    assert torch.equal(found, expected)
