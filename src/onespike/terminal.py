"""Output for people: terminals on which names from outside do nothing, tables, and bars of progress."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from onespike.errors import printable


class Terminal(Console):
    """A console that prints text as it is: no markup, no emoji, no escape sequence, no line break but at its ends."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    @override
    def render_str(self, text: str, **options: Any) -> Text:
        inner = text.strip("\n")
        before, _, after = text.partition(inner) if inner else (text, "", "")
        return super().render_str(f"{before}{printable(inner, len(inner))}{after}", **options)


def person(json: str | None = None) -> Terminal:
    """The console for people: the standard error if the standard output is for JSON. Lines are printed as they are."""
    console = Terminal(stderr=json == "-", soft_wrap=True)
    if not console.is_terminal:
        console.width = 120  # in a file nothing needs to be cut: room for long names of layers
    return console


def tracked(items: Iterable[Any], what: str, total: int | None = None, hidden: bool = False) -> Iterable[Any]:
    """Iterate with a bar of progress, on the standard error, if that is a terminal."""
    console = Console(stderr=True)
    return track(items, what, total, console=console, transient=True, disable=hidden or not console.is_terminal)


def plain_table(*columns: str, rows: Iterable[Sequence[str]] = (), wrap: bool = False) -> Table:
    """Make a table without lines; columns that begin with > are numbers, flush right.

    On a narrow terminal text is broken, never cut: it may be a name to type. Numbers are broken only with `wrap`.
    """
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        side: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        whole = side == "right" and not wrap
        table.add_column(column.removeprefix(">"), justify=side, no_wrap=whole, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
