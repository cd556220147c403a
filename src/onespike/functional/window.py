"""Windows: a feature map cut into four corner windows, and put together again (Algorithm 1 of the supplement).

The windows are the four corners of the map, in the order top-left, top-right, bottom-left, bottom-right:

    average   side M = L/2:   the windows tile the map
    dilated   side M = 3L/4:  they overlap in the middle by w_o = 2M - L = L/2 rows and columns
    whole     side M = L:     one window, the map itself: the baseline of the paper's ablation
"""

from collections.abc import Iterator
from itertools import cycle
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

from onespike.functional.spike import exceeds

WINDOW_KINDS = ("average", "dilated", "whole")


def window_kinds(windows: str) -> Iterator[str]:
    """The window kind of each block in turn, without an end.

    Args:
        windows: "alternating" ("average" and "dilated" by turns), "none" ("whole": the map itself), or one of
            `WINDOW_KINDS` for all blocks.

    Raises:
        ValueError: It is something else.
    """
    kinds = {"alternating": ("average", "dilated"), "none": ("whole",)} | {kind: (kind,) for kind in WINDOW_KINDS}
    if windows not in kinds:
        raise ValueError(f"windows: expected one of {', '.join(kinds)}, got {windows!r}")
    return cycle(kinds[windows])


def window_kind_at(kind: str, size: int) -> str:
    """The kind of window on a map of side L: average in place of dilated, unless L is a multiple of 4."""
    return "average" if kind == "dilated" and size % 4 else kind


def window_count(kind: str) -> int:
    """Number of windows V: 1 for "whole", else 4; a ValueError if the kind does not exist."""
    _expect_kind(kind)
    return 1 if kind == "whole" else 4


def _expect_kind(kind: str) -> None:
    if kind not in WINDOW_KINDS:
        raise ValueError(f"window kind: expected one of {', '.join(WINDOW_KINDS)}, got {kind!r}")


def window_side(size: int, kind: str) -> int:
    """Side M of the windows of a map of side L: L/2, 3L/4 or L. For average windows an odd L counts as L + 1.

    Raises:
        ValueError: The kind does not exist, or the kind is "dilated" and the side is no multiple of 4.
    """
    _expect_kind(kind)
    if size < 1:
        raise ValueError(f"windows: expected a side of at least 1, got {size}")
    if kind == "whole":
        return size
    if kind == "average":
        return (size + 1) // 2
    if size % 4:
        raise ValueError(f"dilated windows: expected a side that is a multiple of 4, got {size}; use average windows")
    return 3 * size // 4


def _corners(x: Tensor, side: int) -> list[Tensor]:
    return [x[corner] for corner in _places(side)]


def _places(side: int) -> list[tuple[EllipsisType, slice, slice]]:
    first, last = slice(side), slice(-side, None)
    return [(..., first, first), (..., first, last), (..., last, first), (..., last, last)]


def _add_corners(windows: Tensor, size: int) -> Tensor:
    """Add four windows into place: (V, B, C, M, M) to a map (B, C, L, L), channels-last in memory."""
    *outer, channels, side, _ = windows.shape[1:]
    make, put = (windows.new_empty, Tensor.copy_) if 2 * side == size else (windows.new_zeros, Tensor.add_)
    whole = make((*outer, size, size, channels)).movedim(-1, -3)
    for corner, window in zip(_places(side), windows.unbind(), strict=True):
        put(whole[corner], window)  # cut out one by one: `torch.func` loses a view once another has changed
    return whole


# Autograd's own gradient of slicing or joining fills a map of zeros for each part, in another memory layout.
class _Corners(torch.autograd.Function):
    """The four corners of a map, (B, C, L, L) to (V, B, C, M, M)."""

    @staticmethod
    def forward(x: Tensor, side: int) -> Tensor:
        return torch.stack(_corners(x, side))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # noqa: ARG004
        ctx.size = inputs[0].shape[-1]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return _add_corners(gradient, ctx.size), None


def partition(x: Tensor, kind: str) -> Tensor:
    """Cut a feature map (B, C, L, L) into its windows, (V, B, C, M, M) with V = 4, or 1 for "whole".

    The window axis comes first, so that flattening it into the batch is free. An odd L is padded with zeros right and
    below, to L + 1.

    Raises:
        ValueError: The map is not square, or its side does not allow this kind of window.
    """
    if x.ndim < 2 or x.shape[-2] != x.shape[-1]:
        raise ValueError(f"partition: expected a square map (B, C, L, L), got {tuple(x.shape)}")
    side = window_side(x.shape[-1], kind)
    if kind == "whole":
        return x.unsqueeze(0)
    if x.shape[-1] % 2:
        x = F.pad(x, (0, 1, 0, 1))
    return _Corners.apply(x, side)


