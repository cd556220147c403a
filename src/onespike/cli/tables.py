"""Printing for people."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def person(json: str | None = None) -> "Console":
    """The console for people: the standard error if the standard output is for JSON. Lines are printed as they are."""
    from onespike.terminal import Terminal

    console = Terminal(stderr=json == "-", soft_wrap=True)
    if not console.is_terminal:
        console.width = 120  # in a file nothing needs to be cut: room for long names of layers
    return console


def plain_table(*columns: str, rows: Iterable[Sequence[str]] = (), wrap: bool = False) -> "Table":
    """Make a table without lines; columns that begin with > are numbers, flush right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        side = "right" if column.startswith(">") else "left"
        table.add_column(column.removeprefix(">"), justify=side, no_wrap=not wrap)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    return table
