"""Products of inputs with weights, or with each other, counted exactly: zeros of the padding are left out.

Each input value has a fan-out: the number of weights that it meets. At the border of a map it meets fewer; with a
stride some meet none. A value that is not 0 causes that many synaptic operations.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from onespike.counting.arrivals import KINDS, Arrival, Arrivals, Kind


@dataclass(frozen=True)
class Product:
    """Multiplications of one kind in one layer, per image.

    Attributes:
        name: What it is, such as "linear 48 -> 144", "matmul 64 x 16 x 64" (two stacks of activations; of two
            matrices, whose rows are images, "matmul 16 x 64"), or the "state" of a recurrent layer.
        arrives: Kind of its inputs: "binary", "signed", "graded" or "real", see `onespike.counting.arrivals`.
        step: Size c of one spike; None for real values, if all were zeros, or if each channel has its own.
        levels: The largest number of spikes in one value; 0 for real values.
        signs: Whether spikes of one size come with both signs.
        rate: Spikes per input value; of real values, the share that is not 0.
        macs: Dense multiply-accumulates, as frameworks count them: zeros of the padding included.
        reached: Those that a value of the input reaches: zeros of the padding left out.
        nonzero: Those that a value other than 0 reaches: what is left if zeros are skipped.
        operations: Accumulates, one for each spike and weight that it meets; of real values, `reached` MACs.
        inputs: Number of input values.
        weights: Weights, 0 in a product of two activations.
        beside: For a product of two activations, the less simple of their two kinds; else None.
        first: Whether its input comes from the network's input with no product in between, as in a stem.
        time_steps: Time steps in which it is computed: of a stem that reads a still image, one.
    """

    name: str
    arrives: Kind
    step: float | None
    levels: int
    signs: bool
    rate: float
    macs: float
    reached: float
    nonzero: float
    operations: float
    inputs: float
    weights: int
    beside: Kind | None
    first: bool
    time_steps: int


class Operand:
    """One side of a product: its values, and the weights that they meet, summed over all batches."""

    def __init__(self, channels: int | None = None) -> None:
        self.arrivals = Arrivals(channels)
        self.inputs = self.active = self.nonzero = 0
        self.spikes = self.magnitude = 0.0  # sums of |x|, and of |x| for each weight that it meets
        self._by_channel = torch.zeros(())  # the same for each channel, (2, C), while it may have a size of its own

    def see(self, x: Tensor, fan_out: Tensor | int) -> None:
        """Add a batch; `fan_out` is how many weights each value meets: one number, or a map for x of (N, C, *map)."""
        counts = _sums(x != 0, fan_out, self.arrivals.channels)
        active, nonzero = (round(number) for number in counts.sum(1).tolist())
        self.arrivals.see(x, active)
        self.inputs, self.active, self.nonzero = self.inputs + x.numel(), self.active + active, self.nonzero + nonzero
        c, channels = self.arrivals.sole_value, self.arrivals.channels
        if c is not None:
            sums = abs(c) * counts
        elif channels is not None or not self.arrivals.have_no_step:
            sums = _sums(x.abs(), fan_out, channels)
        else:
            return
        if channels is not None:
            self._by_channel = self._by_channel + sums
        self.spikes += sums[0].sum().item()
        self.magnitude += sums[1].sum().item()

    def counted(self, arrival: Arrival) -> tuple[float, float]:
        """Number of spikes (of real values: of those that are not 0), and of the weights that all of them meet."""
        if arrival.kind != "graded":
            return self.active, self.nonzero
        if arrival.step is not None:
            return self.spikes / arrival.step, self.magnitude / arrival.step
        sizes = self.arrivals.sizes
        assert sizes is not None, "graded values have one size, or one for each channel"
        return tuple((self._by_channel / sizes).sum(1).tolist())


class Tally:
    """A product while it is being counted, over all batches; `channels` as for `Arrivals`, `first` as in `Product`."""

    def __init__(self, name: str, weights: int, channels: int | None = None, first: bool = False) -> None:
        self.name, self.weights, self.first = name, weights, first
        self.macs = self.reached = self.pairs = 0
        self.calls = self.rows = 0  # how often it was computed, and on how many maps or vectors of all images and steps
        self.more_rows: Counter[int] = Counter()  # if the network takes so many time steps
        self.magnitude = 0.0  # the sum of |a| * |b| over all pairs, while neither side is real
        self.left, self.right = Operand(channels), Operand()

    def conclude(self, images: int, batches: int = 1, steps: int = 1) -> Product:
        """Summarise, per image; `steps` are the network's time steps."""
        left = self.left.arrivals.conclude()
        operand, arrival, nonzero, beside = self.left, left, self.left.nonzero, None
        operations = self.left.counted(left)[1]
        if not self.weights:
            right, nonzero = self.right.arrivals.conclude(), self.pairs
            beside = max(left.kind, right.kind, key=KINDS.index)
            if left.kind == right.kind == "binary":
                operations = self.pairs
            elif "real" not in (left.kind, right.kind):  # each spike of one value meets each spike of the other
                operations = self.magnitude / abs((left.step or 1) * (right.step or 1))
                order = [(KINDS.index(one.kind), one.levels.bit_length() + one.signs) for one in (left, right)]
                if order[0] < order[1]:
                    operand, arrival = self.right, right
            elif left.kind == "real" and right.kind != "real":
                operand, arrival, operations = self.right, right, self.right.counted(right)[1]
        if arrival.kind == "real":
            operations = self.reached
        rate = operand.counted(arrival)[0] / max(operand.inputs, 1)
        sums = (self.macs, self.reached, nonzero, operations, self.left.inputs + self.right.inputs)
        macs, reached, met, done, inputs = (_per_image(number, images) for number in sums)
        # Time steps are computed one after the other, or all as one batch.
        rows = self.rows + self.more_rows[steps]
        ran = steps if self.calls >= steps * batches or rows >= steps * images else 1
        counts = rate, macs, reached, met, done, inputs
        return Product(self.name, *arrival, *counts, self.weights, beside, self.first, ran)

    def _see(self, rows: int, macs: int, reached: int) -> None:
        self.calls, self.rows = self.calls + 1, self.rows + rows
        self.macs, self.reached = self.macs + macs, self.reached + reached

    def see_linear(self, x: Tensor, out: int, rows: int) -> None:
        """Count values (..., in) of `rows` maps or vectors that each meet `out` weights."""
        self._see(rows, x.numel() * out, x.numel() * out)
        self.left.see(x, out)

    def see_real(self, inputs: int, macs: int) -> None:
        """Count values that are hidden inside a layer and known to be real; all of them count as not 0."""
        self._see(0, macs, macs)
        self.left.arrivals.assume_real()
        self.left.inputs, self.left.active = self.left.inputs + inputs, self.left.active + inputs
        self.left.nonzero += macs

    def see_matmul(self, a: Tensor, b: Tensor, rows: int) -> None:
        """Count the product of two activations, (B, M, K) and (B, K, N), of `rows` maps."""
        self._see(rows, a.numel() * b.shape[-1], a.numel() * b.shape[-1])
        self.left.see(a, b.shape[-1])
        self.right.see(b, a.shape[-2])
        both = _double_sum(a != 0, -2) * _double_sum(b != 0, -1)  # (B, K)
        self.pairs += round(both.sum().item())
        if not (self.left.arrivals.have_no_step or self.right.arrivals.have_no_step):
            sums = _double_sum(a.abs(), -2) * _double_sum(b.abs(), -1)  # (B, K)
            self.magnitude += sums.sum().item()

    def see_conv(
        self, x: Tensor, weight: Tensor, out: torch.Size, steps: Sequence[Sequence[int]], groups: int, transposed: bool
    ) -> None:
        """Count a convolution of (N, C, *map) to `out`; stride, padding and dilation are the `steps`."""
        kernel, size = weight.shape[2:], x.shape[2:]
        # A weight is (out, in / groups, ...); in a transposed convolution it is (in, out / groups, ...).
        per_input = weight.shape[1] if transposed else weight.shape[0] // groups
        positions, maps = math.prod(size if transposed else out[2:]), len(x) * x.shape[1]
        fan_out = torch.tensor(per_input)
        for axis in zip(size, kernel, *steps, out[2:], strict=True):
            fan_out = fan_out[..., None] * taps(transposed, *axis)
        self._see(len(x), maps * positions * math.prod(kernel) * per_input, maps * int(fan_out.sum()))
        self.left.see(x, fan_out)


