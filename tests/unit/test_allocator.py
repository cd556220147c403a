"""Memory that is freed stays with the process, where the C library can be told."""

import subprocess
import sys

import pytest

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


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_large_tensors_take_no_fresh_pages_once_freed_memory_is_kept():
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, output.split())
    assert kept < 0.05 * given_back
