"""C as text: types, constants, and the kernels of kernels.c."""

import math
import re
from collections.abc import Iterable
from ctypes import c_float
from importlib.resources import files

TYPES = {"u8": "uint8_t", "bits": "uint32_t", "i32": "int32_t", "i64": "int64_t", "f32": "float"}
#: Bytes of a number in a table.
SIZES = {"int8_t": 1, "uint8_t": 1, "uint16_t": 2, "int32_t": 4, "uint32_t": 4, "int64_t": 8, "float": 4}
#: The kernels that a kernel needs.
NEEDS = {
    **dict.fromkeys(("conv_i32", "conv_i64", "conv_f32", "conv_pixels"), ("window", "tap")),
    **dict.fromkeys(("conv_bits", "conv_bits_f32"), ("window", "lowest", "tap")),
    "tap": ("window",),
    "scaled": ("times",),
    "sine": ("times",),
}
#: Kernels that one text defines for several types: the text, the type of weights, and that of sums.
VARIANTS = {
    "conv_bits": ("conv_bits", "int8_t", "int32_t"),
    "conv_bits_f32": ("conv_bits", "float", "float"),
    "conv_i32": ("conv_numbers", "int8_t", "int32_t"),
    "conv_i64": ("conv_numbers", "int8_t", "int64_t"),
    "conv_f32": ("conv_numbers", "float", "float"),
    "fire_i32": ("fire", "", "int32_t"),
    "fire_i64": ("fire", "", "int64_t"),
    "fire_f32": ("fire", "", "float"),
}


def kernel_texts(used: set[str]) -> list[str]:
    """The kernels that are used, in the order of the file."""
    text = files("onespike.exporting.c").joinpath("kernels.c").read_text(encoding="utf-8")
    found = dict(re.findall(r"/\* kernel: (\w+) \*/\n(.*?)(?=\n/\* kernel:|\Z)", text, flags=re.DOTALL))
    needed = used.union(*(NEEDS.get(one, ()) for one in used))
    made = []
    for name, body in found.items():
        made += [body] if name in needed and name not in VARIANTS else []
        for variant, (base, weight, number) in VARIANTS.items():
            if base == name and variant in needed:
                made.append(body.replace("NAME", variant).replace("WEIGHT", weight).replace("NUMBER", number))
    return [body.strip() for body in made]


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


def comment(text: str) -> str:
    """A name inside a C comment, without what could end it, nest another or go on behind it."""
    return "".join(c if c.isprintable() and c not in "*\\?" else "_" for c in text)


def lines_of(words: Iterable[str], width: int = 116) -> str:
    """Words with commas, in lines of a width."""
    lines, line = [], "   "
    for word in words:
        if len(line) + len(word) + 2 > width:
            lines.append(line)
            line = "   "
        line += f" {word},"
    return "\n".join([*lines, line])
