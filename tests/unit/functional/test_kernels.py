"""Where kernels come from: this machine's compiler, and a cache that nobody else writes."""

import shutil

import pytest
import torch

from onespike.functional.kernels import kernels_for

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONESPIKE_CACHE", str(tmp_path / "cache"))
    kernels_for.cache_clear()
    yield tmp_path / "cache" / "kernels"
    kernels_for.cache_clear()


def works(dtype: torch.dtype = torch.float32) -> bool:
    kernels, x, out = kernels_for(dtype), torch.tensor([[1.0, 3.0]]), torch.empty(1, 2)
    if kernels is None:
        return False
    kernels("affine", x, 1, 2, torch.tensor([2.0, 3.0]), torch.tensor([1.0, -1.0]), out)
    return out.tolist() == [[3, 8]]


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
    kept.write_bytes(b"of somebody else")
    kept.chmod(0o666)
    kernels_for.cache_clear()
    assert works(), "it is compiled anew"
    cache.chmod(0o777)
    (cache / kept.name).write_bytes(b"of somebody else")
    kernels_for.cache_clear()
    assert works(), "it is compiled for this process alone"
    assert kept.read_bytes() == b"of somebody else"


def test_there_may_be_nowhere_to_keep_them(cache) -> None:
    cache.parent.write_text("a file, where the folder should be")
    assert works()


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


def test_a_damaged_file_is_made_anew(cache) -> None:
    assert works()
    (kept,) = cache.iterdir()
    kept.write_bytes(b"half a fil")
    kernels_for.cache_clear()
    assert works()
