"""Where kernels come from: this machine's compiler, and a cache that nobody else writes."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import max_pool2d

from onespike.functional import (
    Surrogate,
    batch_norm,
    charge,
    conv3x3,
    fire_over_time,
    has_kernels,
    has_kernels_over_time,
    kernels,
    max_pool,
    norm_fire,
)
from onespike.functional.kernels import compiler, kernels_for
from onespike.models import create_model
from onespike.neurons import LIF, Incoming
from onespike.units.cells import GRU, RNN
from onespike.units.layers import BatchNorm, MaxPool
from tests.hostile.harness import in_time

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONESPIKE_CACHE", str(tmp_path / "cache"))
    compile_ = kernels._compile  # not optimised, it takes a tenth of the time
    monkeypatch.setattr(kernels, "_compile", lambda command, given: compile_(command, [*given, "-O0"]))
    kernels_for.cache_clear()
    yield tmp_path / "cache" / "kernels"
    kernels_for.cache_clear()


def works(dtype: torch.dtype = torch.float32) -> bool:
    compiled, x, out = kernels_for(dtype), torch.tensor([[1.0, 3.0]]), torch.empty(1, 2)
    if compiled is None:
        return False
    compiled("affine", x, 1, 2, torch.tensor([2.0, 3.0]), torch.tensor([1.0, -1.0]), out)
    return out.tolist() == [[3, 8]]


def put(place: Path, content: bytes) -> None:
    """Put another file in the place of a library: this process, which has loaded it, dies if its own file changes."""
    place.unlink()
    place.write_bytes(content)


def test_they_are_compiled_once(cache) -> None:
    assert works()
    (kept,) = cache.iterdir()
    before = kept.stat()
    kernels_for.cache_clear()
    assert works()
    assert kept.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.slow
def test_what_others_can_write_is_not_run(cache) -> None:
    assert works()
    (kept,) = cache.iterdir()
    put(kept, b"of somebody else")
    kept.chmod(0o666)
    kernels_for.cache_clear()
    assert works(), "it is compiled anew"
    cache.chmod(0o777)
    put(kept, b"of somebody else")
    kernels_for.cache_clear()
    assert works(), "it is compiled for this process alone"
    assert kept.read_bytes() == b"of somebody else"


def test_there_may_be_nowhere_to_keep_them(cache) -> None:
    cache.parent.write_text("a file, where the folder should be")
    assert works()


def test_they_may_be_there_and_refuse_to_keep_any(cache, monkeypatch) -> None:
    cache.mkdir(parents=True)
    folders = tempfile.TemporaryDirectory

    def refuses(**options):
        if options["dir"] == cache:
            raise PermissionError(f"{cache} can only be read")
        return folders(**options)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuses)
    assert works()
    assert not list(cache.iterdir())


def test_a_compiler_that_fails_once_is_not_answered_by_slow_kernels_for_ever(cache, tmp_path, monkeypatch) -> None:
    compiler, said = tmp_path / "cc", tmp_path / "said"
    compiler.write_text(
        f"""#!/bin/sh
        case "$*" in *kernels.c*) echo "$*" >> {said}; [ $(wc -l < {said}) -gt 2 ] || exit 1;; esac
        exec cc "$@"
        """
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert works()
    assert not list(cache.iterdir()), "by other flags than it knows, so they are not kept"
    kernels_for.cache_clear()
    assert works()
    first, *_, last = said.read_text().splitlines()
    assert first.split("-fPIC -shared")[1].split("-DREAL")[0] == last.split("-fPIC -shared")[1].split("-DREAL")[0]
    assert len(list(cache.iterdir())) == 1


@pytest.mark.usefixtures("cache")
def test_there_may_be_none(monkeypatch) -> None:
    monkeypatch.setenv("ONESPIKE_KERNELS", "0")
    assert kernels_for(torch.float32) is None
    kernels_for.cache_clear()
    monkeypatch.delenv("ONESPIKE_KERNELS")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert kernels_for(torch.float32) is None
    kernels_for.cache_clear()
    monkeypatch.setenv("CC", "false")  # one that fails
    assert kernels_for(torch.float32) is None
    assert kernels_for(torch.float16) is None


@pytest.mark.usefixtures("cache")
def test_a_compiler_may_be_a_command_of_several_words(monkeypatch) -> None:
    monkeypatch.setenv("CC", "env cc")
    assert works()


def test_the_first_of_three_compilers_is_taken_unless_one_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiler() is None
    for name in ("clang", "gcc", "cc"):
        (tmp_path / name).touch(0o700)
        assert compiler() == [str(tmp_path / name)]
    monkeypatch.setenv("CC", "gcc -m64")
    assert compiler() == [str(tmp_path / "gcc"), "-m64"]
    for odd in ("no-such-compiler", " ", 'gcc "'):
        monkeypatch.setenv("CC", odd)
        assert compiler() is None


def test_what_a_killed_process_left_is_removed(cache) -> None:
    left, busy = cache / "building-left", cache / "building-busy"
    for folder in (left, busy):
        folder.mkdir(parents=True)
        (folder / "half.so").touch()
    os.utime(left, (time.time() - 7200,) * 2)
    os.utime(busy, (time.time() - 1800,) * 2)
    assert works()
    assert busy.exists()
    assert not left.exists()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[Path, bytes], object]] = {
    "a flipped byte": lambda kept, content: kept.write_bytes(flipped(content)),
    "half": lambda kept, content: kept.write_bytes(content[: len(content) // 2]),
    "empty": lambda kept, _: kept.touch(),
    "a FIFO": lambda kept, _: os.mkfifo(kept),
    "another name": lambda kept, content: kept.with_name(f"{kept.stem}0.so").write_bytes(content),
}


@pytest.mark.parametrize("damage", [pytest.param(one, marks=[pytest.mark.slow] * (one != "half")) for one in DAMAGES])
def test_a_damaged_file_is_made_anew(damage, cache) -> None:
    assert works()
    (kept,) = cache.iterdir()
    content = kept.read_bytes()
    kept.unlink()
    DAMAGES[damage](kept, content)
    kernels_for.cache_clear()
    with in_time():
        assert works()
    assert kept.is_file()


def in_memory(*shape: int) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("given", [torch._neg_view, lambda one: torch._efficientzerotensor(one.shape)])
def test_what_memory_does_not_say_is_left_to_pytorch(given) -> None:
    x = given(in_memory(4, 1, 4, 4))
    assert not has_kernels(x)
    assert not has_kernels_over_time(x.unflatten(0, (2, 2)))
    assert torch.equal(max_pool(x), max_pool2d(x, 2))


def test_so_is_what_holds_nothing() -> None:
    with FakeTensorMode():
        x = torch.empty(4, 3, 4, 4, memory_format=torch.channels_last)
        assert not has_kernels(x)
        assert not has_kernels_over_time(x.unflatten(0, (2, 2)))
        assert max_pool(x).shape == (4, 3, 2, 2)


def fired(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    return norm_fire(x, shift, nn.BatchNorm2d(3, affine=False), 0.5, Surrogate("triangle"))


def fired_over_time(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    norm = nn.BatchNorm2d(3, affine=False)
    return fire_over_time(x.unflatten(0, (2, 2)), shift, norm, 0.5, 0.5, Surrogate("triangle"))


FUNCTIONS = {
    "max_pool": lambda x, _: max_pool(x),
    "batch_norm": lambda x, _: batch_norm(x, nn.BatchNorm2d(3)),
    "norm_fire": fired,
    "fire_over_time": fired_over_time,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_and_shifts_may_have_their_sign_elsewhere(name) -> None:
    found = []
    for given in (torch._neg_view, torch.neg):
        x = in_memory(4, 3, 4, 4).requires_grad_()
        shift = torch.tensor([0.3, -0.4, 0.5]).requires_grad_()
        out = FUNCTIONS[name](x, given(shift))
        laid = torch.linspace(-1, 1, out.numel()).view_as(out)
        if out.ndim == 4:
            laid = laid.contiguous(memory_format=torch.channels_last)
        out.backward(given(laid))
        found.append([out.detach(), x.grad, *([] if shift.grad is None else [shift.grad])])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_lie_where_the_input_does_wherever_others_would(name) -> None:
    x, shift = in_memory(4, 3, 4, 4).requires_grad_(), torch.zeros(3)
    plain = torch.autograd.grad(FUNCTIONS[name](x, shift).sum(), x)[0]
    norm = nn.BatchNorm2d(3, affine=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn, "BatchNorm2d", lambda *_, **__: norm)  # its tensors lie here
        with torch.device("meta"):
            elsewhere = torch.autograd.grad(FUNCTIONS[name](x, shift).sum(), x)[0]
    assert torch.equal(plain, elsewhere)


@pytest.mark.parametrize("name", [*FUNCTIONS, "a step, expanded", "charge", "convolution"])
def test_hooks_may_lay_out_what_is_saved_otherwise(name) -> None:
    functions = FUNCTIONS | {
        "a step, expanded": lambda x, shift: fire_over_time(
            x[None].expand(2, *x.shape), shift, nn.BatchNorm2d(3, affine=False), 0.5, 0.5, Surrogate("triangle")
        ),
        "charge": lambda x, _: charge(x, 0.4, 2 * x),
        "convolution": lambda x, _: conv3x3(
            x.bfloat16(), torch.ones(2, 3, 3, 3).bfloat16().requires_grad_(), pool=True
        ),
    }
    x, shift = in_memory(4, 3, 4, 4).requires_grad_(), torch.tensor([0.3, -0.4, 0.5]).requires_grad_()
    found = []
    for memory_format in (torch.preserve_format, torch.contiguous_format):
        pack = partial(torch.clone, memory_format=memory_format)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
            out = functions[name](x, shift)
        loss = (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
        found.append(torch.autograd.grad(loss, (x, shift), allow_unused=True))
    for one, other in zip(*found, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


ONCE = FUNCTIONS | {
    "charge": lambda x, _: charge(x[None], 0.4, x[None]),
    "scan_gru": lambda x, _: GRU(4, 4, batch_first=True)(x.flatten(1, 2).repeat(1, 2, 1))[0],
    "scan_rnn": lambda x, _: RNN(4, 4, batch_first=True)(x.flatten(1, 2).repeat(1, 2, 1))[0],
}


@pytest.mark.parametrize("name", ONCE)
def test_a_second_derivative_is_refused_rather_than_wrong(name) -> None:
    x = in_memory(4, 3, 4, 4).requires_grad_()
    loss = ONCE[name](x, torch.zeros(3)).square().sum()
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("lost", [lambda one: one.to("meta"), FakeTensorMode().from_tensor, torch._neg_view])
def test_no_kernel_reads_an_address_of_nothing(lost) -> None:
    compiled, x = kernels_for(torch.float32), torch.ones(1, 2)
    assert compiled
    with pytest.raises(ValueError, match="kernels: expected tensors whose numbers lie in this machine's memory"):
        compiled("affine", lost(x), 1, 2, torch.ones(2), torch.ones(2), torch.empty(1, 2))


@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 3, 1, 1), (4, 2, 3, 3), (3, 3, 3)])
def test_a_3x3_convolution_has_3x3_weights(shape) -> None:
    with pytest.raises(ValueError, match=r"^weight: expected \(O, C, 3, 3\) for x \(4, 3, 4, 4\), got"):
        conv3x3(in_memory(4, 3, 4, 4), torch.ones(shape, requires_grad=True))


def charged(currents: torch.Tensor) -> torch.Tensor:
    return LIF(3).charge_and_fire(currents[None], Incoming(currents[None]))[0]


TRANSFORMED = {
    "norm": BatchNorm(3, track_running_stats=False),  # which PyTorch's own could not update there
    "pooling": MaxPool(),
    "neurons": charged,
    "cells": lambda x: GRU(4, 4, batch_first=True)(x.flatten(1, 2))[0],
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_gradients_of_torch_func_are_autograds(name) -> None:
    def loss(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        return TRANSFORMED[name](x).pow(3).sum()

    x = in_memory(4, 3, 4, 4)
    found = torch.func.grad(loss)(x)
    expected = torch.autograd.grad(loss(x.requires_grad_()), x)[0]
    assert expected.any()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


WHOLE = {
    "conv-tiny": lambda: create_model("conv-tiny", channels=(4, 4, 8), image_size=16).eval(),
    "stem": lambda: create_model("spiking-vgg-xs", width=4, image_size=16).stem,  # in training
    "rectified stem": lambda: create_model("spiking-vgg-xs", width=4, image_size=16, stem="rectified").stem,
}


@pytest.mark.parametrize("name", WHOLE)
def test_gradients_of_torch_func_pass_through_whole_networks(name) -> None:
    torch.manual_seed(0)
    network = WHOLE[name]().double()
    if "stem" not in name:
        nn.init.normal_(network.head.weight)  # it begins at 0

    def loss(x: torch.Tensor) -> torch.Tensor:
        return network(x).pow(3).sum()

    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    found = torch.func.grad(loss)(x)
    expected = torch.autograd.grad(loss(x.requires_grad_()), x)[0]
    assert expected.any()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["norm", "pooling"])
def test_layers_may_be_mapped_over(name) -> None:
    x, layer = in_memory(8, 3, 4, 4).unflatten(0, (2, 4)), TRANSFORMED[name]
    torch.testing.assert_close(torch.func.vmap(layer)(x), torch.stack([*map(layer, x)]))
