"""From maps of numbers to C99: one static array of memory, constant tables, one function for each map.

A map that is read once, pixel by pixel, is computed where it is read; others, and all spikes, are stored. What is
stored shares memory with what is not needed any more.
"""

import math
from dataclasses import dataclass

import torch

from onespike.exporting.c.memory import Memory
from onespike.exporting.c.text import TYPES, kernel_texts, literal
from onespike.exporting.lowering.maps import (
    Collect,
    Conv,
    Fire,
    Function,
    Map,
    Matmul,
    PixelConv,
    Pixels,
    Pool,
    Product,
    Read,
    Sum,
    Wave,
)

#: The type of the class scores, by the kind of the last map.
SCORES = {"i64": "int32_t", "f32": "float"}
#: Parts of a map that is put together, above which each element has its own place in a table.
FEW = 16
#: Products of two numbers in a sine.
SINE = 21
#: Functions of <math.h> by name; others are kernels.
MATH = {name: f"{name}f" for name in ("sin", "cos", "exp", "tanh", "ceil", "floor")}


@dataclass(frozen=True)
class Program:
    """C, and what it takes."""

    code: str  # model.c
    flash: int  # bytes of constants
    ram: int  # bytes of static memory
    stack: int  # bytes of local arrays, at most
    additions: int  # of weights where spikes are; so many at most, if all neurons fired
    products: int  # multiplications of whole numbers: first layers, fixed-point sums
    spikes: list[Map]  # the maps of bits, by the number that the program calls them by


