"""Eq. 1 and Eq. 2 of the supplement for every weight layer of the paper's networks, beside counted operations.

Omega(SCNN-W) = d_x k_h k_w d_h 2                        for each token of a window, biases left out
Omega(LSNN-W) = d_x d_h 8 + d_h (d_h 8 + 20)             likewise, one direction
ratio         ~ d_x k_h k_w / ((d_x + d_h) 4)            Eq. 2

The audit's counter counts two operations for each multiply-accumulate, and one for each value of an element-wise
operation; biases are left out.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import nn

from onespike.counting import count_operations
from onespike.models import OnespikeConfig, create_model
from onespike.models.onespike import VARIANTS
from onespike.search.drawing import make_plain
from reproduce.report import Table, write_report

#: Side of the map that a convolution is counted on.
SIDE = 8


def scnn(d_x: int, d_h: int, kernel: int) -> int:
    """Omega(SCNN-W) of Eq. 1: operations of a convolution for one token; a kernel of 1 is a linear layer."""
    return d_x * kernel * kernel * d_h * 2


def lsnn(d_x: int, d_h: int) -> int:
    """Omega(LSNN-W) of Eq. 1: operations of one direction of an LSTM for one token."""
    return d_x * d_h * 8 + d_h * (d_h * 8 + 20)


def ratio(d_x: int, d_h: int, kernel: int) -> float:
    """Eq. 2: how many times an LSTM's operations a convolution takes, lower orders left out."""
    return d_x * kernel * kernel / ((d_x + d_h) * 4)


@dataclass(frozen=True)
class Layer:
    """One weight layer of one model.

    Attributes:
        model: Name of the model.
        name: Where it is in the network.
        kind: "convolution", "linear", "LSTM", "GRU" or "RNN".
        d_x: Channels in.
        d_h: Channels out, of one direction.
        kernel: Side of the kernel; 1 where there is none.
        directions: 2 where it runs both ways.
        equation: Eq. 1 for one token and direction; None where the supplement has no equation (GRU, RNN).
        counted: Operations that were counted, likewise.
    """

    model: str
    name: str
    kind: str
    d_x: int
    d_h: int
    kernel: int
    directions: int
    equation: int | None
    counted: float

    @property
    def shape(self) -> tuple[str, int, int, int]:
        """What its operations depend on."""
        return self.kind, self.d_x, self.d_h, self.kernel


@cache
def count_cell(kind: type[nn.RNNBase], d_x: int, d_h: int) -> float:
    """Count the operations of one token and one direction of an `nn.LSTM`, `nn.GRU` or `nn.RNN`."""
    counted = count_operations(kind(d_x, d_h, bias=False), [torch.zeros(1, 1, d_x)])  # type: ignore[call-arg, arg-type]
    return 2 * counted.macs + sum(counted.elementwise.values())


