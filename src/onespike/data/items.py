"""Labelled images as others hold them: a map-style data set of PyTorch, or a table of Hugging Face `datasets`."""

import operator
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Subset, TensorDataset
from typing_extensions import override

from onespike.data.sources.base import PARTS, Content, Sample
from onespike.data.split import split
from onespike.errors import OnespikeError

#: What a part may be called, here and on the Hub, the usual name first.
_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}


class Items(ABC):
    """Images and labels by number; `where` names them in errors."""

    where: str

    @abstractmethod
    def fetch(self, index: int) -> tuple[Any, int]:
        """The image as its owner gives it, and its label; raises OnespikeError if there is no such pair."""

    @abstractmethod
    def labels(self) -> np.ndarray:
        """All labels, (N,) int64, in a quick way if there is one."""

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """The class names, if their owner says them, or else none."""

    def grey(self, index: int) -> bool:
        """Whether an image that is not of floats is stored in grey."""
        return self.pixels(index).shape[2] == 1

    def pixels(self, index: int) -> np.ndarray:
        """An image that is not of floats, (H, W, C) uint8, C = 1 if it is stored in grey, else 3."""
        from onespike.data.sources.image import uint8_pixels

        return uint8_pixels(self.fetch(index)[0], self.origin(index))

    def origin(self, index: int) -> str:
        """Name an item for a person."""
        return f"{self.where}: item {index}"


@dataclass(frozen=True, eq=False)
class TorchItems(Items):
    """Items of a map-style data set of PyTorch; its random draws follow from a seed, or else from the item's number."""

    source: Any
    where: str

    @override
    def fetch(self, index: int, seed: int | None = None) -> tuple[Any, int]:
        with drawing(index if seed is None else seed):
            item = self.source[index]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise OnespikeError(
                f"{self.origin(index)}: a {type(item).__name__}; expected an image and its label, (image, label); "
                "give a data set with labels, in such pairs"
            )
        return item[0], whole_number(item[1], self.origin(index))

    @override
    def labels(self) -> np.ndarray:
        if (known := _known_labels(self.source)) is not None:
            return known
        return np.array([self.fetch(index)[1] for index in range(len(self.source))], np.int64)

    @property
    @override
    def classes(self) -> tuple[str, ...]:
        source = self.source
        while isinstance(source, Subset):
            source = source.dataset
        return tuple(map(str, getattr(source, "classes", ())))


@dataclass(frozen=True, eq=False)
class TableItems(Items):
    """Rows of a Hugging Face data set."""

    source: Any
    where: str
    image: str
    label: str

    @override
    def fetch(self, index: int) -> tuple[bytes, int]:
        row, origin = self.source[index], self.origin(index)
        cell, label = row[self.image], row[self.label]
        if cell is None or label is None:
            raise OnespikeError(f"{origin}: no image or no label; expected both; remove or complete the row")
        try:
            data = Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"]
        except (TypeError, OSError) as error:
            raise OnespikeError(f"{origin}: its image cannot be read ({error}); expected a file; restore it") from error
        return data, whole_number(label, origin)

    @override
    def pixels(self, index: int) -> np.ndarray:
        from onespike.data.sources.image import decode

        return decode(self.fetch(index)[0], self.origin(index), 1 if self.grey(index) else 3)

    @override
    def grey(self, index: int) -> bool:
        from onespike.data.sources.image import is_grey

        return is_grey(self.fetch(index)[0], self.origin(index))

    @override
    def labels(self) -> np.ndarray:
        column = self.source.select_columns(self.label)
        rows = (row[self.label] for row in column)
        return np.array([whole_number(label, self.origin(index)) for index, label in enumerate(rows)], np.int64)

    @property
    @override
    def classes(self) -> tuple[str, ...]:
        return tuple(getattr(self.source.features[self.label], "names", ()))


class Part(NamedTuple):
    """Some items: which, and the labels of all of them."""

    items: Items
    labels: np.ndarray
    indices: np.ndarray


def parts_of(data: Any, name: str, test: Any = None, validation: Any = None) -> dict[str, Part]:
    """Take a data set apart.

    Args:
        data: A data set; or several: a mapping from the parts' names, (train, test), or (train, validation, test).
        name: How to call it in errors.
        test: The test part, if data holds none.
        validation: The validation part, likewise.

    Returns:
        Part -> items. Without a test part the validation part is that; without either, a fixed fifth of the images.

    Raises:
        OnespikeError: Something is no data set, is empty, or has no labels.
    """
    given: dict[str, Any] = {"test": test, "validation": validation}
    if isinstance(data, Mapping):
        given |= {part: data[name] for part, names in _NAMES.items() for name in reversed(names) if name in data}
    elif isinstance(data, tuple):
        if len(data) not in (2, 3):
            raise OnespikeError(f"{name}: {len(data)} data sets; expected (train, test), or (train, validation, test)")
        given.update(zip(("train", "test") if len(data) == 2 else PARTS, data, strict=True))
    else:
        given["train"] = data
    if given.get("train") is None:
        raise OnespikeError(f"{name}: the parts {', '.join(map(str, data))}; expected train, and test or validation")
    parts = {part: _part(given[part], f"{name}, {part}") for part in PARTS if given.get(part) is not None}
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    elif "test" not in parts:
        items, labels, _ = parts["train"]
        if len(labels) < 2:
            raise OnespikeError(f"{name}: a single image and no test part; expected several; add some")
        train, held_out = split(labels, len(labels) - max(1, round(len(labels) / 5)))
        parts = {"train": Part(items, labels, train), "test": Part(items, labels, held_out)}
    return {part: parts[part] for part in PARTS if part in parts}


