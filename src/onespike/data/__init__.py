"""Data sets: opened by name, or made of anybody's own, and described by one configuration."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onespike.data.config import DataConfig as DataConfig
    from onespike.data.dataset import Dataset as Dataset
    from onespike.data.dataset import as_dataset as as_dataset
    from onespike.data.dataset import open_dataset as open_dataset

_HOMES = {"DataConfig": "config", "Dataset": "dataset", "as_dataset": "dataset", "open_dataset": "dataset"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: the configuration alone needs no PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
