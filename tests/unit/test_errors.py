"""What errors say."""

import time

import pytest

from onespike.errors import OnespikeError, requires, unknown


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
