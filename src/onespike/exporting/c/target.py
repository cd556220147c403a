"""C: `model.c` and `model.h`, C99.

With 8-bit weights, for strictly spiking networks: integers only. With float32 weights, for feed-forward networks of the
operations that `Reals` handles: floats, and spikes as bits, too.
"""

import ctypes
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from onespike._version import __version__
from onespike.errors import OnespikeError
from onespike.exporting.c.emit import Program, Writer
from onespike.exporting.c.text import comment
from onespike.exporting.contract import Contract
from onespike.exporting.lowering.integers import Integers
from onespike.exporting.lowering.lower import lower
from onespike.exporting.lowering.maps import Map
from onespike.exporting.lowering.reals import Reals
from onespike.exporting.lowering.values import Value, read_bits
from onespike.exporting.network import Exported
from onespike.exporting.parity import Target
from onespike.functional.kernels import compiler

#: What `model_run` reads, in words.
READS = "uint8 (H, W, C), row by row, one image"
#: The compiler's options; warnings are errors.
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-O2")


def write(exported: Exported, folder: Path) -> dict[str, Target]:
    """Write `model.c` and `model.h`. The program, compiled here, is the target.

    Raises:
        OnespikeError: The network is not strict, or an operation cannot be expressed in integers; there is no compiler.
    """
    contract = exported.contract
    command = compiler()
    if command is None:
        raise OnespikeError("c: no C compiler, by which the export is proved: apt-get install gcc")
    numbers: type[Integers | Reals] = Integers if contract.weights == "int8" else Reals
    lowering, spikes = lower(exported, numbers, "c")
    program, unit = Writer(lowering.maps).program(), lowering.unit
    (folder / "model.h").write_text(_header(contract, program, unit), encoding="utf-8")
    (folder / "model.c").write_text(_source(contract, program), encoding="utf-8")
    library = build(folder, command)
    return {"c": _Compiled(library, contract, spikes, unit, program.spikes)}


def build(folder: Path, command: list[str]) -> ctypes.CDLL:
    """Compile and load; the library writes each layer's spikes, as it makes them, to where `model_watch` says."""
    with TemporaryDirectory() as made:
        harness, library = Path(made) / "harness.c", Path(made) / "model.so"
        harness.write_text(_HARNESS)
        command = [*command, *FLAGS, "-fPIC", "-shared", "-DMODEL_SPIKES=model_spikes", "-I", str(folder)]
        done = subprocess.run(
            [*command, str(harness), "-lm", "-o", str(library)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = done.stderr.strip()[-500:] or f"exit code {done.returncode}"
            raise OnespikeError(f"c: {command[0]} failed: {said}")
        return ctypes.CDLL(str(library))


_HARNESS = """#include <stdint.h>
#include <string.h>
static uint32_t *next;
void model_spikes(int layer, const uint32_t *bits, int words)
{
    (void)layer;
    memcpy(next, bits, (size_t)words * sizeof *bits);
    next += words;
}
void model_watch(uint32_t *spikes)
{
    next = spikes;
}
#include "model.c"
"""


@dataclass(frozen=True)
class _Compiled:
    """The compiled program, on images (B, H, W, C); `maps` are those of spikes, in the order in which it makes them."""

    library: ctypes.CDLL
    contract: Contract
    spikes: list[list[Value] | None]
    unit: float
    maps: list[Map]

    @property
    def resolution(self) -> float | None:
        """The error of logits that rounding to the unit may cause, where all else is exact."""
        return 2 * self.unit if self.contract.weights == "int8" else None

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        images, count = images.contiguous(), len(images)
        number = torch.int32 if self.contract.weights == "int8" else torch.float32
        scores = torch.zeros(count, len(self.contract.classes), dtype=number)
        words = [one.pixels * one.width for one in self.maps]
        fired = torch.zeros(count, sum(words), dtype=torch.int32)
        for one in zip(images, scores, fired, strict=True):
            image, row, spikes = (ctypes.c_void_p(tensor.data_ptr()) for tensor in one)
            self.library.model_watch(spikes)
            self.library.model_run(image, row)
        bits = torch.zeros(count, max((one.offset + one.size for one in self.maps), default=0))
        for of, part in zip(self.maps, fired.split(words, 1), strict=True):
            spread = part.reshape(count, of.pixels, of.width, 1) >> torch.arange(32, dtype=torch.int32) & 1
            bits[:, of.offset : of.offset + of.size] = spread.flatten(2)[..., : of.channels].flatten(1)
        return scores.double() * self.unit, [read_bits(value, bits) for value in self.spikes]


def _source(contract: Contract, program: Program) -> str:
    about = f"/* {comment(contract.model)}, by onespike {__version__}: see model.h. */\n"
    plain = "#ifndef MODEL_SPIKES /* a function that is told the spikes of each layer */\n"
    plain += "#define MODEL_SPIKES(layer, bits, words) ((void)(bits))\n#endif\n"
    checked = '#include <limits.h>\n#if INT_MAX < 2147483647\n#error "an int of 32 bits is needed"\n#endif\n'
    return f'{about}#include "model.h"\n\n{checked}\n{plain}\n{program.code}'


def _header(contract: Contract, program: Program, unit: float) -> str:
    channels, side, _ = contract.shape
    names = ", ".join(f'"{_escaped(name)}"' for name in contract.classes)
    integers = contract.weights == "int8"
    number, bits = ("int32_t", -round(math.log2(unit))) if integers else ("float", 0)
    about = "a strictly spiking network, in whole numbers" if integers else "in float32"
    weight, numbers = ("an 8-bit weight", "whole and fixed-point numbers") if integers else ("a weight", "floats")
    meaning = "Class scores times 2^-MODEL_SCORE_BITS are the logits." if integers else "Class scores are the logits."
    needs = "without a heap" + (
        " or a library" if "<math.h>" not in program.code else "; link the C library's maths, -lm"
    )
    define = f"\n#define MODEL_SCORE_BITS {bits}" if integers else ""
    return f"""/* {comment(contract.model)}: {about}. Written by onespike {__version__}.

   Flash   {program.flash:,} bytes of constants, beside the code
   RAM     {program.ram:,} bytes of static memory, and {program.stack:,} bytes of arrays on the stack,
           beside the caller's image ({side * side * channels:,} bytes) and scores ({4 * len(contract.classes):,} bytes)
   Work    at most {program.additions:,} additions of {weight} for an image, each done only where there is a
           spike; at most {program.products:,} multiplications of {numbers}

   C99, {needs}; not reentrant. {meaning} */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_HEIGHT {side}
#define MODEL_WIDTH {side}
#define MODEL_CHANNELS {channels}
#define MODEL_CLASSES {len(contract.classes)}
#define MODEL_CLASS_NAMES {{{names}}}{define}

#ifdef __cplusplus
extern "C" {{
#endif

/* Classify an image, MODEL_HEIGHT x MODEL_WIDTH pixels of MODEL_CHANNELS bytes each, row by row, not normalised: gives
   the number of the class, and in `scores` the scores of all MODEL_CLASSES. */
int model_run(const uint8_t *image, {number} *scores);

#ifdef __cplusplus
}}
#endif

#endif
"""


def _escaped(name: str) -> str:
    """A class name inside a C string."""
    return "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\?' else "".join(f"\\{b:03o}" for b in c.encode())
        for c in name
    )
