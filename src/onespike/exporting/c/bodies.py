"""How C computes a pixel of a map, for each kind of map.

Lines fill `out` with the channels of pixel `p`, or with the words of its bits. What they read is stored, or `v` is
computed where it is read.
"""

import math

import torch
from torch import Tensor

from onespike.errors import OnespikeError
from onespike.exporting.c.memory import Memory
from onespike.exporting.c.text import TYPES, literal
from onespike.exporting.lowering.maps import (
    Collect,
    Conv,
    Fire,
    Function,
    Map,
    Matmul,
    PixelConv,
    Pool,
    Product,
    Read,
    Sum,
    Wave,
)
from onespike.exporting.rewriting import own_channels

#: A map of more parts than this has a table, with a place for each element.
FEW = 16
#: Functions of <math.h> by name; others are kernels.
MATH = {name: f"{name}f" for name in ("sin", "cos", "exp", "tanh", "ceil", "floor")}


class Bodies(Memory):
    """Writes the body of each map's function."""

    def _body(self, one: Map) -> list[str]:
        """The lines for a map, by the method that has the name of its kind."""
        written: list[str] = getattr(self, f"_body_{type(one).__name__.lower()}")(one)
        return written

    def _body_conv(self, one: Conv) -> list[str]:
        window = self._window(one)
        of_spikes, kind = one.source.kind == "bits", "float" if one.kind == "f32" else "int8_t"
        own = own_channels(one.weight.permute(3, 2, 0, 1).numpy()) if of_spikes else one.source.channels
        rows, first = rows_of(one.weight[:, :, :own])
        starts = self._table(first, "uint16_t") if first.any() else "0"
        weights = f"{self._table(rows, kind)}, {rows.shape[3]}, {starts}" + (f", {own}" if of_spikes else "")
        kernel = "conv_bits_f32" if of_spikes and one.kind == "f32" else f"conv_{one.source.kind}"
        return [f"{kernel}(&{window}, {weights}, {self._at(one.source)}, p, out);"]

    def _body_pixelconv(self, one: PixelConv) -> list[str]:
        window = self._window(one)
        weights = self._table(one.weight, "int8_t")
        groups = torch.zeros(one.source.channels, dtype=torch.int64)
        for number, channels in enumerate(one.groups):
            groups[channels] = number
        group, factors = self._table(groups, "uint8_t"), self._table(one.factors, "int64_t")
        tables = f"{weights}, {group}, {len(one.groups)}, {factors}, {self._table(one.taps, 'int64_t')}"
        return [f"int32_t sums[{one.channels}];", f"conv_pixels(&{window}, {tables}, image, p, sums, out);"]

    def _fetch(self, of: Map, pixel: str, spaces: str = "") -> list[str]:
        """Make `v` the values of a pixel."""
        if of.kind == "u8":
            return [f"{spaces}const uint8_t *v = image + ({pixel}) * {of.channels};"]
        if of.kind == "bits":
            at = f"{self._at(of)} + ({pixel}) * {of.width}"
            return [f"{spaces}int32_t v[{of.channels}];", f"{spaces}unpack({at}, {of.channels}, v);"]
        if of in self._stored:
            return [f"{spaces}const {TYPES[of.kind]} *v = {self._at(of)} + ({pixel}) * {of.channels};"]
        call = f"{spaces}map{self._names[of]}(image, {pixel}, v);"
        return [f"{spaces}{TYPES[of.kind]} v[{of.channels}];", call]

    def _pixel(self, read: Read, pixel: str) -> str:
        """Which pixel of a map is read."""
        if read.pixels is None:
            return pixel
        ahead = int(read.pixels[0])
        if torch.equal(read.pixels, torch.arange(len(read.pixels)) + ahead):
            return f"{pixel} + {ahead}" if ahead else pixel
        return f"{self._table(read.pixels)}[{pixel}]"

    def _body_pool(self, one: Pool) -> list[str]:
        of = one.read.map
        window = self._window(one)
        count, columns = math.prod(one.geometry.kernel), one.geometry.kernel[1]
        place = f"    int q = tap(&{window}, p, t / {columns}, t % {columns});"
        loop = [f"for (int t = 0; t < {count}; t++) {{", place, "    if (q < 0)", "        continue;"]
        pixel = self._pixel(one.read, "q")
        if one.kind == "bits":
            each, word = f"for (int i = 0; i < {one.width}; i++)", f"({self._at(of)})[({pixel}) * {of.width} + i]"
            return [each, "    out[i] = 0;", *loop, f"    {each}", f"        out[i] |= {word};", "}"]
        add = "out[c] = v[c] > out[c] ? v[c] : out[c];" if one.largest else "out[c] += v[c];"
        start = {"i32": "INT32_MIN", "i64": "INT64_MIN", "f32": "-3.402823466e+38f"}[one.kind] if one.largest else "0"
        inside = [*self._fetch(of, pixel, "    "), f"    {_each(one)}", f"        {add}"]
        return [_each(one), f"    out[c] = {start};", *loop, *inside, "}"]

    def _body_sum(self, one: Sum) -> list[str]:
        kind = TYPES[one.kind]
        constant = f"{self._table(one.constant, kind)}[c]" if one.constant.any() else "0"
        lines = [_each(one), f"    out[c] = {constant};"]
        for term in one.terms:
            read, factors, chosen = term.read, term.factors, term.read.channels
            lines += ["{", *self._fetch(read.map, self._pixel(read, "p"), "    ")]
            used = torch.nonzero(chosen >= 0).flatten()
            start, stop = int(used[0]), int(used[-1]) + 1
            factors, chosen = factors[start:stop], chosen[start:stop]
            factors, chosen = torch.where(chosen >= 0, factors, 0), chosen.clamp(min=0)  # no channel: times 0
            ahead = int(chosen[0]) - start
            plain = torch.equal(chosen, torch.arange(len(chosen)) + int(chosen[0]))
            place = ("c" if not ahead else f"c + {ahead}") if plain else f"{self._table(chosen)}[c - {start}]"
            alike = len(factors.unique()) == 1
            at = f"c - {start}" if start else "c"
            factor = literal(factors[0].item(), kind) if alike else f"{self._table(factors, kind)}[{at}]"
            product = f"{factor} * v[{place}]"
            if term.drop and alike and abs(int(factors[0])) == 1:
                product = f"{product} / {literal(2**term.drop, 'int64_t')}"
            elif term.drop:
                product = f"scaled(v[{place}], {factor}, {term.drop})"
            lines += [f"    for (int c = {start}; c < {stop}; c++)", f"        out[c] += {product};", "}"]
        if one.rectified:
            lines += [_each(one), "    out[c] = out[c] > 0 ? out[c] : 0;"]
        if one.drop:
            lines += [_each(one), f"    out[c] /= {literal(2**one.drop, 'int64_t')};"]
        return lines

    def _body_wave(self, one: Wave) -> list[str]:
        quarter = " + ((uint64_t)1 << 62)" if one.cosine else ""
        turn = f"((uint64_t)v[c] << {64 - one.fraction}){quarter}"
        return [*self._fetch(one.source, "p"), _each(one), f"    out[c] = sine({turn});"]

    def _body_product(self, one: Product) -> list[str]:
        first, second = one.factors
        fixed = first.map.kind == second.map.kind == "i64"
        lines = []
        for read, text in ((first, "{v}"), (second, "times(out[c], {v})" if fixed else "out[c] * {v}")):
            plain = torch.equal(read.channels, torch.arange(one.channels))
            place = "c" if plain else f"{self._table(read.channels)}[c]"
            lines += ["{", *self._fetch(read.map, self._pixel(read, "p"), "    "), f"    {_each(one)}"]
            lines += [f"        out[c] = {text.format(v=f'v[{place}]')};", "}"]
        return lines

    def _body_function(self, one: Function) -> list[str]:
        arguments = ", ".join(["v[c]", *(literal(value, "float") for value in one.arguments)])
        return [*self._fetch(one.source, "p"), _each(one), f"    out[c] = {MATH.get(one.name, one.name)}({arguments});"]

    def _body_matmul(self, one: Matmul) -> list[str]:
        (left, right), depth = one.factors, one.factors[0].channels
        row = f"{self._at(right)} + (p / {one.rows} * {one.channels} + c) * {depth}"
        return [_each(one), f"    out[c] = dot({self._at(left)} + p * {depth}, {row}, {depth});"]

    def _body_fire(self, one: Fire) -> list[str]:
        kind = one.source.kind if one.source.kind in ("i64", "f32") else "i32"
        if one.source.channels > 2**16:
            raise OnespikeError(f"c: expected at most 65,536 channels, got {one.source.channels:,} before {one.layer}")
        inverted = torch.zeros(32 * one.width, dtype=torch.int64)
        inverted[: one.channels] = one.inverted.long()
        words = (inverted.view(-1, 32) << torch.arange(32)).sum(1)
        chosen, thresholds = self._table(one.chosen, "uint16_t"), self._table(one.thresholds, TYPES[kind])
        tables = f"{chosen}, {thresholds}, {self._table(words, 'uint32_t')}"
        return [*self._fetch(one.source, "p"), f"fire_{kind}(v, {tables}, {one.channels}, out);"]

    def _gather(self, one: Collect, of: Map) -> list[str]:
        """Fetch each element of a map from its own place in another, such as a transposed one."""
        bits = one.kind == "bits"
        table = torch.zeros(one.pixels, one.channels, dtype=torch.int64)  # 0 is none
        for part in one.parts:
            places = part.pixels[:, None] * (32 * of.width if bits else of.channels) + part.channels
            table[part.to_pixels[:, None], part.to_channels] = 1 + places
        loop = f"for (int i = 0; i < {one.channels}; i++) {{"
        lines = [loop, f"    int q = (int){self._table(table)}[p * {one.channels} + i] - 1;", "    if (q >= 0)"]
        if bits:
            return [*lines, f"        put(out, i, {self._at(of)}, q);", "}"]
        return [*lines, f"        out[i] = ({self._at(of)})[q];", "}"]

    def _body_collect(self, one: Collect) -> list[str]:
        bits = one.kind == "bits"
        lines = [f"for (int i = 0; i < {one.width}; i++)", "    out[i] = 0;"]
        if len(one.parts) > FEW and len({part.map for part in one.parts}) == 1:
            return [*lines, *self._gather(one, one.parts[0].map)]
        for part in one.parts:
            # The table has 0 for a pixel that is not in this part, else one more than its number.
            table = torch.zeros(one.pixels, dtype=torch.int64)
            table[part.to_pixels] = part.pixels + 1
            whole = torch.equal(part.to_channels, torch.arange(one.channels)) and part.map.channels == one.channels
            whole = whole and torch.equal(part.channels, part.to_channels)
            at, size = self._at(part.map), part.map.width
            lines += ["{", f"    int q = {self._table(table)}[p] - 1;"]
            if whole:
                count, copy = size, f"out[i] = ({at})[q * {size} + i];"
            else:
                to, taken, count = self._table(part.to_channels), self._table(part.channels), len(part.channels)
                copy = f"out[{to}[i]] = ({at})[q * {size} + {taken}[i]];"
                if bits:
                    copy = f"put(out, {to}[i], {at} + q * {size}, {taken}[i]);"
            lines += [f"    for (int i = 0; q >= 0 && i < {count}; i++)", f"        {copy}", "}"]
        return lines


def _each(one: Map) -> str:
    return f"for (int c = 0; c < {one.channels}; c++)"


def rows_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (kh, kw, C_in, C_out) without the zeros of other groups: (kh, kw, C_in, reach), and the first C_out."""
    channels = torch.arange(weight.shape[3])
    used = (weight != 0).any(0).any(0)
    first = torch.where(used, channels, len(channels)).amin(1)
    reach = max(1, int((torch.where(used, channels, -1).amax(1) + 1 - first).max()))
    if (len(channels) - reach) * weight.shape[0] * weight.shape[1] <= 2:  # no shorter than the table of the first ones
        return weight, torch.zeros_like(first)
    first = first.clamp(max=len(channels) - reach)
    places = first[:, None] + torch.arange(reach)
    return weight.gather(3, places.expand(*weight.shape[:2], -1, -1)), first
