"""Plain values become configs, or one line says why not."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from onespike.configs import Text, convert, flat, make, merge, names_of, plain, read_json, read_yaml, write_yaml
from onespike.errors import OnespikeError


@dataclass(frozen=True)
class Inner:
    name: str = "a"
    rate: float = 0.5
    options: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outer:
    count: int = 1
    sizes: tuple[int, ...] = (1, 2)
    span: tuple[float, float] | None = None
    kind: Literal["x", "y"] = "x"
    flag: bool = False
    text: str | None = None
    inner: Inner = field(default_factory=Inner)


def test_text_is_read_as_yaml_where_that_is_meant():
    values = {"count": "3", "sizes": "[4,5]", "span": "[0.1,1e-3]", "flag": "true", "text": "5", "kind": "y"}
    made = make(Outer, {**values, "inner": {"rate": "1e-2", "options": {"gain": "2"}}}, "outer")
    assert made == Outer(3, (4, 5), (0.1, 0.001), "y", True, "5", Inner("a", 0.01, {"gain": 2.0}))
    assert make(Outer, {"text": "null", "span": "null", "inner": "b"}, "outer") == Outer(inner=Inner("b"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": "many"}, "outer.count: expected a whole number, got many"),
        ({"count": 1.5}, "outer.count: expected a whole number, got 1.5"),
        ({"count": True}, "outer.count: expected a whole number, got True"),
        ({"flag": "maybe"}, "outer.flag: expected true or false, got maybe"),
        ({"sizes": "[1,a]"}, "outer.sizes: expected a whole number, got a"),
        ({"sizes": 3}, "outer.sizes: expected a list such as [1, 2], got 3"),
        ({"span": "[1,2,3]"}, "outer.span: expected a list such as [1, 2] or null, got [1,2,3]"),
        ({"kind": "z"}, "unknown outer.kind 'z': known: x, y"),
        ({"kint": "x"}, "unknown option 'outer.kint': did you mean 'outer.kind'"),
        ({"inner": {"rat": 1}}, "unknown option 'outer.inner.rat': did you mean 'outer.inner.rate'"),
        ({"inner": 3}, "outer.inner: expected keys and values, got 3"),
        ({"inner": {"rate": True}}, "outer.inner.rate: expected a number, got True"),
        ({"inner": {"options": 3}}, "outer.inner.options: expected keys and values, got 3"),
        ({"text": np.array([1, 2])}, "outer.text: expected text or null, got [1 2]"),
        ({"inner": {"options": {"gain": "much"}}}, "outer.inner.options.gain: expected a number, got much"),
    ],
)
def test_what_does_not_fit_is_one_line(values: dict[str, Any], message: str):
    with pytest.raises(OnespikeError) as error:
        make(Outer, values, "outer")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


whole = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_characters="\0"))
configs = st.builds(
    Outer,
    whole,
    st.lists(whole, max_size=3).map(tuple),
    st.none() | st.tuples(floats, floats),
    st.sampled_from(["x", "y"]),
    st.booleans(),
    st.none() | texts,
    st.builds(Inner, texts, floats, st.dictionaries(texts, floats)),
)


@given(configs)
def test_plain_values_make_the_same_config(config: Outer):
    if config.text not in ("null", "None"):
        assert make(Outer, plain(config), "outer") == config


def test_names_and_flat_values():
    assert [*names_of(Outer, "o")][-3:] == ["o.inner.name", "o.inner.rate", "o.inner.options"]
    assert flat(Outer(), "o")["o.inner.rate"] == 0.5
    assert "o.inner" not in flat(Outer(), "o")


def test_merging_goes_into_mappings_and_a_name_changes_the_name():
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}) == {"a": {"b": 1, "c": 3}}
    assert merge({"a": "lif"}, {"a": {"decay": 3}}) == {"a": {"name": "lif", "decay": 3}}
    assert merge({"a": {"name": "lif", "decay": 3}}, {"a": "plif"}) == {"a": {"name": "plif", "decay": 3}}
    assert merge({"a": Inner("b")}, {"a": {"rate": 0.1}})["a"] == {**plain(Inner("b")), "rate": 0.1}
    assert merge({"a": {"b": 1}}, {"a": "lif"}) == {"a": "lif"}


def test_a_value_that_fits_is_left_alone():
    inner = Inner("b")
    assert convert(inner, Inner, "x") is inner
    assert convert(5, Any, "x") == 5


def test_what_has_no_type_is_plain_all_through():
    found = convert(
        {"a": Text("*.png"), "b": {"c": Text("3")}, "d": [Text("1e-3"), np.float32(2)], "e": (1, 2)}, Any, "x"
    )
    assert found == {"a": "*.png", "b": {"c": 3}, "d": [0.001, 2.0], "e": (1, 2)}
    assert type(found["a"]) is str
    assert yaml.safe_load(yaml.safe_dump(plain(found)))["b"] == {"c": 3}
    assert [convert(Text(one), Any, "x") for one in ("1e3", '"1e3"', "no", "'no'")] == [1000.0, "1e3", False, "no"]
    assert [convert(Text(one), Any, "x") for one in ("007", "nan", "[007, nan]")] == ["007", "nan", ["007", "nan"]]
    assert convert(Path("there"), Any, "x") == "there"


@pytest.mark.parametrize("text", ["1e-3", "-1E3", "1.5e3", "1.e+3", ".5e2"])
def test_a_number_without_a_type_is_one_in_a_file_and_in_a_list_and_in_quotes_it_is_text(text: str, tmp_path: Path):
    (file := tmp_path / "some.yaml").write_text(f"[{text}, '{text}']")
    assert read_yaml(file) == [float(text), text]
    assert convert(Text(f"[{text}]"), Any, "x") == [float(text)]
    file.write_text(write_yaml([text, float(text), "1e-", "e3", "0x1e3"]))
    assert read_yaml(file) == [text, float(text), "1e-", "e3", "0x1e3"]


@pytest.mark.parametrize("text", ["%s ", " %d", "a: b: c ", "%s"])
def test_text_that_is_no_yaml_stays_as_it_is_and_can_be_written(text: str):
    found = convert(Text(text), Any, "x")
    assert (found, type(found)) == (text, str)
    assert yaml.safe_load(yaml.safe_dump(found)) == text


@pytest.mark.parametrize(("text", "expected"), [("a,b", ("a", "b")), ("a", ("a",)), ("[a, b]", ("a", "b")), ("[]", ())])
def test_a_list_may_be_written_with_commas(text: str, expected: tuple[str, ...]):
    assert convert(Text(text), tuple[str, ...], "names") == expected


def test_a_text_with_commas_is_a_list_on_the_command_line_alone():
    with pytest.raises(OnespikeError, match=r"^names: expected a list such as \[1, 2\], got a,b$"):
        convert("a,b", tuple[str, ...], "names")


def test_a_choice_may_be_a_number():
    kind = Literal[1, 2, "auto"]
    assert [convert(one, kind, "x") for one in (2, "2", np.int64(2), "auto")] == [2, 2, 2, "auto"]
    with pytest.raises(OnespikeError, match=r"^unknown x 'True': known: 1, 2, auto$"):
        convert(True, kind, "x")


def test_files_have_so_many_levels_and_no_more(tmp_path: Path):
    def nested(levels: int) -> bytes:
        return b"[" * levels + b"]" * levels

    assert read_json(nested(200), "x.json")
    for levels in (201, 500, 5000):
        (tmp_path / "x.yaml").write_bytes(nested(levels))
        for read in (lambda levels=levels: read_json(nested(levels), "x.json"), lambda: read_yaml(tmp_path / "x.yaml")):
            with pytest.raises(OnespikeError, match=r"x.*: cannot be read as"):
                read()
