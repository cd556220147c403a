import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import settings

from tests.running import ONESPIKE

# Before any test is collected, since `given` takes these as it decorates.
settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("reproducible")
# A shell ignores Ctrl-C in what it starts in the background; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Give the tests a cache of their own: what an older version left at home must hide no error, nor ours harm it.

    It is there before any test is collected, since modules look for compiled kernels as they are imported; the workers
    of pytest-xdist inherit it. What the demo fetches from the network comes along.
    """
    if "ONESPIKE_CACHE" not in os.environ:
        os.environ["ONESPIKE_CACHE"] = folder = tempfile.mkdtemp(prefix="onespike-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        for fetched in Path("~/.cache/onespike").expanduser().glob("onnxruntime-web-*.tgz"):
            shutil.copy(fetched, folder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ONESPIKE_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"real data sets are absent: {folder} (set ONESPIKE_DATA)")
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is decoded, which tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def trusts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test allows to be imported, no other test's command, nor its worker processes, may import."""
    monkeypatch.setattr("onespike.classpath._ALLOWED", set())


@pytest.fixture(scope="session")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """What trainings draw curves with: the picture is that of the first one."""
    from onespike.durable import write_whole
    from onespike.training.saving import draw_curves

    first = tmp_path_factory.mktemp("curves") / "curves.png"

    def draw(progress: Any, path: Path) -> None:
        if not first.exists():
            draw_curves(progress, first)
        write_whole(path, first.read_bytes())

    return draw


@pytest.fixture(autouse=True)
def draws_once(monkeypatch: pytest.MonkeyPatch, curves: Callable[..., None]) -> None:
    """Draw the curves of one training for all: a picture takes as long as to train a network as small as here."""
    monkeypatch.setattr("onespike.training.saving.draw_curves", curves)


@pytest.fixture
def main() -> Callable[[list[str]], None]:
    """The command line that `command` runs."""
    from onespike.cli.main import main

    return main


@pytest.fixture
def command(main: Callable, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line in this process; gives the exit code, what it printed and what it complained about."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(exit_.value.code or 0), printed.out, printed.err

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command line, or another `program`, with pipes for its output; with the test it and its children end."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object, program: Sequence[str] = ONESPIKE, **options: Any) -> subprocess.Popen[str]:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [*program, *map(str, arguments)]
        started.append(subprocess.Popen(command, start_new_session=True, **{**pipes, **options}))
        return started[-1]

    yield begin
    for process in started:
        with process:
            if process.poll() is None:
                with suppress(psutil.Error):  # launchers and searches give theirs a group of their own
                    for child in psutil.Process(process.pid).children(recursive=True):
                        child.kill()
            with suppress(ProcessLookupError):  # what a process left that has ended
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def browser() -> Iterator[Any]:
    """Chromium without a window, with a camera that films a test picture."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no browser can be driven: playwright is not installed"
    )
    with playwright.sync_playwright() as engine:
        own = Path(engine.chromium.executable_path)
        found = str(own) if own.exists() else shutil.which("chromium") or shutil.which("google-chrome")
        if not found:
            pytest.skip("no browser: neither playwright's own nor chromium in the path")
        camera = "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"
        arguments = ["--no-sandbox", *camera]
        browser = engine.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()
