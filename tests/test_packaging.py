"""What is installed: its files, what it depends on, and how soon it answers."""

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch
import yaml

import onespike
from onespike.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Declared, though nothing imports it: accelerate does, for the default of --train.track.
BY_NAME_ALONE = {"tensorboard"}
#: Optional, and yet imported at once: its kernels are functions of a module, which is imported where it is there.
WITH_ITS_MODULE = {("triton", "norm_fire_triton.py")}


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {normal(re.split(r"[\[<>=;@ ]", one)[0]) for one in requirements}


def imported() -> Iterator[tuple[str, bool, Path]]:
    """Third-party modules that the package imports, whether as the importing module is imported itself, and where."""
    for path in (ROOT / "src").rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {one.partition(".")[0] for one in names} - sys.stdlib_module_names - {"onespike"}:
                yield name, node in tree.body, path


known = functools.cache(packages_distributions)  # reads the records of everything that is installed


def distributions(module: str) -> set[str]:
    """Who brings a module; its own name where that is not installed."""
    return {normal(one) for one in known().get(module, [module])}


def test_every_import_is_declared():
    always = declared(PROJECT["dependencies"])
    extras = declared([one for extra in PROJECT["optional-dependencies"].values() for one in extra])
    for module, at_once, path in imported():
        allowed = always if at_once and (module, path.name) not in WITH_ITS_MODULE else always | extras
        assert distributions(module) & allowed, f"{path}: {module} is not declared in pyproject.toml"


def test_nothing_is_declared_that_nobody_imports():
    needed = {one for module, _, _ in imported() for one in distributions(module)}
    assert declared(PROJECT["dependencies"]) - needed == BY_NAME_ALONE


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as opened:
        yield opened


def test_the_wheel_holds_what_the_package_reads_and_nothing_of_the_repository_beside_it(wheel: zipfile.ZipFile):
    source = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*") if path.is_file()}
    wanted = {path for path in source if "__pycache__" not in path and ".egg-info" not in path}
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert "onespike/py.typed" in held
    assert held == wanted


def test_the_readme_has_no_link_that_leads_nowhere_on_an_index(wheel: zipfile.ZipFile):
    (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    page = Parser().parsestr(wheel.read(name).decode()).get_payload()
    assert "# onespike" in page
    assert "![" not in page
    assert "\n!" not in page
    assert [link for link in re.findall(r"\]\(([^)]+)\)", page) if not link.startswith("https://")] == []


def test_the_citation_file_says_what_its_format_demands():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert (citation["title"], citation["license"]) == (PROJECT["name"], PROJECT["license"])
    assert [one["name"] for one in citation["authors"]] == [one["name"] for one in PROJECT["authors"]]


def test_the_public_names_are_listed():
    names = {
        "OnespikeError",
        "Run",
        "allow_imports",
        "convert",
        "create_model",
        "load",
        "load_converted",
        "load_recipe",
    }
    assert names | {"functional", "train"} <= set(dir(onespike))
    assert set(onespike.__all__) <= set(dir(onespike))
    for name in onespike.__all__:
        assert getattr(onespike, name) is not None


#: What a command takes seconds to import, and needs for its work alone.
HEAVY = {"torch", "torch._dynamo", "timm", "datasets", "matplotlib"}
HELP = """
import sys
from onespike.cli.main import main
try:
    main([sys.argv[1], "--help"])
except SystemExit as end:
    assert not end.code
"""


def heavy(code: str, *arguments: str) -> str:
    """What of it Python imports for this."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "120"}
    command = [sys.executable, "-c", f"{code}\nprint(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr.strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_at_once(command: str):
    assert heavy(HELP, command) == "[]"


def test_importing_the_package_takes_no_time():
    assert heavy("import sys, onespike") == "[]"
    assert "torch" in heavy("import sys, torch")


@pytest.mark.slow
def test_evaluation_and_audit_of_our_networks_import_no_timm():
    networks = "[onespike.create_model(name) for name in ('conv-tiny', 'lstm12', 'spiking-resnet-xs')]"
    assert "timm" not in heavy(f"import sys, onespike.evaluation, onespike.audit.audit\n{networks}")


@pytest.mark.skipif(torch.__version__ < "2.7.dev0", reason="PyTorch 2.6 needs its compiler for the device meta")
def test_opening_a_run_imports_no_compiler():
    opened = "from onespike.tensors import shapes_alone\nwith shapes_alone(): onespike.create_model('conv-tiny')"
    assert "torch._dynamo" not in heavy(f"import sys, onespike\n{opened}")