def recompose(windows: Tensor, size: int, kind: str) -> Tensor:
    """Put the windows back into one map; where they overlap, it holds their mean ("weighted condense").

    Left and right windows are joined first, their overlap weighted 1/2; then top and bottom in the same way, which
    makes 1/4 in the centre. This is the sum of all windows in place, divided by the number of windows that cover each
    pixel. `windows` are (V, B, C, M, M), as from `partition`; the map is (B, C, L, L) with L = `size`, cropped from
    L + 1 if it is odd. `recompose(partition(x, kind), L, kind)` is `x`.

    Raises:
        ValueError: The windows are too few or too many, or do not fit a map of that side.
    """
    side, count = window_side(size, kind), window_count(kind)
    if windows.shape[0] != count or windows.shape[-2:] != (side, side):
        expected = f"windows ({count}, B, C, {side}, {side}) for a {kind} map of side {size}"
        raise ValueError(f"recompose: expected {expected}, got {tuple(windows.shape)}")
    if kind == "whole":
        return windows[0]
    if kind == "dilated" and not (windows.is_floating_point() or windows.is_complex()):
        windows = windows.to(torch.get_default_dtype())  # sums of bytes, or of true and false, would not fit
    return _Recompose.apply(windows, size + size % 2)[..., :size, :size]


class _Recompose(torch.autograd.Function):
    """Four windows to one map of an even side, (V, B, C, M, M) to (B, C, L, L); with a gradient as in `_Corners`."""

    @staticmethod
    def forward(windows: Tensor, size: int) -> Tensor:
        overlap = 2 * windows.shape[-1] - size
        if not overlap and not torch.compiler.is_compiling():  # a compiled graph would scatter index by index
            return _add_corners(windows, size)
        pairs = windows[:2], windows[2:]
        upper, lower = (_condense(left, right, overlap, dim=-1) for left, right in pairs)  # (B, C, M, L)
        return _condense(upper, lower, overlap, dim=-2)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # noqa: ARG004
        ctx.side = inputs[0].shape[-1]

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        alone = gradient.shape[-1] - ctx.side
        if overlap := ctx.side - alone:
            gradient = gradient.clone()
            gradient.narrow(-1, alone, overlap).mul_(0.5)
            gradient.narrow(-2, alone, overlap).mul_(0.5)
        return torch.stack(_corners(gradient, ctx.side)), None


def _condense(first: Tensor, second: Tensor, overlap: int, dim: int) -> Tensor:
    """Join two tensors along `dim`, averaging the last `overlap` slices of the first with as many of the second."""
    alone = first.shape[dim] - overlap
    shared = (first.narrow(dim, alone, overlap) + second.narrow(dim, 0, overlap)) / 2
    return torch.cat([first.narrow(dim, 0, alone), shared, second.narrow(dim, overlap, alone)], dim)


class _Saturate(torch.autograd.Function):
    """1 where x > threshold, x elsewhere; the gradient passes unchanged."""

    @staticmethod
    def forward(x: Tensor, threshold: float) -> Tensor:
        if torch.compiler.is_compiling():  # the compiler cannot give `lerp` the memory layout it needs
            return torch.where(x > threshold, 1.0, x)
        return torch.lerp(x, x.new_ones(()), exceeds(x, threshold))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        pass

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]  # noqa: ARG004
        return gradient, None


def region_threshold(x: Tensor, threshold: float, signed: bool = False) -> Tensor:
    """Turn the fractions that a dilated recompose leaves into spikes: every value above the threshold becomes 1.

    In the overlap, values are multiples of 1/4: with a threshold below 0.25, one spike of four windows is enough. The
    threshold is less than 1. If spikes are `signed`, every value below minus the threshold becomes -1. The gradient
    passes straight through.

    Raises:
        ValueError: The threshold is not 0 <= threshold < 1.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: expected 0 <= threshold < 1, got {threshold}")
    whole: Tensor = _Saturate.apply(x, threshold)
    return -_Saturate.apply(-whole, threshold) if signed else whole
