"""The C library's allocator, set for a program that allocates the same large tensors step after step."""

import ctypes
import os
import sys

#: Parameters of glibc's `mallopt`, from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for what it allocates next.

    glibc returns every large block to the system, and the next one's pages have to be mapped and zeroed again: that is
    more than half of the time of a layer of neurons. In return the process keeps the most memory that it ever needed.
    Other C libraries are left alone, and so is a glibc that the user's environment sets up (`MALLOC_…_`,
    `GLIBC_TUNABLES`). Returns whether the C library took the settings.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    never, pad = -1, 32 * 2**20  # bytes by which the heap grows at least
    return mallopt is not None and all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, never), mallopt(_TOP_PAD, pad)])