@cache
def count_convolution(d_x: int, d_h: int, kernel: int, stride: int = 1) -> float:
    """Count the operations of a convolution on a map, for each token that comes out."""
    layer = nn.Conv2d(d_x, d_h, kernel, stride, (kernel - 1) // 2 if stride == 1 else 0)
    return 2 * count_operations(layer, [torch.zeros(1, d_x, SIDE, SIDE)]).macs / (SIDE // stride) ** 2


@cache
def count_linear(d_x: int, d_h: int) -> float:
    """Count the operations of a linear layer for one token."""
    return 2 * count_operations(nn.Linear(d_x, d_h), [torch.zeros(1, d_x)]).macs


def layers_of(model: str) -> list[Layer]:
    """List the weight layers of a registered model, in the order of the network."""
    with torch.device("meta"):
        network = create_model(model, in_channels=3, image_size=32)
    found = []
    for name, layer in network.named_modules():
        match layer:
            case nn.Conv2d():
                d_x, d_h, kernel = layer.in_channels, layer.out_channels, layer.kernel_size[0]
                sides = ("convolution", d_x, d_h, kernel, 1)
                equation: int | None = scnn(d_x, d_h, kernel)
                counted = count_convolution(d_x, d_h, kernel, layer.stride[0])
            case nn.Linear():
                d_x, d_h = layer.in_features, layer.out_features
                sides = ("linear", d_x, d_h, 1, 1)
                equation, counted = scnn(d_x, d_h, 1), count_linear(d_x, d_h)
            case nn.LSTM() | nn.GRU() | nn.RNN():
                d_x, d_h = layer.input_size, layer.hidden_size
                # The framework's own cell: the library's are subclasses, whose operations are counted in another way.
                kind = next(kind for kind in (nn.LSTM, nn.GRU, nn.RNN) if isinstance(layer, kind))
                counted = count_cell(kind, d_x, d_h)
                sides = (type(layer).__name__, d_x, d_h, 1, 2 if layer.bidirectional else 1)
                equation = lsnn(d_x, d_h) if isinstance(layer, nn.LSTM) else None
            case _:
                continue
        found.append(Layer(model, name, *sides, equation, counted))
    return found


def complexity(out: Path = Path("results")) -> None:
    """Eq. 1 and Eq. 2 for every weight layer of the paper's networks, beside counted operations.

    Args:
        out: Folder for complexity.csv, complexity.md and complexity.png.
    """
    layers = [layer for model in VARIANTS for layer in layers_of(model)]
    counts = {"Eq. 1": ",d", "counted": ",.0f", "counted / Eq. 1": ".4f"}
    sides = {"kind": "", "d_x": "d", "d_h": "d", "kernel": "d"}
    columns = {"model": "", "layer": "", **sides, "directions": "d", **counts}
    everything = Table(columns, [[*vars(layer).values(), _share(layer)] for layer in layers])
    distinct = {one.shape: one for one in reversed(layers)}
    times = Counter(one.shape for one in layers)
    by_shape = Table(
        {**sides, "layers": ",d", **counts},
        [[*key, times[key], one.equation, one.counted, _share(one)] for key, one in sorted(distinct.items())],
    )
    stages = [(channels, *_compare(channels)) for channels in OnespikeConfig.channels]
    compared = ("Eq. 2", "Eq. 1 : Eq. 1", "counted : counted", "with fc")
    ratios = Table({"channels": "d", **dict.fromkeys(compared, ".3f")}, stages)
    shares = [(one.kind, one.counted / one.equation) for one in layers if one.equation]
    worst = max(abs(share - 1) for kind, share in shares if kind != "LSTM")
    cells = [share for kind, share in shares if kind == "LSTM"]
    extra = {(one.counted - (one.d_x + one.d_h) * one.d_h * 8) / one.d_h for one in layers if one.kind == "LSTM"}
    parts: list[str | Table] = [
        "Floating-point operations for one token of a window, one direction, biases left out, every layer counted "
        "dense. Eq. 1 has a convolution and an LSTM; a linear layer is a convolution with a kernel of 1; for GRU and "
        "RNN there is no equation. Each of the "
        f"{len(layers):,} weight layers of the {len(VARIANTS)} registered networks of the paper's family is a row of "
        "complexity.csv; here is each shape once.",
        by_shape,
        f"Convolutions and linear layers: counted and Eq. 1 differ by {worst:.2%} at most. LSTM: counted / Eq. 1 is "
        f"{min(cells):.4f} to {max(cells):.4f}; beside the products, an "
        f"activation or a sum being one operation, {', '.join(f'{one:g}' for one in sorted(extra))} operations for "
        "each channel are counted where Eq. 1 says 20.",
        "How many times the operations of the LSTM the convolution takes (d_x = d_h, 3x3):",
        ratios,
        "Eq. 2 compares one convolution with one direction of an LSTM. The CNN unit has two convolutions, and the LSTM "
        "unit runs both ways: a factor of two on either side, so the ratio stays; `with fc` adds the linear layer "
        "behind the unit, which reads C channels after the CNN unit and 2C after the LSTM.",
    ]
    title = "Complexity: Eq. 1 and Eq. 2 beside counted operations"
    write_report(out, "complexity", title, everything, parts, _draw(stages))


def _share(layer: Layer) -> float | None:
    return layer.counted / layer.equation if layer.equation else None


def _compare(channels: int) -> tuple[float, float, float, float]:
    """Eq. 2; the ratio of Eq. 1's two lines; of counted layers; of whole units with the layer behind them."""
    conv, lstm = count_convolution(channels, channels, 3), count_cell(nn.LSTM, channels, channels)
    fc = [count_linear(width * channels, channels) for width in (1, 2)]
    return (
        ratio(channels, channels, 3),
        scnn(channels, channels, 3) / lsnn(channels, channels),
        conv / lstm,
        (2 * conv + fc[0]) / (2 * lstm + fc[1]),
    )


def _draw(stages: list[tuple]) -> Figure:
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    operations, ratios = figure.subplots(1, 2)
    widths = range(32, 481, 8)
    operations.plot(widths, [scnn(one, one, 3) for one in widths], color="C0", label="convolution 3x3, Eq. 1")
    operations.plot(widths, [lsnn(one, one) for one in widths], color="C1", label="LSTM, one direction, Eq. 1")
    channels = [stage[0] for stage in stages]
    for colour, count in (
        ("C0", lambda width: count_convolution(width, width, 3)),
        ("C1", lambda width: count_cell(nn.LSTM, width, width)),
    ):
        operations.plot(channels, [count(one) for one in channels], "o", color=colour, label="counted")
    operations.set(xlabel="channels, d_x = d_h", ylabel="operations for a token", xscale="log", yscale="log")
    operations.set_xticks(channels, [str(one) for one in channels])
    operations.xaxis.set_minor_locator(NullLocator())
    operations.legend(frameon=False, fontsize=9)
    names = ("Eq. 2", "Eq. 1 : Eq. 1", "counted : counted", "units, with fc")
    for column, name in enumerate(names, 1):
        positions = [position + 0.2 * (column - 2.5) for position in range(len(stages))]
        ratios.bar(positions, [stage[column] for stage in stages], 0.2, label=name)
    ratios.axhline(1, color="black", linewidth=0.8)
    ratios.set_xticks(range(len(stages)), [str(stage[0]) for stage in stages])
    ratios.set(xlabel="channels", ylabel="convolution : LSTM", ylim=(0, 1.6))
    ratios.legend(frameon=False, fontsize=9, ncols=2, loc="upper center")
    for axis in (operations, ratios):
        make_plain(axis)
        axis.set_axisbelow(True)
    return figure
