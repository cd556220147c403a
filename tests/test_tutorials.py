"""The notebooks of docs/tutorials: what is committed is code alone, and it runs."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from onespike.training.recipe import load_recipe, recipe_names

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(book: dict[str, Any]) -> list[str]:
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]


def test_what_is_committed_is_a_notebook_without_outputs(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="notebooks cannot be read: pip install 'onespike[docs]'")
    book = json.loads(path.read_text())
    nbformat.validate(book)
    assert path.stat().st_size < 20_000
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None] == []
    assert set(book["metadata"]) == {"kernelspec", "language_info"}
    assert all(not cell["metadata"] for cell in book["cells"])


def test_its_cells_are_short_and_import_what_there_is(path: Path) -> None:
    for cell in code(json.loads(path.read_text())):
        assert len(cell.splitlines()) <= 30
        imports = [one for one in ast.parse(cell).body if isinstance(one, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), path.name, "exec"), {})


def test_its_links_and_names_lead_somewhere(path: Path) -> None:
    book = json.loads(path.read_text())
    prose = "\n".join("".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", prose) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
    assert prose.startswith("# ")
    recipes = re.findall(r'load_recipe\(\s*"([^"]+)"', "\n".join(code(book)))
    assert set(recipes) <= set(recipe_names())
    assert all(load_recipe(name) for name in recipes)
