"""What a result is computed with: machine and its limits, versions, command and commit."""

import functools
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from onespike._version import __version__

#: Packages, beside PyTorch, whose versions can change a result.
WATCHED = ("accelerate", "datasets", "numpy", "pillow", "safetensors", "timm", "torchvision")


def environment() -> dict[str, Any]:
    """Describe machine, versions and command."""
    return {
        "command": sys.argv,
        "onespike": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # PyTorch's own word also names the build, such as 2.13.0+cpu, which the package's metadata may leave out.
        "packages": {name: version_of(name) for name in WATCHED} | {"torch": str(torch.__version__)},
    }


def accelerator_type() -> str | None:
    """Name the accelerator that PyTorch computes with here, such as "cuda"; None if there is none."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator else None


def emulates_bf16() -> bool:
    """Whether this is an x86 processor without AVX-512: bf16 is slow there, and oneDNN's own operations refuse it."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def version_of(package: str) -> str | None:
    """Version of an installed package; None where it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Name of the processor; on Linux it is in /proc/cpuinfo."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


@functools.cache
def commit() -> str | None:
    """Commit of the source tree this package runs from, if it is a git checkout: a `.venv` may lie in a stranger's.

    It is asked for once: while a process computes with the code that it has loaded, others may commit, or it may write
    results into the tree itself.
    """
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], capture_output=True, check=True)
        described = [*git, "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(described, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
