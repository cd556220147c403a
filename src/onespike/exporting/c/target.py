"""C: `model.c` and `model.h`, C99 with integers only, for strictly spiking networks with weights of 8 bits."""

import ctypes
import shutil
import subprocess
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from onespike._version import __version__
from onespike.errors import OnespikeError
from onespike.exporting.c.emit import Program, Writer
from onespike.exporting.c.lower import Lowering, Real, Value
from onespike.exporting.c.maps import Fire, Map
from onespike.exporting.contract import Contract, expect_pixels
from onespike.exporting.network import Traced
from onespike.exporting.parity import Target

#: What a compiler is told; warnings are errors.
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-O2")
#: How many operations and layers that cannot be said are named.
LISTED = 5


def write(traced: Traced, folder: Path) -> Target:
    """Write `model.c` and `model.h`. The program, compiled here, is the target.

    Raises:
        OnespikeError: The network is not strict, or whole numbers cannot say an operation; there is no compiler.
    """
    contract = traced.contract
    if contract.weights != "int8":
        raise OnespikeError("c: expected weights of 8 bits: --weights int8, or auto")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise OnespikeError("c: no C compiler, by which the export is proved: apt-get install gcc")
    lowering, values, fraction = lower(traced)
    writer = Writer(lowering.maps)
    program = writer.program()
    (folder / "model.h").write_text(_header(contract, program, fraction), encoding="utf-8")
    (folder / "model.c").write_text(_source(contract, program), encoding="utf-8")
    library = build(folder, compiler)
    return _Compiled(library, contract, values, fraction, writer.numbers)


def lower(traced: Traced) -> tuple[Lowering, list[Value], int]:
    """Turn a network into maps of whole numbers; the last is the scores, of which so many bits are behind the point.

    Raises:
        OnespikeError: What cannot be said is named.
    """
    contract = traced.contract
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own
        graph: Any = traced.program(dynamic=False).run_decompositions({}).module()
    lowering = Lowering(graph)
    with torch.no_grad():
        answers = lowering.run(lowering.image(torch.Size((1, *contract.shape))))
    logits, *spikes = answers
    real = lowering.real or ([] if any(isinstance(one, Fire) for one in lowering.maps) else lowering.first)
    if real:
        advice = "it takes networks of which every layer behind the stem reads spikes; onnx and pt2 take any"
        raise OnespikeError(
            f"c: {contract.model} is not strictly spiking: {_listed(real, ', ')} read real values; {advice}"
        )
    if lowering.problems or isinstance(logits, Real):
        named = list(dict.fromkeys(lowering.problems))
        raise OnespikeError(f"c: it cannot say {_listed(named, '; ')}; onnx and pt2 can")
    return lowering, spikes, lowering.scores(logits)


def _listed(names: list[str], comma: str) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return comma.join(names[:LISTED]) + more


