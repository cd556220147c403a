"""What errors say."""

import time

import pytest

from onespike.errors import OnespikeError, damage_named, listed, requires, shown, unknown


@pytest.mark.parametrize(("what", "begin"), [("events", "events: "), ("", "")])
def test_a_missing_package_is_named_with_what_brings_it(what: str, begin: str):
    message = rf"^{begin}nowhere is missing: pip install 'onespike\[events\]'$"
    with pytest.raises(OnespikeError, match=message), requires("events", what):
        import nowhere  # noqa: F401


def test_a_package_that_is_there_and_cannot_be_imported_keeps_its_reason():
    message = r"^search: libGL.so.1: cannot open shared object file: pip install 'onespike\[search\]'$"
    with pytest.raises(OnespikeError, match=message) as caught, requires("search", "search"):
        raise ImportError("libGL.so.1: cannot open shared object file")
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_name_without_end_is_cut_before_it_is_compared():
    began = time.process_time()
    known = [f"--train.option_{one}" for one in range(200)]
    message = str(unknown("option", "--train." + "0123456789" * 100_000, known))
    assert time.process_time() - began < 1
    assert message.startswith("unknown option '--train.0123")
    assert len(message) < 200


def test_a_name_is_shown_as_it_would_be_typed():
    assert str(unknown("model", "a\\b\x1b", ["x"])) == r"unknown model 'a\b\x1b': known: x"


def test_the_nearest_name_is_meant_and_a_dozen_are_listed():
    dozen = [f"{one:02}" for one in range(12)]
    assert str(unknown("x", "abcd", [*dozen, "abxy"])) == "unknown x 'abcd': see --help"
    assert str(unknown("x", "abcd", dozen)) == f"unknown x 'abcd': known: {', '.join(dozen)}"
    for near in (["bcda", "abce"], ["abce", "bcda"]):  # both share three letters with it, one in their places
        assert str(unknown("x", "abcd", near)).startswith("unknown x 'abcd': did you mean 'abce'?; known: ")
    assert str(unknown("x", "abcde", ["abcfg"])) == "unknown x 'abcde': did you mean 'abcfg'?; known: abcfg"
    assert str(unknown("x", "abcd", [])) == "unknown x 'abcd': known: none"


def test_a_shared_section_does_not_make_names_nearer():
    known = ["--model.init_args", "--model.levels", "--train.lr"]
    assert str(unknown("option", "--model.width", known)).startswith("unknown option '--model.width': known: ")
    assert "did you mean '--model.levels'?" in str(unknown("option", "--model.level", known))
    assert "did you mean '--train.lr'?" in str(unknown("option", "--train.lrr", known))
    assert "did you mean '--train.lr'?" in str(unknown("option", "--trian.lr", known))


def test_a_value_of_no_letters_is_shown_in_quotes():
    assert [shown(one) for one in ("a", "", " ", None, 10**5000)] == [
        *("a", "''", "' '", "None"),
        "a number of thousands of digits",
    ]


def test_a_list_of_names_has_each_once_and_says_how_many_more_there_are():
    assert listed(["b", "a", "b"]) == "b, a"
    assert listed("abcde") == "a, b, c, d, e"
    assert listed("abcdefg", "; ", most=3) == "a; b; c and 4 more"


class PanicException(BaseException):
    """What libraries in Rust raise."""


@pytest.mark.parametrize("error", [ValueError("a\nb"), PanicException("a b")])
def test_whatever_damaged_bytes_raise_names_the_file(error: BaseException):
    message = r"^x\.npy: not read \(a b\); expected arrays$"
    with pytest.raises(OnespikeError, match=message) as raised, damage_named("x.npy", "not read", "arrays"):
        raise error
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OnespikeError("x"), MemoryError(), RuntimeError("out of memory")]
)
def test_what_is_no_damage_stays_what_it_is(error: BaseException):
    with pytest.raises(type(error)) as raised, damage_named("x.npy", "not read", "arrays"):
        raise error
    assert raised.value is error
