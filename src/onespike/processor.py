"""Limits of this processor."""

import torch


def emulates_bf16() -> bool:
    """Whether this is an x86 processor without AVX-512: bf16 is slow there, and oneDNN's own operations refuse it."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"
