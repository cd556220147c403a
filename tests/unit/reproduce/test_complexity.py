from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from reproduce.complexity import _compare, count_cell, count_convolution, count_linear, layers_of, lsnn, ratio, scnn
from reproduce.report import read_rows

RESULTS = Path(__file__).parents[3] / "results"

#: Elementwise operations that a written-out cell uses: one for each element of the result.
ELEMENTWISE = {
    torch.ops.aten.add.Tensor,
    torch.ops.aten.mul.Tensor,
    torch.ops.aten.rsub.Scalar,
    torch.ops.aten.sigmoid.default,
    torch.ops.aten.tanh.default,
}
#: What moves numbers about and computes nothing.
FREE = {
    torch.ops.aten.t.default,
    torch.ops.aten.transpose.int,
    torch.ops.aten.split.Tensor,
    torch.ops.aten.detach.default,
}


class CellCounter(TorchDispatchMode):
    """Counts for itself: two operations for each multiply-accumulate, one for each element of an elementwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Count one operation and carry it out; one that is not known raises."""
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default:
            self.total += 2 * out.numel() * args[0].shape[1]
        elif func in ELEMENTWISE:
            self.total += out.numel()
        elif func not in FREE:
            raise LookupError(f"how many operations is {func}?")
        return out


def lstm_step(x: Tensor, h: Tensor, c: Tensor, w: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """One token of an LSTM without biases.

    Args:
        x: The token, (1, d_x).
        h: Output of the token before, (1, d_h).
        c: Cell state, (1, d_h).
        w: Weights of the token, (4 d_h, d_x).
        u: Weights of the output before, (4 d_h, d_h).

    Returns:
        Output and cell state.
    """
    i, f, g, o = (x @ w.t() + h @ u.t()).split(h.shape[1], 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def gru_step(x: Tensor, h: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """One token of a GRU without biases; arguments and result as for `lstm_step`, weights of three gates."""
    (xr, xz, xn), (hr, hz, hn) = (x @ w.t()).split(h.shape[1], 1), (h @ u.t()).split(h.shape[1], 1)
    z, n = (xz + hz).sigmoid(), (xn + (xr + hr).sigmoid() * hn).tanh()
    return (1 - z) * n + z * h


def rnn_step(x: Tensor, h: Tensor, w: Tensor, u: Tensor) -> Tensor:
    """One token of a plain recurrent layer without biases; arguments and result as for `lstm_step`, one gate."""
    return (x @ w.t() + h @ u.t()).tanh()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_cell_is_counted_as_its_equations_written_out(kind: type):
    gates, step = {nn.LSTM: (4, lstm_step), nn.GRU: (3, gru_step), nn.RNN: (1, rnn_step)}[kind]
    state = [torch.zeros(1, 5)] * (2 if kind is nn.LSTM else 1)
    token, weights = torch.zeros(1, 3), (torch.zeros(gates * 5, 3), torch.zeros(gates * 5, 5))
    with CellCounter() as counter:
        step(token, *state, *weights)
    assert count_cell(kind, 3, 5) == counter.total


def test_convolution_by_a_loop_over_every_product():
    d_x, d_h, kernel = 2, 3, 3
    products = sum(1 for _ in range(d_h) for _ in range(d_x) for _ in range(kernel) for _ in range(kernel))
    assert scnn(d_x, d_h, kernel) == 2 * products == count_convolution(d_x, d_h, kernel)
    assert count_convolution(3, 48, 2, stride=2) == scnn(3, 48, 2)
    assert count_linear(5, 7) == scnn(5, 7, 1) == 70


def test_lstm_by_hand():
    d_x, d_h = 48, 96
    matrices = 4 * (d_x * d_h + d_h * d_h) * 2
    # of each channel: 4 sums of two products, 5 activations, 2 products and a sum for the state, 1 for the output
    assert count_cell(nn.LSTM, d_x, d_h) == matrices + 13 * d_h
    assert lsnn(d_x, d_h) == matrices + 20 * d_h
    assert lsnn(1, 1) == 36


def test_eq2_is_eq1_without_its_lower_order():
    assert ratio(48, 48, 3) == 1.125
    assert scnn(10**6, 10**6, 3) / lsnn(10**6, 10**6) == pytest.approx(ratio(10**6, 10**6, 3), rel=1e-5)


def test_a_whole_unit_has_two_convolutions_or_two_directions_and_the_layer_behind():
    conv, cell, fc = 2 * 9 * 48 * 48, 2 * 8 * 48 * 48 + 13 * 48, 2 * 48 * 48
    expected = 1.125, conv / (cell + 7 * 48), conv / cell, (2 * conv + fc) / (2 * cell + 2 * fc)
    assert _compare(48) == pytest.approx(expected)


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_cells_that_are_counted_are_the_frameworks(cell: type):
    torch.manual_seed(0)
    layer = cell(3, 5, bias=False, batch_first=True)
    tokens = torch.randn(1, 4, 3)
    expected, _ = layer(tokens)
    h = c = torch.zeros(1, 5)
    weights = layer.weight_ih_l0, layer.weight_hh_l0
    for token, wanted in zip(tokens.unbind(1), expected.unbind(1), strict=True):
        if cell is nn.LSTM:
            h, c = lstm_step(token, h, c, *weights)
        else:
            h = (gru_step if cell is nn.GRU else rnn_step)(token, h, *weights)
        torch.testing.assert_close(h, wanted)


def test_an_operation_that_is_not_known_raises():
    ones = torch.ones(2)
    with pytest.raises(LookupError, match="exp"), CellCounter():
        ones.exp()


def test_layers_of_a_model():
    layers = layers_of("lstm12")
    cells = [layer for layer in layers if layer.kind == "LSTM"]
    assert len(cells) == 12
    assert {layer.directions for layer in cells} == {2}
    assert [layer.d_x for layer in cells] == [48] * 2 + [96] * 2 + [192] * 6 + [384] * 2
    assert all(layer.equation is None for layer in layers_of("gru12") if layer.kind == "GRU")
    convolutions = [layer for layer in layers_of("conv12") if layer.kind == "convolution"]
    assert len(convolutions) == 1 + 24


def test_what_is_written(command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from reproduce import complexity

    monkeypatch.setattr(complexity, "VARIANTS", {"conv12": {}, "lstm12": {}})
    code, _, complaints = command("complexity", "--out", "results")
    assert (code, complaints) == (0, "")
    rows = read_rows(tmp_path / "results" / "complexity.csv")
    assert {row["model"] for row in rows} == {"conv12", "lstm12"}
    shares = {float(row["counted / Eq. 1"]) for row in rows if row["kind"] in ("convolution", "linear")}
    assert shares == {1.0}
    committed = [row for row in read_rows(RESULTS / "complexity.csv") if row["model"] in ("conv12", "lstm12")]
    for row, other in zip(rows, committed, strict=True):
        assert [row.pop(name) for name in ("model", "layer", "kind")] == [*other.values()][:3]
        assert {name: float(cell) for name, cell in row.items()} == {name: float(other[name]) for name in row}
    assert "13 operations for each channel" in (tmp_path / "results" / "complexity.md").read_text()
