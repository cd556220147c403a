"""What errors say."""

import pytest

from onespike.errors import OnespikeError, requires


@pytest.mark.parametrize(("what", "begin"), [("events", "events: "), ("", "")])
def test_a_missing_package_is_named_with_what_brings_it(what: str, begin: str):
    message = rf"^{begin}nowhere is missing: pip install 'onespike\[events\]'$"
    with pytest.raises(OnespikeError, match=message), requires("events", what):
        import nowhere  # noqa: F401