def build(folder: Path, compiler: str, *more: str) -> ctypes.CDLL:
    """Compile and load; the library calls `watch` for the spikes of each layer."""
    with TemporaryDirectory() as made:
        harness, library = Path(made) / "harness.c", Path(made) / "model.so"
        harness.write_text(_HARNESS)
        command = [compiler, *FLAGS, *more, "-fPIC", "-shared", "-DMODEL_SPIKES=model_spikes", "-I", str(folder)]
        done = subprocess.run([*command, str(harness), "-o", str(library)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OnespikeError(f"c: {compiler} failed: {done.stderr.strip()[-500:]}")
        return ctypes.CDLL(str(library))


_HARNESS = """#include <stdint.h>
static void (*watch)(int, const uint32_t *, int);
static void model_spikes(int layer, const uint32_t *bits, int words)
{
    watch(layer, bits, words);
}
void model_watch(void (*function)(int, const uint32_t *, int));
void model_watch(void (*function)(int, const uint32_t *, int))
{
    watch = function;
}
#include "model.c"
"""
_WATCH = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.POINTER(ctypes.c_uint32), ctypes.c_int)


class _Compiled:
    """The compiled program, on images (B, H, W, C)."""

    def __init__(
        self,
        library: ctypes.CDLL,
        contract: Contract,
        spikes: list[Value],
        fraction: int,
        numbers: dict[Map, int],
    ) -> None:
        self.library, self.contract, self.spikes, self.fraction = library, contract, spikes, fraction
        self.resolution = 2.0 ** (1 - fraction)  # of logits: what rounding to it may change
        self.maps = {number: one for one, number in numbers.items()}
        size = max((one.offset + one.size for one in self.maps.values()), default=0)
        self.bits = torch.zeros(size)
        self.keep = _WATCH(self._see)
        library.model_watch(self.keep)

    def _see(self, number: int, words: "ctypes._Pointer[ctypes.c_uint32]", count: int) -> None:
        one = self.maps[number]
        bits = torch.frombuffer(bytearray(ctypes.string_at(words, 4 * count)), dtype=torch.int32).view(-1, one.words)
        spread = (bits[:, :, None] >> torch.arange(32)) & 1
        self.bits[one.offset : one.offset + one.size] = spread.flatten(1)[:, : one.channels].flatten().float()

    def __call__(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        expect_pixels(images, "c")
        images = images.contiguous()
        scores = torch.zeros(len(images), len(self.contract.classes), dtype=torch.int32)
        found: list[list[Tensor]] = [[] for _ in self.spikes]
        for image, row in zip(images, scores, strict=True):
            self.library.model_run(ctypes.c_void_p(image.data_ptr()), ctypes.c_void_p(row.data_ptr()))
            for seen, value in zip(found, self.spikes, strict=True):
                seen.append(torch.where(value.index >= 0, self.bits[value.index], 0) * value.gain + value.shift)
        # Images lie where the network has them: first, or behind windows and time steps.
        return scores.double() / 2**self.fraction, [torch.cat(seen, _axis(seen[0])) for seen in found]


def _axis(spikes: Tensor) -> int:
    return int(spikes.ndim == 5)


def _source(contract: Contract, program: Program) -> str:
    about = f"/* {contract.model}, by onespike {__version__}: see model.h. */\n"
    plain = "#ifndef MODEL_SPIKES /* a function that is told the spikes of each layer */\n"
    plain += "#define MODEL_SPIKES(layer, bits, words) ((void)(bits))\n#endif\n"
    return f'{about}#include "model.h"\n\n{plain}\n{program.code}'


def _header(contract: Contract, program: Program, fraction: int) -> str:
    channels, side, _ = contract.shape
    names = ", ".join(f'"{_escaped(name)}"' for name in contract.classes)
    return f"""/* {contract.model}: a strictly spiking network, in whole numbers. Written by onespike {__version__}.

   Flash   {program.flash:,} bytes of constants, beside the code
   RAM     {program.ram:,} bytes of static memory, and {program.stack:,} bytes of arrays on the stack
   Work    at most {program.additions:,} additions of an 8-bit weight for an image, each done only where there is a
           spike; {program.products:,} multiplications, of the layers that read pixels and of fixed-point numbers

   C99 without a library and without a heap; not reentrant. Class scores times 2^-MODEL_SCORE_BITS are the logits. */
#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_HEIGHT {side}
#define MODEL_WIDTH {side}
#define MODEL_CHANNELS {channels}
#define MODEL_CLASSES {len(contract.classes)}
#define MODEL_CLASS_NAMES {{{names}}}
#define MODEL_SCORE_BITS {fraction}

/* Classify an image, MODEL_HEIGHT x MODEL_WIDTH pixels of MODEL_CHANNELS bytes each, row by row, not normalised: gives
   the number of the class, and in `scores` the scores of all MODEL_CLASSES. */
int model_run(const uint8_t *image, int32_t *scores);

#endif
"""


def _escaped(name: str) -> str:
    """A class name inside a C string."""
    return "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\?' else "".join(f"\\{b:03o}" for b in c.encode())
        for c in name
    )
