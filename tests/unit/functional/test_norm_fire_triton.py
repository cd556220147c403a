"""Norm and fire in Triton, without a GPU: interpreted it computes what PyTorch does, and every kernel compiles."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from onespike.functional import Surrogate, has_kernels, norm_fire
from onespike.units.layers import BatchNorm, MaxPool

HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed: it has wheels for Linux alone")
MODULE = sys.modules["onespike.functional.norm_fire"]  # the function of that name hides it
TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}


@needs_triton
@pytest.mark.slow
def test_interpreted_it_computes_what_pytorch_does() -> None:
    """The tests of the kernels in C, in a process where Triton was imported to interpret, and where there is no C."""
    tests = Path(__file__).with_name("test_norm_fire.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "ONESPIKE_KERNELS": "0"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "skipped" not in ran.stdout


class Compiled:
    """In place of a kernel: what it is launched with is compiled for GPUs, and not run."""

    def __init__(self, kernel) -> None:
        self.kernel, self.launches = kernel, 0

    def __getitem__(self, grid: tuple[int, ...]):
        assert all(isinstance(one, int) and one > 0 for one in grid)
        return self.launch

    def launch(self, *arguments, **options) -> None:
        from triton import compile as compile_
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature, constants = {}, {}
        for parameter, value in zip(self.kernel.params, arguments, strict=True):
            if parameter.is_constexpr:
                signature[parameter.name], constants[parameter.name] = "constexpr", value
            else:
                signature[parameter.name] = f"*{TYPES[value.dtype]}" if isinstance(value, torch.Tensor) else "i32"
        for capability in (80, 90):
            source, target = ASTSource(self.kernel, signature, constants), GPUTarget("cuda", capability, 32)
            made = compile_(source, target=target, options=options)
            assert made.asm["cubin"].startswith(b"\x7fELF")
            assert f".target sm_{capability}" in made.asm["ptx"]
        next(one for one in reversed(arguments) if isinstance(one, torch.Tensor)).zero_()  # what it would write
        self.launches += 1


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES)
def test_every_kernel_compiles_for_gpus(dtype, tmp_path, monkeypatch) -> None:
    from onespike.functional import norm_fire_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = [
        (table, name, Compiled(kernel))
        for table in (norm_fire_triton.SUMS, norm_fire_triton.MAPS)
        for name, kernel in table.items()
    ]
    for table, name, kernel in kernels:
        monkeypatch.setitem(table, name, kernel)
    monkeypatch.setattr(MODULE, "_find", lambda currents: norm_fire_triton.TritonKernels(currents.dtype))
    x = torch.zeros(4, 48, 9, 9, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    norm = BatchNorm(48, dtype=torch.promote_types(dtype, torch.float32))
    for surrogate in ("rectangle", "triangle"):
        shift = torch.zeros(2 * 48, requires_grad=True)
        norm_fire(x, shift, norm, 0.5, Surrogate(surrogate)).sum().backward()
    norm_fire(x, shift, norm, 0.5, Surrogate("triangle"), tied=True).sum().backward()
    norm(x).sum().backward()
    assert {name: kernel.launches for _, name, kernel in kernels} == {
        "moments": 4,
        "fire": 2,
        "fire_tied": 1,
        "affine": 1,
        "backward_sums": 4,
        "backward_currents": 4,
    }


def test_a_gpu_takes_them_for_the_norm_and_not_for_pooling(monkeypatch) -> None:
    found = []
    monkeypatch.setattr(MODULE, "_on_gpu", lambda dtype, device: found.append((dtype, device.type)))
    monkeypatch.setattr(MODULE, "is_plain", lambda _: True)  # else tensors that only stand for those of a GPU are not
    with FakeTensorMode():
        assert not has_kernels(torch.empty(2, 4, 6, 6, device="cuda"))
        assert not found, "channels come first"
        x = torch.empty(2, 4, 6, 6, device="cuda", dtype=torch.float16, memory_format=torch.channels_last)
        assert not has_kernels(x)
        assert found == [(torch.float16, "cuda")]
        monkeypatch.setattr(MODULE, "_on_gpu", lambda *_: object())
        assert has_kernels(x)
        monkeypatch.setattr("onespike.functional.pool.max_pool2d", lambda *_: "PyTorch's")
        assert MaxPool()(x) == "PyTorch's"


@needs_triton
def test_they_are_taken_by_who_asks_and_where_they_do_not_work_pytorch_goes_on(capsys, monkeypatch) -> None:
    monkeypatch.setenv("ONESPIKE_KERNELS", "1")
    MODULE._on_gpu.cache_clear()
    assert MODULE._on_gpu(torch.float32, torch.device("cpu")) is None  # no GPU that Triton could compile for
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: cpu takes PyTorch's functions for norm and fire: Triton's kernels failed there (")
    assert MODULE._on_gpu(torch.float32, torch.device("cpu")) is None
    monkeypatch.delenv("ONESPIKE_KERNELS")
    MODULE._on_gpu.cache_clear()
    assert MODULE._on_gpu(torch.float32, torch.device("cpu")) is None
    MODULE._on_gpu.cache_clear()
    assert not capsys.readouterr().err, "said once, and not where nobody asks for kernels"
