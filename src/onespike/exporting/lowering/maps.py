"""A network in numbers: maps of N x H x W pixels and C channels, and how each is computed from others.

    Pixels       the image, bytes
    Conv         sums of weights
    PixelConv    the first layer, on bytes
    Pool         sums or maxima of some pixels
    Sum          sums of values times factors
    Wave         sines and cosines
    Product      products, element by element
    Fire         bits: 1 where a number exceeds a threshold
    Collect      pixels and channels of other maps, put together

in integers: weights of 8 bits, fixed-point numbers of 64; or in real numbers (`kind` f32), which also have

    Function     a function of one number
    Matmul       products of matrices

A linear layer is a convolution, of one pixel or of the whole map. Elements are numbered over all maps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False, kw_only=True)
class Map:
    """A map of numbers."""

    shape: tuple[int, int, int, int]  # N, H, W, C
    kind: str
    bound: int = 0  # no value is larger, with either sign; 0 for real numbers
    layer: str = ""  # the path of the module that makes it
    image: bool = False  # linear in the image: the first layers may read it
    offset: int = 0  # number of its first element

    @property
    def pixels(self) -> int:
        """N * H * W."""
        return math.prod(self.shape[:3])

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[3]

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def width(self) -> int:
        """Numbers in memory for a pixel: one for each channel; of bits, a word for 32 channels."""
        return -(-self.channels // 32) if self.kind == "bits" else self.channels

    def holds(self, index: Tensor) -> Tensor:
        """Which elements of an index are its own."""
        return (index >= self.offset) & (index < self.offset + self.size)

    def reads(self) -> "list[Map]":
        """The maps that it is computed from: those in its fields."""
        found = []
        for value in vars(self).values():
            for one in value if isinstance(value, list | tuple) else (value,):
                one = one.read if isinstance(one, Term) else one
                one = one.map if isinstance(one, Read | Part) else one
                if isinstance(one, Map):
                    found.append(one)
        return found


@dataclass(eq=False)
class Read:
    """Pixels and channels that one map reads of another."""

    map: Map
    channels: Tensor  # which, (C,); -1 for none
    pixels: Tensor | None = None  # which, (P,); None: the same ones


@dataclass(eq=False, kw_only=True)
class Pixels(Map):
    """The image."""


@dataclass(frozen=True)
class Geometry:
    """Where windows are: (kernel, stride, padding, dilation), rows and columns each."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    def sides(self, sizes: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the output, for an input of `sizes`."""
        axes = zip(sizes, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        rows, columns = ((size + 2 * pad - dilation * (k - 1) - 1) // step + 1 for size, k, step, pad, dilation in axes)
        return rows, columns

    @property
    def overlaps(self) -> bool:
        """Whether a pixel lies in several windows."""
        return any(k > s for k, s in zip(self.kernel, self.stride, strict=True))


@dataclass(eq=False, kw_only=True)
class Conv(Map):
    """Sums of the weights (kh, kw, C_in, C_out) where a bit is set; for numbers, sums of products."""

    source: Map
    sides: tuple[int, int, int]  # N, H, W of its input
    weight: Tensor
    geometry: Geometry


@dataclass(eq=False, kw_only=True)
class PixelConv(Conv):
    """A convolution of the image as the network normalises it, in fixed-point numbers.

        sum over groups g of factor[g] * (weights * pixels of g)  +  sum over the taps inside the image of taps

    Channels of the same deviation are a group. The taps, (kh * kw, C_out), carry the mean, which padding does not have.
    """

    groups: list[Tensor]  # channels of each
    factors: Tensor  # (G, C_out)
    taps: Tensor


@dataclass(eq=False, kw_only=True)
class Pool(Map):
    """The sum or the maximum of the pixels in a window of a map (N, H, W), whose pixels are read in some order."""

    read: Read
    sides: tuple[int, int, int]
    geometry: Geometry
    largest: bool


@dataclass(eq=False)
class Term:
    """A term of a sum: values times factors (C,), divided by 2^drop, towards 0."""

    read: Read
    factors: Tensor
    drop: int = 0


@dataclass(eq=False, kw_only=True)
class Sum(Map):
    """The sum of constants (C,) and of terms, divided by 2^drop, towards 0; where it is `rectified`, at least 0."""

    terms: list[Term]
    constant: Tensor
    drop: int = 0
    rectified: bool = False


@dataclass(eq=False, kw_only=True)
class Wave(Map):
    """Sines, or cosines, of a map of turns with `fraction` fractional bits; 2^60 stands for 1."""

    source: Map
    fraction: int
    cosine: bool


@dataclass(eq=False, kw_only=True)
class Product(Map):
    """Products of two maps, element by element; of two fixed-point numbers divided by 2^60."""

    factors: tuple[Read, Read]


@dataclass(eq=False, kw_only=True)
class Function(Map):
    """A function of one real number, and of constants, element by element."""

    source: Map
    name: str
    arguments: tuple[float, ...]


@dataclass(eq=False, kw_only=True)
class Matmul(Map):
    """Products of matrices: for each of them (M, K) times (N, K), both stored row by row, to M = `rows` pixels of N."""

    factors: tuple[Map, Map]
    rows: int


@dataclass(eq=False, kw_only=True)
class Fire(Map):
    """1 where the value of a channel exceeds a threshold (C,), else 0; the other way round where it is inverted."""

    kind: str = "bits"
    bound: int = 1
    source: Map
    chosen: Tensor  # channels of the source
    thresholds: Tensor
    inverted: Tensor


@dataclass(eq=False)
class Part:
    """Some pixels and channels of a map, and where they go."""

    map: Map
    to_pixels: Tensor
    pixels: Tensor
    to_channels: Tensor
    channels: Tensor


@dataclass(eq=False, kw_only=True)
class Collect(Map):
    """Parts of other maps, and zeros."""

    parts: list[Part]


def needed(maps: list[Map]) -> list[Map]:
    """The maps that the last one needs, itself included, in the order of computation."""
    found = {maps[-1]}
    for one in reversed(maps):
        if one in found:
            found.update(one.reads())
    return [one for one in maps if one in found]


def largest_sum(weight: Tensor) -> int:
    """The largest sum of weights (kh, kw, C_in, C_out) that an output channel can have, with either sign."""
    return int(weight.abs().long().sum((0, 1, 2)).max())


def whole(values: Tensor) -> Tensor:
    """Real values as whole numbers of 64 bits."""
    return torch.round(values.double()).to(torch.int64)