def taps(transposed: bool, size: int, kernel: int, stride: int, padding: int, dilation: int, out: int) -> Tensor:
    """How many taps each position along one axis meets, (size,)."""
    reached = torch.arange(size if transposed else out)[:, None] * stride + torch.arange(kernel) * dilation - padding
    inside = (reached >= 0) & (reached < (out if transposed else size))
    return inside.sum(1) if transposed else reached[inside].bincount(minlength=size)


def _sums(x: Tensor, fan_out: Tensor | int, channels: int | None) -> Tensor:
    """Sum up values, and values times the weights that they meet, for each channel: (2, C), or (2, 1) for all."""
    if isinstance(fan_out, int):
        axes = [axis for axis in range(x.ndim) if channels is None or axis != channels % x.ndim]
        total = _double_sum(x, axes).cpu().view(-1)
        return torch.stack([total, total * fan_out])
    # float32 adds up faster, and holds every whole number below 2^24.
    exact = x.dtype == torch.bool and x.shape[0] * x.shape[1] < 2**24
    axes = [0, 1] if channels is None else [0]
    places = (x.sum(axes, dtype=torch.float32) if exact else _double_sum(x, axes)).cpu().double()
    places = places[None] if channels is None else places
    return torch.stack([places.flatten(1).sum(1), (places * fan_out).flatten(1).sum(1)])


def _double_sum(x: Tensor, axes: int | list[int]) -> Tensor:
    """Sum in double precision; MPS has none, so its values are summed on the CPU."""
    return (x.cpu() if x.device.type == "mps" else x).sum(axes, dtype=torch.float64)


def _per_image(number: float, images: int) -> float:
    """Divide; a whole result stays a whole number."""
    return number // images if number % images == 0 else number / images