def class_names(parts: Mapping[str, Part], given: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names given, or those that the training part knows, or else "0" to the largest training label.

    Raises:
        OnespikeError: A label is out of their range; the item is named.
    """
    train = parts["train"]
    names = given or train.items.classes or tuple(map(str, range(int(train.labels.max()) + 1)))
    for items, labels, indices in parts.values():
        wrong = indices[(labels[indices] < 0) | (labels[indices] >= len(names))]
        if len(wrong):
            raise OnespikeError(
                f"{items.origin(wrong[0])}: label {labels[wrong[0]]}; expected 0 to {len(names) - 1}; correct it"
            )
    return names


def note_on(parts: Mapping[str, Part]) -> str:
    """Say that the test part was split off, if it was."""
    split_off = parts["train"].items is parts["test"].items
    return "a fixed fifth of the images (stratified, seed 0) is the test set" if split_off else ""


def content_of(parts: Mapping[str, Part], classes: tuple[str, ...] = ()) -> Content:
    """Describe parts whose images are not of floats to what decodes them: in grey if all are grey, else in colour."""
    grey = all(items.grey(index) for items, _, indices in parts.values() for index in indices.tolist())

    def samples(part: str) -> Iterator[Sample]:
        items, labels, indices = parts[part]
        for index in indices.tolist():
            pixels = items.pixels(index)
            if not grey and pixels.shape[2] == 1:
                pixels = pixels.repeat(3, 2)
            yield Sample(pixels, int(labels[index]), items.origin(index))

    counts = {part: len(some.indices) for part, some in parts.items()}
    return Content(class_names(parts, classes), counts, samples, note_on(parts))


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Let the global generators of Python, numpy and PyTorch (on the CPU) draw from a seed, then as if nothing was."""
    generator = torch.default_generator
    states = random.getstate(), np.random.get_state(), generator.get_state()  # noqa: NPY002 - transforms draw from it
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        generator.manual_seed(seed)
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        generator.set_state(states[2])


def whole_number(label: Any, origin: str) -> int:
    """The label as an integer; raises OnespikeError if it is none."""
    try:
        return operator.index(label)
    except TypeError:
        raise OnespikeError(
            f"{origin}: label {str(label)[:40]!r}; expected a whole number, the index of a class; convert it"
        ) from None


def _part(source: Any, where: str) -> Part:
    items = _items(source, where)
    if not len(source):
        raise OnespikeError(f"{where}: empty; expected labelled images; add some")
    labels = items.labels()
    return Part(items, labels, np.arange(len(labels)))


def _items(source: Any, where: str) -> Items:
    datasets = sys.modules.get("datasets")  # whoever holds one of its tables has imported it
    if datasets and isinstance(source, datasets.Dataset):
        return _table(source, where)
    if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        raise OnespikeError(
            f"{where}: a {type(source).__name__}; expected a map-style data set, with a length and items by number; "
            "give a torch.utils.data.Dataset or a datasets.Dataset"
        )
    return TorchItems(source, where)


def _table(source: Any, where: str) -> TableItems:
    from datasets import ClassLabel, Image, Value

    if source.format["type"] == "custom":
        raise OnespikeError(
            f"{where}: it has a transform of its own; expected plain columns; call reset_format() on it, or wrap it in "
            "a torch.utils.data.Dataset of pairs (image, label)"
        )
    features = source.features
    images = [name for name, kind in features.items() if isinstance(kind, Image)]
    numbers = [name for name, kind in features.items() if isinstance(kind, Value) and "int" in kind.dtype]
    labels = [name for name, kind in features.items() if isinstance(kind, ClassLabel)] or numbers
    image = _only(images, ("image", "img"), "images (datasets.Image)", features, where)
    label = _only(labels, ("label", "labels"), "labels (datasets.ClassLabel, or whole numbers)", features, where)
    return TableItems(source.with_format(None).cast_column(image, Image(decode=False)), where, image, label)


def _only(found: list[str], usual: tuple[str, ...], what: str, features: Any, where: str) -> str:
    """The column that is meant: the only one, or the one with a usual name."""
    chosen = found if len(found) == 1 else [name for name in found if name in usual]
    if len(chosen) != 1:
        state = f"the columns {', '.join(found)} of" if found else f"columns {', '.join(features)}, none of"
        raise OnespikeError(
            f"{where}: {state} {what}; expected one, or one of the name {' or '.join(usual)}; rename or remove columns"
        )
    return chosen[0]


def _known_labels(source: Any) -> np.ndarray | None:
    """The labels of a data set of torchvision or PyTorch without loading its images; None if that cannot be."""
    if isinstance(source, Subset):
        known = _known_labels(source.dataset)
        return None if known is None else known[np.asarray(source.indices, np.int64)]
    if isinstance(source, TensorDataset):
        found = source.tensors[1] if len(source.tensors) == 2 else None
    elif type(source).__module__.startswith("torchvision.datasets.") and not getattr(source, "target_transform", None):
        found = getattr(source, "targets", None)
    else:
        found = None
    labels = np.asarray([] if found is None else found)
    return labels.astype(np.int64) if labels.shape == (len(source),) and labels.dtype.kind in "iu" else None
