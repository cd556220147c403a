"""The wheel in an environment of its own: it needs nothing of the checkout.

Packages it depends on are those of the environment that runs the tests: a line in a .pth file lends them. Such a line
does not lend what is installed there in editable mode, the checkout.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Modules of the package, and where they come from; one that is not from here is printed as well.
WHERE = "import sys, onespike.cli.main, onespike.training.loop, onespike.audit, onespike.evaluation.drawing; "
WHERE += "print(*{str(m.__file__) for n, m in sys.modules.items() if n.split('.')[0] == 'onespike'}, sep='\\n')"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment that has the wheel alone."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    venv.create(folder / "env", with_pip=True)
    (wheel,) = folder.glob("*.whl")
    pip = [folder / "env" / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "env"


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Callable[..., str]:
    def call(program: str, *arguments: object) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ONESPIKE"))}
        environment["ONESPIKE_CACHE"] = str(tmp_path / "cache")
        words = [installed / "bin" / program, *map(str, arguments)]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.mark.slow
def test_the_wheel_trains_and_finds_all_its_files(run: Callable[..., str], installed: Path, tmp_path: Path):
    files = [Path(one) for one in run("python", "-c", WHERE).split()]
    assert len(files) > 50
    assert [one for one in files if installed not in one.parents] == []
    small = ("--data.limit", 100, "--train.epochs", 1, "--train.device", "cpu", "--train.track", "[]")
    run("onespike", "train", "--recipe", "digits", *small, "--out", "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["epochs"], summary["test_images"]) == (1, 360)
    run("onespike", "evaluate", "run")
    run("onespike", "audit", "run", "--images", 8, "--no-latency", "--html", "report.html")
    assert "<html" in (tmp_path / "report.html").read_text()
    assert "@" in run("onespike", "cite")
    assert "conv12" in run("onespike", "models")
