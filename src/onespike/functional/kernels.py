"""Loops in C for tensors on a CPU, compiled once for this machine by its own C compiler, and kept in the cache.

Without a compiler, or where $ONESPIKE_KERNELS is 0, there are no kernels, and callers use PyTorch's functions.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

#: Compiler flags, tried in this order until one set works. Apple's compiler has no OpenMP.
FLAGS: tuple[list[str], ...] = (
    ["-march=native", "-mprefer-vector-width=512", "-fopenmp"],
    ["-march=native", "-fopenmp"],
    ["-march=native"],
    ["-mcpu=native"],
    [],
)
#: Dtypes that have kernels, and the compiler's option that selects each.
TYPES = {torch.bfloat16: "-DBF16", torch.float32: "-DREAL=float", torch.float64: "-DREAL=double"}

#: Prefix of the folders in which a compiler is at work.
_BUILDING = "building-"


class Kernels:
    """Compiled functions for one type of tensor: `kernels("fire", x, rows, …)` with tensors, ints and floats."""

    def __init__(self, library: Path, dtype: torch.dtype) -> None:
        self._library = ctypes.CDLL(str(library))
        #: The dtype of the arithmetic, and of per-channel values.
        self.real = torch.float64 if dtype == torch.float64 else torch.float32

    def ask(self, name: str, *arguments: Tensor | int | float | None) -> int:
        """Call a function and return its integer; it gets tensors as pointers to their first element, None as null."""
        return int(getattr(self._library, name)(*map(_in_c, arguments)))

    def __call__(self, name: str, *arguments: Tensor | int | float | None) -> None:
        """Call a function that writes into a tensor; MemoryError if the function lacks memory."""
        if self.ask(name, *arguments):
            raise MemoryError(name)


def is_traced() -> bool:
    """Whether a compiler, `torch.jit.trace` or `torch.func` follows the operations: they know PyTorch's alone."""
    follows = torch.compiler.is_compiling() or torch._C._is_tracing()
    return follows or torch._C._are_functorch_transforms_active()


def is_plain(tensor: Tensor) -> bool:
    """Whether memory holds a tensor's values as they are (no subclass, no lazy negation): kernels read nothing else."""
    dense = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    return dense and not tensor.is_neg() and not tensor._is_zerotensor()


def plain(tensor: Tensor) -> Tensor:
    """The tensor itself if `is_plain`, else a plain copy of the same memory layout."""
    return tensor if is_plain(tensor) else torch.empty_like(tensor).copy_(tensor)


def channels_last(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) as kernels read them: themselves, or a plain copy, channels last.

    Gradients come in any layout, and so do tensors that were saved, if hooks moved them (`save_on_cpu`).
    """
    return plain(maps.contiguous(memory_format=torch.channels_last))


def empty_maps(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Uninitialised maps (B, C, H, W), channels last, in the dtype and on the device of another tensor."""
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _in_c(value: Tensor | int | float | None) -> object:
    if value is None:  # a null pointer
        return None
    if isinstance(value, Tensor):
        if value.device.type != "cpu" or not is_plain(value):  # C could do nothing with its address
            found = f"{type(value).__name__} on {value.device}"
            raise ValueError(f"kernels: expected tensors whose numbers lie in this machine's memory, got {found}")
        return ctypes.c_void_p(value.data_ptr())
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int64(value)


@cache
def kernels_for(dtype: torch.dtype, source: str = "kernels.c") -> Kernels | None:
    """Compile a file of kernels for a dtype, or load them from the cache; None where neither works."""
    command = compiler()
    if dtype not in TYPES or os.environ.get("ONESPIKE_KERNELS") == "0" or command is None:
        return None
    code = Path(__file__).with_name(source)
    content = b"".join(one.read_bytes() for one in (code, *sorted(code.parent.glob("*.h"))))
    key = hashlib.sha256(content + repr((FLAGS, command, _processor())).encode()).hexdigest()[:16]
    name = f"{key}{TYPES[dtype]}"
    folder, own = Path(os.environ.get("ONESPIKE_CACHE") or "~/.cache/onespike"), False
    with suppress(OSError, RuntimeError):  # no home folder, or not writable
        folder = folder.expanduser() / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = _is_own(folder)
    for kept in folder.glob(f"{name}-*.so") if own else ():
        with suppress(OSError):
            if kept.is_file() and _is_own(kept) and kept.name == _named(name, kept):  # else damaged: compile again
                return Kernels(kept, dtype)
    for left in folder.glob(f"{_BUILDING}*") if own else ():
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - 3600:  # of a process that was killed
                shutil.rmtree(left)
    for place in (folder, None) if own else (None,):  # the system's folder where the cache is full, or is only read
        with (
            suppress(OSError),
            tempfile.TemporaryDirectory(prefix=_BUILDING, dir=place, ignore_cleanup_errors=True) as building,
        ):
            made = Path(building) / f"{name}.so"
            works, lasts = _compile(command, [TYPES[dtype], str(code), "-o", str(made)])
            if not works:
                continue
            made.chmod(0o700)
            kernels = Kernels(made, dtype)
            if place and lasts:
                made.replace(folder / _named(name, made))
            return kernels
    return None


def compiler() -> list[str] | None:
    """The command of a C compiler: $CC, which may have options, or the first of cc, gcc and clang; None without one."""
    given = os.environ.get("CC")
    with suppress(ValueError):  # a quote that nothing closes
        for name, *options in filter(None, map(shlex.split, [given] if given else ["cc", "gcc", "clang"])):
            if found := shutil.which(name):
                return [found, *options]
    return None


def _named(name: str, file: Path) -> str:
    """A compiled file's name, with a checksum: a library with a flipped byte, once loaded, could do anything."""
    return f"{name}-{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}.so"


def _is_own(path: Path) -> bool:
    """Whether nobody else can have written the file: nothing is run from a cache that others can write to."""
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


def _compile(command: list[str], arguments: list[str]) -> tuple[bool, bool]:
    """Compile with the first flags that work: whether any do, and whether the compiler does not know the ones before.

    If it does, it may have failed this once, for want of memory, and what came of other flags would stay slow for ever.
    """
    command = [*command, "-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
    nothing, away = b"#ifdef _OPENMP\n#include <omp.h>\n#endif\n", ["-x", "c", "-", "-o", os.devnull]
    unknown = True
    for flags in FLAGS:
        if subprocess.run([*command, *flags, *arguments], capture_output=True, check=False).returncode == 0:
            return True, unknown
        tried = subprocess.run([*command, *flags, *away], input=nothing, capture_output=True, check=False)
        unknown = unknown and tried.returncode != 0
    return False, False


def _processor() -> str:
    """What `-march=native` depends on: several machines may share a cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # a Mac, whose chip has no name there
        with suppress(OSError):
            said = subprocess.run(["sysctl", "machdep.cpu", "hw.optional"], capture_output=True, check=False).stdout
            return platform.machine() + hashlib.sha256(said).hexdigest()
        return platform.machine() + platform.processor()
    known = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return "".join(sorted(known or {line for line in lines if "hz" not in line.lower()}))  # another architecture
