import pytest

from onespike.units import layers


@pytest.fixture(autouse=True)
def few_values_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our batch norm computes, however few the values of a test are."""
    monkeypatch.setattr(layers, "MANY_VALUES", {})
