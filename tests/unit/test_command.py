"""From words to a function's arguments."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from onespike.cli.command import call
from onespike.errors import OnespikeError


def copy(run: Path | None = None, /, out: Path | None = None, json: str | None = None, count: int | None = None) -> int:
    copy.given = run, out, json, count
    return 0


def test_null_is_a_name_like_any_other():
    assert call(copy, ["null", "--out", "null", "--json=null"], "copy") == 0
    assert copy.given == (Path("null"), Path("null"), "null", None)


def test_what_takes_no_name_takes_no_null():
    with pytest.raises(OnespikeError, match=r"^--count: expected a whole number, got null$"):
        call(copy, ["--count", "null"], "copy")


@dataclass
class Undocumented:
    size: int = 1


def test_options_need_no_documentation(capsys):  # which python -OO leaves out
    def make(options: Undocumented) -> int:
        return len(options)

    assert call(make, ["--size", "2"], "make") == 1
    with pytest.raises(SystemExit):
        call(make, ["--help"], "make")
    assert "--size" in capsys.readouterr().out


def test_defaults_are_shown_as_they_are_typed(capsys):
    def draw(
        sizes: tuple[int, ...] = (1, 2),
        none: tuple[str, ...] = (),
        steps: list[int] = [1, 4],  # noqa: B006 - only read
    ) -> int:
        return len(sizes) + len(none) + len(steps)

    with pytest.raises(SystemExit):
        call(draw, ["--help"], "draw")
    printed = capsys.readouterr().out
    assert re.findall(r"\(default: .*\)", printed) == ["(default: [1,2])", "(default: 1 4)"]
    assert call(draw, ["--sizes", "[1,2]", "--steps", "1", "4"], "draw") == 4


def test_a_list_takes_one_word_or_more():
    def add(numbers: list[int], more: list[int] = []) -> int:  # noqa: B006 - only read
        return sum(numbers) + sum(more)

    assert call(add, ["1", "2", "--more", "3", "4"], "add NUMBER …") == 10
    with pytest.raises(OnespikeError, match="expected NUMBERS: add NUMBER …"):
        call(add, [], "add NUMBER …")
    with pytest.raises(OnespikeError, match=r"^numbers: expected a whole number, got x$"):
        call(add, ["1", "x"], "add NUMBER …")
