from collections.abc import Callable
from pathlib import Path

import pytest

from reproduce.outcome_figure import draw_rows
from reproduce.plan import Setting, Sweep


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONESPIKE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def sweep() -> Sweep:
    """Three settings, one of which repeats the baseline."""
    return Sweep(
        name="demo",
        title="Demo",
        about="A demonstration.",
        settings=[
            Setting("baseline", "baseline", {}),
            Setting("theta", "0.3", {"model.theta": 0.3}, published=50.0),
            Setting("theta", "0.5", {"model.theta": 0.5}),
        ],
        reference="baseline",
        draw=draw_rows,
        recipe="digits",
    )


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """The command line that `command` runs, in a folder of its own."""
    from reproduce.__main__ import main

    monkeypatch.chdir(tmp_path)
    return main
