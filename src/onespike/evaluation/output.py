"""Results on the disk: whole or not there, and a folder only once there is something to put into it."""

import csv
import io
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from onespike.durable import write_whole
from onespike.errors import OnespikeError


def save_text(text: str, path: Path) -> None:
    """Write a text file, whole; its folder is made if need be.

    Raises:
        OnespikeError: It cannot be written.
    """
    _save(path, text)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write rows as CSV, with plain line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def save_json(content: dict[str, Any], target: str) -> None:
    """Write JSON.

    Args:
        content: What to write.
        target: A path, or "-" for the standard output.

    Raises:
        OnespikeError: It cannot be written.
    """
    text = json.dumps(content, indent=2, allow_nan=False)
    if target == "-":
        print(text)
    else:
        save_text(text + "\n", Path(target))


def save_figure(figure: Figure, path: Path, dpi: int) -> None:
    """Draw a figure into a PNG, whole and cut to what is drawn; its folder is made if need be.

    Raises:
        OnespikeError: It cannot be written.
    """
    FigureCanvasAgg(figure)
    picture = io.BytesIO()
    with warnings.catch_warnings():
        # A class name in a script that matplotlib's font lacks is drawn as boxes; the names are in the other files.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(picture, dpi=dpi, format="png", bbox_inches="tight")
    _save(path, picture.getvalue())


def _save(path: Path, content: str | bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise OnespikeError(f"cannot write {path}: {error.strerror or error}") from error
