"""What mkdocs makes of the notebooks in tutorials/: pages with code and what it gave, by running them.

A notebook is run once for each state of its code and of the package; `.cache/tutorials` keeps what came out. Nothing of
that is committed. Runs write into a temporary folder; kernels and decoded data are shared, in the cache.
"""

import base64
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import torch
from nbclient import NotebookClient

from onespike.durable import save_text

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".cache" / "tutorials"
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
#: Notebooks that run at once, each on one thread; seconds that a cell may take.
AT_ONCE, SECONDS = 2, 600


def execute(path: Path) -> Any:
    """Run a notebook in a new temporary folder.

    Raises:
        CellExecutionError: A cell raised; the message shows which.
    """
    book = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        apart = {"IPYTHONDIR": f"{folder}/ipython", "TMPDIR": folder}
        apart["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # whatever this process draws with
        place = {"metadata": {"path": folder}}
        client = NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources=place, coalesce_streams=True)
        kernel = client.create_kernel_manager()
        kernel.connection_file, kernel.transport, kernel.ip = f"{folder}/kernel.json", "ipc", f"{folder}/kernel"
        client.execute(env={**os.environ, **apart, "OMP_NUM_THREADS": "1"})
    return book


def executed(path: Path) -> Any:
    """A notebook with what came out, from what is kept for this code."""
    book, state = nbformat.read(path, as_version=4), hashlib.sha256(f"{sys.version} {torch.__version__}".encode())
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    state.update(json.dumps([cell.source for cell in cells]).encode())
    for one in sorted(one for one in (ROOT / "src").rglob("*") if one.is_file() and "__pycache__" not in one.parts):
        state.update(one.read_bytes())
    kept = KEPT / f"{path.stem}-{state.hexdigest()[:16]}.json"
    if not kept.exists():
        came = [cell.outputs for cell in execute(path).cells if cell.cell_type == "code"]
        for old in KEPT.glob(f"{path.stem}-*"):
            old.unlink(missing_ok=True)
        save_text(json.dumps(came), kept)
    for cell, came in zip(cells, json.loads(kept.read_text()), strict=True):
        cell.outputs = [nbformat.from_dict(one) for one in came]
    return book


def rendered(book: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """The page of a notebook that was run, as Markdown, and its pictures by their place beside the page."""
    parts, pictures = list[str](), dict[str, bytes]()
    for number, cell in enumerate(book.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for text, picture in outputs(cell):
            if picture:
                place = f"{name}/{number}-{len(pictures)}.png"
                pictures[place] = picture
                parts.append(f"![What the code above draws]({place})")
            else:
                parts.append(f"``` {{.text .output}}\n{text.rstrip()}\n```")
    title, rest = parts[0].split("\n", 1)
    note = (
        f'<a href="{name}.ipynb" download>A notebook</a>. Below its code stands what came out when this site was built.'
    )
    return "\n\n".join([title, note, rest.strip(), *parts[1:]]) + "\n", pictures


def outputs(cell: Any) -> Iterator[tuple[str, bytes]]:
    """What a cell printed and drew: a text or a picture each. Warnings, on the standard error, are left out."""
    for output in cell.outputs:
        if output.output_type == "stream":
            if output.name == "stdout":
                yield output.text, b""
        elif "image/png" in output.data:
            yield "", base64.b64decode(output.data["image/png"])
        else:
            yield output.data["text/plain"], b""


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each notebook."""
    from mkdocs.structure.files import File

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for path, book in zip(NOTEBOOKS, pool.map(executed, NOTEBOOKS), strict=True):
            page, pictures = rendered(book, path.stem)
            files.append(File.generated(config, f"tutorials/{path.stem}.md", content=page))
            for place, picture in pictures.items():
                files.append(File.generated(config, f"tutorials/{place}", content=picture))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links to notebooks to their pages."""
    return re.sub(r"\]\((\S*)\.ipynb\)", r"](\1.md)", markdown)
