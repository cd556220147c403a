"""Output for people: terminals on which names from outside do nothing."""

from typing import Any

from rich.console import Console
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
