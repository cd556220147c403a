"""What every hostile case asserts, and a run to damage."""

import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from onespike.training import load_recipe, train
from tests.hostile.harness import TINY, in_time

#: `make test` runs one of so many cases; `make test-all` all of them.
FEW = 25


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all cases of this folder but a few as slow."""
    for item in items:
        # By name, so that a new case does not change which of the others run.
        if Path(__file__).parent in item.path.parents and zlib.crc32(item.nodeid.encode()) % FEW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONESPIKE_CACHE", str(cache))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, here and in processes: the time limit counts the seconds of all, and bits depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONESPIKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run, complete; nobody changes it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(load_recipe("digits", {**TINY, "data.cache": str(cache)}), folder, quiet=True)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def refused(command: Callable, tmp_path: Path) -> Callable[..., str]:
    """A command line ends with exit code 2 and one line that holds all `words`, in time, and leaves no `out`."""

    def check(*arguments: object, words: tuple[str, ...] = (), out: str = "out") -> str:
        with in_time():
            code, _, error = command(*arguments)
        said = [line for line in error.splitlines() if not line.startswith("warning: ")]
        assert code == 2, (code, error)
        assert len(said) == 1, error
        assert said[0].startswith("error: "), error
        assert 10 < len(said[0]) < 1100, error
        assert said[0].isprintable(), error
        for word in (*words,):
            assert str(word) in said[0], (word, said[0])
        assert "Traceback" not in error
        assert "<class" not in error
        assert not (tmp_path / out).exists(), list((tmp_path / out).iterdir())
        return said[0]

    return check


@pytest.fixture
def anybodys() -> Iterator[Path]:
    """A folder that `as_nobody` may write, whatever is closed inside."""
    # Whoever it is then may not be able to read this Python: what is imported on the way is imported now.
    for name in ("onespike.audit.audit", "onespike.evaluation.evaluate", "torchvision.transforms.v2"):
        import_module(name)
    import_module("sklearn.datasets").load_digits()

    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    for place, folders, _ in os.walk(folder):  # what is closed could not be removed
        for name in folders:
            Path(place, name).chmod(0o700)
    shutil.rmtree(folder)
