"""Results on the disk: whole or not there, and a folder only once there is something to put into it."""

import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from onespike.errors import OnespikeError
from onespike.training.run import write_whole


def save_text(text: str, path: Path) -> None:
    """Write a text file, whole; its folder is made if need be.

    Raises:
        OnespikeError: It cannot be written.
    """
    with _prepared(path):
        write_whole(path, text)


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
    with _prepared(path):
        new = path.with_name(f".{path.name}.new")
        try:
            new.write_bytes(picture.getvalue())
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise


@contextmanager
def _prepared(path: Path) -> Iterator[None]:
    """Make the folder of a file; what the system refuses, here and inside, becomes an error of one line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OnespikeError(f"cannot write {path}: {error.strerror or error}") from error
