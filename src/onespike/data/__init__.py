"""Data sets: opened by name, or made of anybody's own, and described by one configuration."""

from typing import TYPE_CHECKING

from onespike.data.config import DataConfig
from onespike.lazy import lazy

if TYPE_CHECKING:
    from onespike.data.dataset import Dataset, as_dataset, open_dataset

__all__ = ["DataConfig", "Dataset", "as_dataset", "open_dataset"]

_HOMES = dict.fromkeys(("Dataset", "as_dataset", "open_dataset"), "onespike.data.dataset")
__getattr__, __dir__ = lazy(__name__, _HOMES)
