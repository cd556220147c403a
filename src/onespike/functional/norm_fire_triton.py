"""The kernels of norm and fire for GPUs, in Triton: those of `kernels.c`, with the same names and arguments.

A program computes one tile of rows (pixels) and channels; where it sums, it takes the tiles of `CHUNK` rows one after
the other. Each program writes its own sums. They are added in double precision and in a fixed order, so the same input
gives the same bits.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from onespike.functional.norm_fire import KINDS

#: Rows that a program sums in `real`; most values of a tile; most channels of a tile.
CHUNK, VALUES, WIDEST = 256, 2048, 64
#: a * b + c is rounded once, as compilers of C do; Triton's default depends on its version.
OPTIONS = {"enable_fp_fusion": True}
RECTANGLE, TRIANGLE = (tl.constexpr(KINDS[name]) for name in ("rectangle", "triangle"))


class TritonKernels:
    """Kernels for one type of tensor, called as those in C are: `kernels("fire", x, rows, …)`."""

    def __init__(self, dtype: torch.dtype) -> None:
        #: The dtype of the arithmetic, and of per-channel values.
        self.real = torch.float64 if dtype == torch.float64 else torch.float32

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a kernel, which writes into its last argument."""
        kind = () if isinstance(arguments[0], Tensor) else arguments[:1]
        *given, out = arguments[len(kind) :]
        x = given[0]
        rows, channels = x.numel() // x.shape[1], x.shape[1]
        # Triton would pass a Python float as float32, whatever the kernel computes in.
        given = [
            torch.full((), one, dtype=self.real, device=x.device) if isinstance(one, float) else one for one in given
        ]
        wide = min(triton.next_power_of_2(channels), WIDEST)
        columns = triton.cdiv(channels, wide)
        tile = min(triton.next_power_of_2(rows), VALUES // wide)
        with torch.cuda.device_of(x):  # x may be on another device than the current one
            if name in SUMS:
                partial = torch.empty(triton.cdiv(rows, CHUNK), *out.shape, dtype=self.real, device=x.device)
                grid, constants = (len(partial), columns), (*kind, CHUNK, min(tile, CHUNK), wide)
                SUMS[name][grid](*given, partial, *constants, **OPTIONS)
                torch.sum(partial, 0, dtype=out.dtype, out=out)
            else:
                MAPS[name][triton.cdiv(rows, tile), columns](*given, out, *kind, tile, wide, **OPTIONS)


@triton.jit
def derivative(distance, kind: tl.constexpr):
    """The surrogate derivative h(d)."""
    if kind == RECTANGLE:
        h = tl.where(tl.abs(distance) < 0.5, 1.0, 0.0)
    elif kind == TRIANGLE:
        slant = 1 - tl.abs(distance)
        h = tl.where(slant > 0, slant, 0.0)
    else:  # a batch norm without neurons
        h = tl.full(distance.shape, 1.0, distance.dtype)
    return h.to(distance.dtype)


@triton.jit
def columns_of(channels, wide: tl.constexpr):
    """This program's channels, (1, wide), and a mask of those that exist."""
    c = (tl.program_id(1) * wide + tl.arange(0, wide))[None, :]
    return c, c < channels


@triton.jit
def rows_from(start, rows, tile: tl.constexpr):
    """Rows of a tile, (tile, 1), and a mask of those that exist."""
    row = (start + tl.arange(0, tile))[:, None]
    return row, row < rows


@triton.jit
def moments(x, rows, channels, pivot, sums, chunk: tl.constexpr, tile: tl.constexpr, wide: tl.constexpr):
    """sums[0] = sum of I - pivot, sums[1] = sum of their squares, for each channel."""
    number = tl.program_id(0).to(tl.int64)
    c, there = columns_of(channels, wide)
    center = tl.load(pivot + c, there, 0.0)
    a = tl.zeros((tile, wide), center.dtype)
    b = tl.zeros((tile, wide), center.dtype)
    for start in range(0, chunk, tile):
        row, inside = rows_from(number * chunk + start, rows, tile)
        current = tl.load(x + row * channels + c, inside & there, 0.0).to(center.dtype)
        d = tl.where(inside & there, current - center, 0.0)
        a += d
        b += d * d
    mine = sums + number * 2 * channels + c
    tl.store(mine, tl.sum(a, 0, keep_dims=True), there)
    tl.store(mine + channels, tl.sum(b, 0, keep_dims=True), there)


@triton.jit
def affine(x, rows, channels, scale, shift, y, tile: tl.constexpr, wide: tl.constexpr):
    """For each channel, y = x * scale + shift."""
    c, there = columns_of(channels, wide)
    row, inside = rows_from(tl.program_id(0).to(tl.int64) * tile, rows, tile)
    factor = tl.load(scale + c, there, 0.0)
    current = tl.load(x + row * channels + c, inside & there, 0.0).to(factor.dtype)
    out = current * factor + tl.load(shift + c, there, 0.0)
    tl.store(y + row * channels + c, out.to(y.dtype.element_ty), inside & there)


@triton.jit
def fire(x, rows, channels, population, limit, s, tile: tl.constexpr, wide: tl.constexpr):
    """s[k] = 1 where x > limit[k], else 0, for the neurons k of each channel."""
    c, there = columns_of(channels, wide)
    row, inside = rows_from(tl.program_id(0).to(tl.int64) * tile, rows, tile)
    current = tl.load(x + row * channels + c, inside & there, 0.0).to(limit.dtype.element_ty)
    for k in range(population):
        n = k * channels + c
        fired = tl.where(current > tl.load(limit + n, there, 0.0), 1.0, 0.0)
        tl.store(s + row * population * channels + n, fired.to(s.dtype.element_ty), inside & there)


@triton.jit
def fire_tied(x, rows, channels, population, limit, s, tile: tl.constexpr, wide: tl.constexpr):
    """For each channel, s = how many of its neurons k fire: those for which x > limit[k]."""
    c, there = columns_of(channels, wide)
    row, inside = rows_from(tl.program_id(0).to(tl.int64) * tile, rows, tile)
    current = tl.load(x + row * channels + c, inside & there, 0.0).to(limit.dtype.element_ty)
    fired = tl.zeros((tile, wide), current.dtype)
    for k in range(population):
        fired += tl.where(current > tl.load(limit + k * channels + c, there, 0.0), 1.0, 0.0).to(fired.dtype)
    tl.store(s + row * channels + c, fired.to(s.dtype.element_ty), inside & there)


@triton.jit
def backward_sums(
    x, gradient, rows, channels, population, apart, mean, scale, limit, width, sums,
    kind: tl.constexpr, chunk: tl.constexpr, tile: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """sums[0][n] = sum of dx[n], sums[1][n] = sum of dx[n] * x, for each neuron n."""
    number = tl.program_id(0).to(tl.int64)
    c, there = columns_of(channels, wide)
    center, share = tl.load(mean + c, there, 0.0), 1 / tl.load(width)
    steep, neurons = tl.load(scale + c, there, 0.0) * share, population * channels
    per_row = channels + (population - 1) * apart
    for k in range(population):
        n = k * channels + c
        threshold = tl.load(limit + n, there, 0.0)
        first = tl.zeros((tile, wide), steep.dtype)
        second = tl.zeros((tile, wide), steep.dtype)
        for start in range(0, chunk, tile):
            row, inside = rows_from(number * chunk + start, rows, tile)
            current = tl.load(x + row * channels + c, inside & there, 0.0).to(steep.dtype)
            upstream = tl.load(gradient + row * per_row + k * apart + c, inside & there, 0.0).to(steep.dtype)
            dx = upstream * derivative((current - threshold) * steep, kind)
            first += dx
            second += dx * (current - center)
        mine = sums + number * 2 * neurons + n
        tl.store(mine, tl.sum(first, 0, keep_dims=True) * share, there)
        tl.store(mine + neurons, tl.sum(second, 0, keep_dims=True) * steep, there)


@triton.jit
def backward_currents(
    x, gradient, rows, channels, population, apart, mean, scale, limit, width, factor, offset, slope, out,
    kind: tl.constexpr, tile: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    """For each channel, dI = factor * (dx - offset - x * slope)."""
    c, there = columns_of(channels, wide)
    row, inside = rows_from(tl.program_id(0).to(tl.int64) * tile, rows, tile)
    per_deviation, share = tl.load(scale + c, there, 0.0), 1 / tl.load(width)
    current = tl.load(x + row * channels + c, inside & there, 0.0).to(per_deviation.dtype)
    dx = tl.zeros((tile, wide), per_deviation.dtype)
    per_row = channels + (population - 1) * apart
    for k in range(population):
        n = k * channels + c
        distance = (current - tl.load(limit + n, there, 0.0)) * (per_deviation * share)
        upstream = tl.load(gradient + row * per_row + k * apart + c, inside & there, 0.0).to(dx.dtype)
        dx += upstream * derivative(distance, kind)
    normalised = (current - tl.load(mean + c, there, 0.0)) * per_deviation
    others = tl.load(offset + c, there, 0.0) + normalised * tl.load(slope + c, there, 0.0)
    of_current = tl.load(factor + c, there, 0.0) * (dx * share - others)
    tl.store(out + row * channels + c, of_current.to(out.dtype.element_ty), inside & there)


SUMS = {"moments": moments, "backward_sums": backward_sums}
MAPS = {"affine": affine, "fire": fire, "fire_tied": fire_tied, "backward_currents": backward_currents}
