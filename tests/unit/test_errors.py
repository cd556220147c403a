"""What errors say."""

import pytest

from onespike.errors import OnespikeError, requires


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
