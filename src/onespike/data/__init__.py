"""Data sets: opened by name, or made of anybody's own, and described by one configuration."""

from typing import TYPE_CHECKING, Any

from onespike.data.config import DataConfig as DataConfig

if TYPE_CHECKING:
    from onespike.data.dataset import Dataset as Dataset
    from onespike.data.dataset import as_dataset as as_dataset
    from onespike.data.dataset import open_dataset as open_dataset


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is asked for: the configuration alone does not."""
    if name in ("Dataset", "as_dataset", "open_dataset"):
        from onespike.data import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
