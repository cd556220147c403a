"""C as text: types, constants, and the kernels of kernels.c."""

import math
import re
from collections.abc import Iterable
from ctypes import c_float
from importlib.resources import files

TYPES = {"u8": "uint8_t", "bits": "uint32_t", "i32": "int32_t", "i64": "int64_t", "f32": "float"}
#: Bytes of a number in a table.
SIZES = {"int8_t": 1, "uint8_t": 1, "uint16_t": 2, "int32_t": 4, "uint32_t": 4, "int64_t": 8, "float": 4}
#: Kernels that one text defines for several types: the name of each, and its types of weights and of numbers.
VARIANTS = {
    "conv_bits": {"conv_bits": ("int8_t", "int32_t"), "conv_bits_f32": ("float", "float")},
    "conv_numbers": {
        "conv_i32": ("int8_t", "int32_t"),
        "conv_i64": ("int8_t", "int64_t"),
        "conv_f32": ("float", "float"),
    },
    "fire": {"fire_i32": ("", "int32_t"), "fire_i64": ("", "int64_t"), "fire_f32": ("", "float")},
}


def kernels_for(code: str) -> list[str]:
    """The kernels that code names, and those that they name, in the order of the file."""
    text = files("onespike.exporting.c").joinpath("kernels.c").read_text(encoding="utf-8")
    kernels = {}
    for part in text.split("/* kernel: ")[1:]:
        name, _, body = part.partition(" */")
        for variant, (weight, number) in VARIANTS.get(name, {name: ("", "")}).items():
            kernels[variant] = body.replace("NAME", variant).replace("WEIGHT", weight).replace("NUMBER", number).strip()
    used, named = set[str](), _words(code)
    while more := (kernels.keys() & named) - used:
        used |= more
        named = set().union(*(_words(kernels[name]) for name in more))
    return [body for name, body in kernels.items() if name in used]


def _words(code: str) -> set[str]:
    return set(re.findall(r"\w+", re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL)))


def literal(value: float, kind: str) -> str:
    """A value as a C constant of a type; an `OverflowError` that says the value if none is as large."""
    if kind == "float":
        rounded = c_float(value).value  # compilers complain about what underflows
        if not math.isfinite(rounded):
            raise OverflowError(f"{value:g}")
        text = f"{rounded:.9g}"
        return f"{text}f" if "." in text or "e" in text else f"{text}.0f"
    if kind == "int64_t":
        return f"INT64_C({value})"  # so that products have 64 bits
    return f"{value}u" if kind == "uint32_t" else str(value)


def lines_of(words: Iterable[str], width: int = 116) -> str:
    """Words with commas, in lines of a width; faster than `textwrap`, and there are millions."""
    lines, line = [], "   "
    for word in words:
        if len(line) + len(word) + 2 > width:
            lines.append(line)
            line = "   "
        line += f" {word},"
    return "\n".join([*lines, line])


def comment(text: str) -> str:
    """A name inside a C comment, without what could end it, nest another or go on behind it."""
    return "".join(c if c.isprintable() and c not in "*\\?" else "_" for c in text)