class Writer(Memory):
    """Writes a program; `maps` in the order in which they follow, the last one the class scores."""

    def program(self) -> Program:
        """Write it."""
        functions = "\n".join(self._function(one) for one in self._maps if not isinstance(one, Pixels))
        scores, steps = self._maps[-1], []
        for one in self._stored:
            steps.append(f"    /* {one.layer} */")
            steps += [f"    fill{self._names[one]}(image);"]
            if one.kind == "bits":
                steps.append(f"    MODEL_SPIKES({self._names[one]}, {self._at(one)}, {one.pixels * one.words});")
        kind, number = TYPES[scores.kind], SCORES[scores.kind]
        run = [
            f"int model_run(const uint8_t *image, {number} *scores)",
            "{",
            f"    {kind} v[{scores.channels}];",
            "    int best = 0;",
            *steps,
            f"    map{self._names[scores]}(image, 0, v);",
            f"    for (int k = 0; k < {scores.channels}; k++) {{",
            f"        scores[k] = ({number})v[k];",
            "        if (v[k] > v[best])",
            "            best = k;",
            "    }",
            "    return best;",
            "}",
        ]
        kernels = kernel_texts(self._kernels)
        memory = f"static uint64_t memory[{max(1, self._ram // 8)}];"
        includes = ["#include <math.h>"] if any(isinstance(one, Function) for one in self._maps) else []
        parts = [*includes, *kernels, memory, "\n".join(self._tables), functions, "\n".join(run)]
        convolutions = [one for one in self._maps if isinstance(one, Conv)]
        additions = sum(_products(one) for one in convolutions if one.source.kind == "bits")
        products = sum(_products(one) for one in convolutions if one.source.kind != "bits")
        products += sum(one.size * len(one.terms) for one in self._maps if isinstance(one, Sum))
        products += sum(one.size for one in self._maps if isinstance(one, Product))
        products += sum(SINE * one.size for one in self._maps if isinstance(one, Wave))
        products += sum(one.size * one.factors[0].channels for one in self._maps if isinstance(one, Matmul))
        stack = max(self._stack(one) for one in [*self._stored, scores])
        spikes = [one for one in self._stored if one.kind == "bits"]
        self.numbers = {one: self._names[one] for one in spikes}
        return Program("\n\n".join(parts) + "\n", self._flash, self._ram, stack, additions, products, spikes)

    # Functions.

    def _function(self, one: Map) -> str:
        """What computes a pixel of a map; and, if it is stored, all pixels."""
        body = self._body(one)
        kind = TYPES[one.kind]
        unused = "" if any("image" in line for line in body) else "    (void)image;\n"
        head = f"static void map{self._names[one]}(const uint8_t *image, int p, {kind} *out)"
        text = f"/* {one.layer}: {type(one).__name__.lower()}, {' x '.join(map(str, one.shape))} */\n"
        text += f"{head}\n{{\n{unused}" + "".join(f"    {line}\n" for line in body) + "}\n"
        if one in self._stored:
            each = one.words if one.kind == "bits" else one.channels
            text += f"\nstatic void fill{self._names[one]}(const uint8_t *image)\n{{\n"
            text += f"    for (int p = 0; p < {one.pixels}; p++)\n"
            text += f"        map{self._names[one]}(image, p, {self._at(one)} + p * {each});\n}}\n"
        return text

    def _body(self, one: Map) -> list[str]:
        if isinstance(one, Conv):
            return self._conv(one)
        if isinstance(one, Pool):
            return self._pool(one)
        if isinstance(one, Sum):
            return self._sum(one)
        if isinstance(one, Fire):
            return self._fire(one)
        if isinstance(one, Wave):
            return self._wave(one)
        if isinstance(one, Product):
            return self._product(one)
        if isinstance(one, Function):
            return self._apply(one)
        if isinstance(one, Matmul):
            return self._matmul(one)
        assert isinstance(one, Collect)
        return self._collect(one)

    def _conv(self, one: Conv) -> list[str]:
        window = self._window(one, one.geometry, one.sides, one.source.channels)
        weights = self._table(one.weight, "float" if one.kind == "f32" else "int8_t")
        if isinstance(one, PixelConv):
            self._kernels.add("conv_pixels")
            group = torch.zeros(one.source.channels, dtype=torch.int64)
            for number, channels in enumerate(one.groups):
                group[channels] = number
            tables = (
                self._table(group, "uint8_t"),
                self._table(one.factors, "int64_t"),
                self._table(one.taps, "int64_t"),
            )
            arguments = f"{tables[0]}, {len(one.groups)}, {tables[1]}, {tables[2]}"
            return [
                f"int32_t sums[{one.channels}];",
                f"conv_pixels(&{window}, {weights}, {arguments}, image, p, sums, out);",
            ]
        kernel = "conv_bits_f32" if (one.source.kind, one.kind) == ("bits", "f32") else f"conv_{one.source.kind}"
        self._kernels.add(kernel)
        source = "image" if one.source.kind == "u8" else self._at(one.source)
        return [f"{kernel}(&{window}, {weights}, {source}, p, out);"]

    def _fetch(self, of: Map, pixel: str, spaces: str = "") -> list[str]:
        """Make `v` the values of a pixel."""
        if of.kind == "u8":
            return [f"{spaces}const uint8_t *v = image + ({pixel}) * {of.channels};"]
        if of.kind == "bits":
            self._kernels.add("unpack")
            at = f"{self._at(of)} + ({pixel}) * {of.words}"
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

    def _pool(self, one: Pool) -> list[str]:
        self._kernels.add("tap")
        of = one.read.map
        window = self._window(one, one.geometry, one.sides, of.channels)
        count = math.prod(one.geometry.kernel)
        loop = [
            f"for (int t = 0; t < {count}; t++) {{",
            f"    int q = tap(&{window}, p, t / {one.geometry.kernel[1]}, t % {one.geometry.kernel[1]});",
            "    if (q < 0)",
            "        continue;",
        ]
        pixel = self._pixel(one.read, "q")
        if one.kind == "bits":
            return [
                f"for (int i = 0; i < {one.words}; i++)",
                "    out[i] = 0;",
                *loop,
                f"    for (int i = 0; i < {one.words}; i++)",
                f"        out[i] |= ({self._at(of)})[({pixel}) * {of.words} + i];",
                "}",
            ]
        add = "out[c] = v[c] > out[c] ? v[c] : out[c];" if one.largest else "out[c] += v[c];"
        start = {"i32": "INT32_MIN", "i64": "INT64_MIN", "f32": "-3.402823466e+38f"}[one.kind] if one.largest else "0"
        each = f"for (int c = 0; c < {one.channels}; c++)"
        return [
            each,
            f"    out[c] = {start};",
            *loop,
            *self._fetch(of, pixel, "    "),
            f"    {each}",
            f"        {add}",
            "}",
        ]

    def _sum(self, one: Sum) -> list[str]:
        each = f"for (int c = 0; c < {one.channels}; c++)"
        kind = TYPES[one.kind]
        constant = f"{self._table(one.constant, kind)}[c]" if one.constant.any() else "0"
        lines = [each, f"    out[c] = {constant};"]
        for term in one.terms:
            read, factors = term.read, term.factors
            lines += ["{", *self._fetch(read.map, self._pixel(read, "p"), "    ")]
            chosen = torch.arange(one.channels) if read.channels is None else read.channels
            used = torch.nonzero(chosen >= 0).flatten()
            start, stop = int(used[0]), int(used[-1]) + 1
            inner = f"    for (int c = {start}; c < {stop}; c++)"
            if len(used) != stop - start:  # what is not read is read with the factor 0
                factors = torch.where(chosen >= 0, factors, 0)
                chosen = chosen.clamp(min=0)
            factors, chosen = factors[start:stop], chosen[start:stop]
            ahead = int(chosen[0]) - start
            plain = torch.equal(chosen, torch.arange(len(chosen)) + int(chosen[0]))
            place = ("c" if not ahead else f"c + {ahead}") if plain else f"{self._table(chosen)}[c - {start}]"
            alike = len(factors.unique()) == 1
            name = None if alike else self._table(factors, kind)
            factor = literal(factors[0].item(), kind) if alike else f"{name}[c{f' - {start}' if start else ''}]"
            product = f"{factor} * v[{place}]"
            if term.drop and alike and abs(int(factors[0])) == 1:
                product = f"{product} / {literal(2**term.drop, 'int64_t')}"
            elif term.drop:
                self._kernels.add("scaled")
                product = f"scaled(v[{place}], {factor}, {term.drop})"
            lines += [inner, f"        out[c] += {product};", "}"]
        if one.rectified:
            lines += [each, "    out[c] = out[c] > 0 ? out[c] : 0;"]
        if one.drop:
            lines += [each, f"    out[c] /= {literal(2**one.drop, 'int64_t')};"]
        return lines

    def _wave(self, one: Wave) -> list[str]:
        self._kernels.add("sine")
        quarter = " + ((uint64_t)1 << 62)" if one.cosine else ""
        each = f"for (int c = 0; c < {one.channels}; c++)"
        turn = f"((uint64_t)v[c] << {64 - one.fraction}){quarter}"
        return [*self._fetch(one.source, "p"), each, f"    out[c] = sine({turn});"]

    def _product(self, one: Product) -> list[str]:
        first, second = one.factors
        fixed = first.map.kind == second.map.kind == "i64"
        if fixed:
            self._kernels.add("times")
        each = f"for (int c = 0; c < {one.channels}; c++)"
        lines = []
        for read, text in ((first, "{v}"), (second, "times(out[c], {v})" if fixed else "out[c] * {v}")):
            chosen = read.channels
            plain = chosen is None or torch.equal(chosen, torch.arange(one.channels))
            place = "c" if plain or chosen is None else f"{self._table(chosen)}[c]"
            lines += ["{", *self._fetch(read.map, self._pixel(read, "p"), "    "), f"    {each}"]
            lines += [f"        out[c] = {text.format(v=f'v[{place}]')};", "}"]
        return lines

    def _apply(self, one: Function) -> list[str]:
        if one.name not in MATH:
            self._kernels.add(one.name)
        each = f"for (int c = 0; c < {one.channels}; c++)"
        return [*self._fetch(one.source, "p"), each, f"    out[c] = {MATH.get(one.name, one.name)}(v[c]);"]

    def _matmul(self, one: Matmul) -> list[str]:
        self._kernels.add("dot")
        (left, right), depth = one.factors, one.factors[0].channels
        row = f"{self._at(right)} + (p / {one.rows} * {one.channels} + c) * {depth}"
        each = f"for (int c = 0; c < {one.channels}; c++)"
        return [each, f"    out[c] = dot({self._at(left)} + p * {depth}, {row}, {depth});"]

    def _fire(self, one: Fire) -> list[str]:
        kind = one.source.kind if one.source.kind in ("i64", "f32") else "i32"
        self._kernels.add(f"fire_{kind}")
        inverted = torch.zeros(32 * one.words, dtype=torch.int64)
        inverted[: one.channels] = one.inverted.long()
        words = (inverted.view(-1, 32) << torch.arange(32)).sum(1)
        tables = (
            self._table(one.chosen, "uint16_t"),
            self._table(one.thresholds, TYPES[kind]),
            self._table(words, "uint32_t"),
        )
        fetch = self._fetch(one.source, "p")
        return [*fetch, f"fire_{kind}(v, {', '.join(tables)}, {one.channels}, out);"]

    def _gather(self, one: Collect, of: Map) -> list[str]:
        """Fetch each element of a map from its own place in another, such as of one that is turned."""
        bits = one.kind == "bits"
        table = torch.zeros(one.pixels, one.channels, dtype=torch.int64)  # 0 is none
        for part in one.parts:
            places = part.pixels[:, None] * (32 * of.words if bits else of.channels) + part.channels
            table[part.to_pixels[:, None], part.to_channels] = 1 + places
        loop = f"for (int i = 0; i < {one.channels}; i++) {{"
        lines = [loop, f"    int q = (int){self._table(table)}[p * {one.channels} + i] - 1;", "    if (q >= 0)"]
        if bits:
            self._kernels.add("put")
            return [*lines, f"        put(out, i, {self._at(of)}, q);", "}"]
        return [*lines, f"        out[i] = ({self._at(of)})[q];", "}"]

    def _collect(self, one: Collect) -> list[str]:
        bits = one.kind == "bits"
        lines = [f"for (int i = 0; i < {one.words if bits else one.channels}; i++)", "    out[i] = 0;"]
        if len(one.parts) > FEW and len({part.map for part in one.parts}) == 1:
            return [*lines, *self._gather(one, one.parts[0].map)]
        for part in one.parts:
            # Of a pixel that is not in this part the table says 0, of others one more than its number.
            table = torch.zeros(one.pixels, dtype=torch.int64)
            table[part.to_pixels] = part.pixels + 1
            whole = torch.equal(part.to_channels, torch.arange(one.channels)) and part.map.channels == one.channels
            whole = whole and torch.equal(part.channels, part.to_channels)
            at, size = self._at(part.map), part.map.words if bits else part.map.channels
            lines += ["{", f"    int q = {self._table(table)}[p] - 1;"]
            if whole:
                loop = f"    for (int i = 0; q >= 0 && i < {size}; i++)"
                lines += [loop, f"        out[i] = ({at})[q * {size} + i];", "}"]
                continue
            places = self._table(part.to_channels), self._table(part.channels)
            lines.append(f"    for (int i = 0; q >= 0 && i < {len(part.channels)}; i++)")
            if bits:
                self._kernels.add("put")
                lines.append(f"        put(out, {places[0]}[i], {at} + q * {size}, {places[1]}[i]);")
            else:
                lines.append(f"        out[{places[0]}[i]] = ({at})[q * {size} + {places[1]}[i]];")
            lines.append("}")
        return lines


def _products(one: Conv) -> int:
    return one.pixels * one.weight.numel()
