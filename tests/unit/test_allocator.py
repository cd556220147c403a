"""Memory that is freed stays with the process, where the C library can be told."""

import os
import platform
import subprocess
import sys

import pytest

from onespike.allocator import keep_freed_memory

PROGRAM = """
import resource, torch
from onespike.allocator import keep_freed_memory

def fresh_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = fresh_pages()
assert keep_freed_memory()
fresh_pages()
print(given_back, fresh_pages())
"""


def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_large_tensors_take_no_fresh_pages_once_freed_memory_is_kept():
    command = [sys.executable, "-c", PROGRAM]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
    given_back, kept = map(int, output.split())
    assert kept < 0.05 * given_back


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_a_user_who_sets_up_the_allocator_is_obeyed(name, monkeypatch):
    monkeypatch.setenv(name, "glibc.malloc.trim_threshold=0")
    assert not keep_freed_memory()
