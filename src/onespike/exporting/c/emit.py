"""From maps of numbers to C99: one static array of memory, constant tables, one function for each map.

A map of which each pixel is read once is computed where it is read; others, and all spikes, are stored. Stored maps
share memory with maps that are not needed any more.
"""

from dataclasses import dataclass

from onespike.errors import OnespikeError
from onespike.exporting.c.bodies import Bodies, rows_of
from onespike.exporting.c.text import TYPES, comment, kernels_for
from onespike.exporting.lowering.maps import Conv, Function, Map, Matmul, PixelConv, Pixels, Product, Sum, Wave

#: The type of the class scores, by the kind of the last map.
SCORES = {"i64": "int32_t", "f32": "float"}
#: Multiplications in a sine.
SINE = 21


@dataclass(frozen=True)
class Program:
    """A C program, and what it needs."""

    code: str  # model.c
    flash: int  # bytes of constants
    ram: int  # bytes of static memory
    stack: int  # bytes of local arrays, at most
    additions: int  # of weights, at spikes; this many if all neurons fired
    products: int  # multiplications of numbers, in first layers and fixed-point sums; this many if none were 0
    spikes: list[Map]  # the maps of bits, in the order in which they are made


class Writer(Bodies):
    """Writes a program; `maps` are in the order of computation, the last one is the class scores."""

    def program(self) -> Program:
        """Write it."""
        functions = "\n".join(self._function(one) for one in self._maps if not isinstance(one, Pixels))
        scores, steps = self._maps[-1], []
        for one in self._stored:
            steps.append(f"    /* {comment(one.layer)} */")
            steps += [f"    fill{self._names[one]}(image);"]
            if one.kind == "bits":
                steps.append(f"    MODEL_SPIKES({self._names[one]}, {self._at(one)}, {one.pixels * one.width});")
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
        words = max(1, self._ram // 8)
        views = ("i64", 1), ("i32", 2), ("bits", 2), ("f32", 2)
        memory = "".join(f"    {TYPES[kind]} {kind}[{n * words}];\n" for kind, n in views)
        parts = ["#include <math.h>"] if any(isinstance(one, Function) for one in self._maps) else []
        parts += kernels_for(functions)
        parts += [f"static union {{\n{memory}}} memory;"] if self._stored else []
        parts += ["\n".join(self._tables), functions, "\n".join(run)]
        additions = sum(_products(one) for one in self._maps if isinstance(one, Conv) and one.source.kind == "bits")
        products = sum(map(_products, self._maps)) - additions
        stack = self._local(scores) + max(self._stack(one) for one in [*self._stored, scores])
        spikes = [one for one in self._stored if one.kind == "bits"]
        return Program("\n\n".join(parts) + "\n", self._flash, self._ram, stack, additions, products, spikes)

    def _function(self, one: Map) -> str:
        """The function that computes a pixel of a map; and, if it is stored, the one that fills it."""
        try:
            body = self._body(one)
        except OverflowError as error:
            raise OnespikeError(f"c: expected finite constants in float32, got {error} in {one.layer}") from error
        kind = TYPES[one.kind]
        unused = "" if any("image" in line for line in body) else "    (void)image;\n"
        unused += "    (void)p;\n" if isinstance(one, Sum) and not one.terms else ""  # padding alone
        head = f"static void map{self._names[one]}(const uint8_t *image, int p, {kind} *out)"
        text = f"/* {comment(one.layer)}: {type(one).__name__.lower()}, {' x '.join(map(str, one.shape))} */\n"
        text += f"{head}\n{{\n{unused}" + "".join(f"    {line}\n" for line in body) + "}\n"
        if one in self._stored:
            text += f"\nstatic void fill{self._names[one]}(const uint8_t *image)\n{{\n"
            text += f"    for (int p = 0; p < {one.pixels}; p++)\n"
            text += f"        map{self._names[one]}(image, p, {self._at(one)} + p * {one.width});\n}}\n"
        return text


def _products(one: Map) -> int:
    """The products in a map; where a convolution reads spikes, each is an addition."""
    match one:
        case PixelConv():
            return one.pixels * (one.weight.numel() + one.factors.numel())
        case Conv():
            return one.pixels * rows_of(one.weight)[0].numel()
        case Matmul():
            return one.size * one.factors[0].channels
        case Sum():
            return one.size * len(one.terms)
        case Wave():
            return SINE * one.size
    return one.size if isinstance(one, Product) else 0
