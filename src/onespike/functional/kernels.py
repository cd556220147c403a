"""Loops of `kernels.c` for tensors on a CPU, compiled once for this machine by its own C compiler, and kept in the cache.

Where there is no compiler, or $ONESPIKE_KERNELS is 0, there are no kernels, and whoever asks takes PyTorch's functions.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".c")
#: What the file is compiled with, the first that the compiler takes. Apple's has no OpenMP.
FLAGS = (["-march=native", "-mprefer-vector-width=512", "-fopenmp"], ["-march=native", "-fopenmp"], ["-mcpu=native"], [])
#: The types of tensors there are kernels for, and their definition in C.
TYPES = {torch.bfloat16: "-DBF16", torch.float32: "-DREAL=float", torch.float64: "-DREAL=double"}


class Kernels:
    """The compiled functions for one type of tensor: `kernels.fire(x, rows, …)` with tensors, ints and floats."""

    def __init__(self, library: Path, dtype: torch.dtype) -> None:
        self._library = ctypes.CDLL(str(library))
        #: The type that is computed in, and that a channel's values have.
        self.real = torch.float64 if dtype == torch.float64 else torch.float32

    def __call__(self, name: str, *arguments: Tensor | int | float) -> None:
        """Call a function; tensors are passed by their first element."""
        if getattr(self._library, name)(*map(_in_c, arguments)):
            raise MemoryError(name)


def _in_c(value: Tensor | int | float) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int64(value)


@cache
def kernels_for(dtype: torch.dtype) -> Kernels | None:
    """Compile the kernels for a type of tensor, or take them from the cache; None where that cannot be done."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if dtype not in TYPES or os.environ.get("ONESPIKE_KERNELS") == "0" or compiler is None:
        return None
    key = hashlib.sha256(SOURCE.read_bytes() + repr((FLAGS, compiler, _processor())).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("ONESPIKE_CACHE") or "~/.cache/onespike").expanduser() / "kernels"
    library = folder / f"{key}{TYPES[dtype]}.so"
    try:
        if not library.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as building:
                made = _compile(compiler, Path(building) / library.name, TYPES[dtype])
                if made is None:
                    return None
                made.replace(library)
        return Kernels(library, dtype)
    except OSError:  # nowhere to write, or a file of another machine
        return None


def _compile(compiler: str, library: Path, definition: str) -> Path | None:
    for flags in FLAGS:
        command = [compiler, "-std=c11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", *flags]
        done = subprocess.run([*command, definition, str(SOURCE), "-o", str(library)], capture_output=True, check=False)
        if done.returncode == 0:
            return library
    return None


def _processor() -> str:
    """What the compiler's `native` depends on: a cache may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
