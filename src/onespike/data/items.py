"""Images in a user's data set: a map-style data set of PyTorch, or a table of Hugging Face `datasets`."""

import operator
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from typing_extensions import override

from onespike.data.augment import seeded
from onespike.data.sets import Batch, ImageSet, split, spread
from onespike.data.sources import MOST_CLASSES, NAMES, PARTS, Content, Part
from onespike.data.sources.image import decode, uint8_pixels
from onespike.durable import read_whole
from onespike.errors import OnespikeError, damage_named, listed, reason, shown, warn

#: What is said of an image that cannot be read, and what is expected.
_DAMAGED = "its image cannot be read", "a whole one; restore it"
#: Precisions of floats that a batch can be made of.
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False, repr=False)
class ItemSet(ImageSet):
    """Images of a user's map-style data set, `images`, of pairs (image, label), made when they are needed.

    Floats, which are already transformed for a network, are batched; raw images are decoded first.
    """

    where: str  # name of the data set in errors
    floats: tuple[int, ...]  # the shape of the first image if it is of floats, as then all are; empty for raw ones

    @property
    @override
    def shape(self) -> tuple[int, ...]:
        return self.floats

    def origin(self, position: int) -> str:
        """Name an item, for an error."""
        return f"{self.where}: item {self.indices[position]}"

    def pixels(self, position: int) -> np.ndarray:
        """Raw image, (H, W, C) uint8, C = 1 if it is stored in grey, else 3."""
        image = _fetch(self.images, int(self.indices[position]), self.where)[0]
        with damage_named(self.origin(position), *_DAMAGED):  # Pillow may read it only now
            return uint8_pixels(image, self.origin(position))

    @override
    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.drawn(position)

    def drawn(self, position: int, seed: int | None = None) -> tuple[Tensor, int]:
        """Fetch floats, (C, H, W), drawn by a seed (None: always the same), and label; OnespikeError if changed."""
        index = int(self.indices[position])
        image, label = _fetch(self.images, index, self.where, seed)
        tensor = _as_floats(image)
        if tensor is None or tuple(tensor.shape) != self.shape or label != self.labels[index]:
            kind, shape = getattr(image, "dtype", type(image).__name__), tuple(getattr(image, "shape", ()))
            found = f"{self.origin(position)}: an image of {kind}, shape {shape}, label {label}"
            expected = f"expected floats, shape {self.shape}, label {self.labels[index]} as at first"
            raise OnespikeError(f"{found}; {expected}; make items alike, and always the same")
        if not tensor.isfinite().all():
            raise OnespikeError(f"{self.origin(position)}: numbers that are not finite; expected pixels; mend it")
        return tensor.clone(), label  # a data set may give one buffer again and again

    @override
    def gather(self, positions: np.ndarray) -> Batch:
        images = [self[position][0] for position in positions]
        stacked = torch.stack(images) if images else torch.empty(0, *self.shape)
        return stacked, torch.from_numpy(self.targets[positions])


def parts_of(data: Any, name: str, test: Any = None, validation: Any = None) -> dict[str, ItemSet]:
    """Split a data set into its parts; arguments, errors and the choice of the test part are as in `as_dataset`."""
    if isinstance(data, Mapping):
        used = {part: one for part, names in NAMES.items() for one in reversed(names) if one in data}
        given = {part: data[one] for part, one in used.items()}
        if "train" in used and (left := [str(one) for one in data if one not in used.values()]):
            known = listed((one for names in NAMES.values() for one in names), most=20)
            warn(f"{name}: left out: {listed(left)}; parts are called {known}")
    elif isinstance(data, tuple):
        if len(data) not in (2, 3):
            raise OnespikeError(f"{name}: {len(data)} data sets; expected (train, test), or (train, validation, test)")
        given = dict(zip(("train", "test") if len(data) == 2 else PARTS, data, strict=True))
    else:
        given = {"train": data}
    for part, one in (("test", test), ("validation", validation)):
        if one is not None and given.get(part) is not None:
            raise OnespikeError(f"{name}: {part}=… beside its own {part} part; expected one of the two; leave one out")
        given[part] = given.get(part) if one is None else one
    if given.get("train") is None:
        found = f"the parts {', '.join(map(str, data))}" if data else "nothing"
        raise OnespikeError(f"{name}: {found}; expected train, and test or validation")
    parts = {part: _part(given[part], f"{name}, {part}") for part in PARTS if given.get(part) is not None}
    if len(parts) == len(PARTS) and (parts["test"].labels == -1).all():  # as ImageNet's on the Hub
        warn(f"{name}: its test images have no labels (-1), and are left out: the validation part takes their place")
        del parts["test"]
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    elif "test" not in parts:
        whole = parts["train"]
        if len(whole) < 2:
            raise OnespikeError(f"{name}: a single image and no test part; expected several; add some")
        train, held_out = split(whole.labels, len(whole) - max(1, round(len(whole) / 5)))
        parts = {"train": whole.select(train), "test": whole.select(held_out)}
    return parts


def content_of(parts: Mapping[str, ItemSet], classes: Sequence[str] = ()) -> Content:
    """Describe parts for decoding; classes are those given, else those that the training part knows, else numbers."""
    train = parts["train"]
    if (largest := int(train.labels.max())) >= MOST_CLASSES:
        raise OnespikeError(f"{train.where}: label {largest}; expected 0 to {MOST_CLASSES - 1:,}; number them anew")
    names = [str(name) for name in classes or range(largest + 1)]
    if not classes and (known := _known_classes(train)):
        for part in parts.values():
            if (others := _known_classes(part)) and others != known:
                pairs = enumerate(zip_longest(others, known))
                label, (name, own) = next((label, pair) for label, pair in pairs if pair[0] != pair[1])
                found = f"{part.where}: class {label} is called {shown(repr(name))}; expected {shown(repr(own))}"
                raise OnespikeError(f"{found}, as in {train.where}; number them alike")
        times = Counter(known)  # torchvision's ImageNet has two classes "crane"
        names = [f"{name} ({label})" if times[name] > 1 else name for label, name in enumerate(known)]
    split_off = train.where == parts["test"].where
    note = "a fixed fifth of the images (stratified, seed 0) is the test set" if split_off else ""
    raw = {name: Part(one.targets, [*map(one.origin, range(len(one)))], one.pixels) for name, one in parts.items()}
    return Content(tuple(names), raw, note)


def _known_classes(part: ItemSet) -> list[str]:
    """The names that a data set has as `classes`, a list in the order of the labels, or their numbers by name."""
    whole = part.images
    while isinstance(whole, Subset):
        whole = whole.dataset
    known = None if _relabelled(part) else getattr(whole, "classes", None)
    if isinstance(known, Mapping):
        by_number = {number: name for name, number in known.items() if isinstance(number, int | np.integer)}
        known = [by_number[n] for n in sorted(by_number)] if by_number.keys() == set(range(len(known))) else None
    known = known.tolist() if isinstance(known, np.ndarray) else known
    return list(map(str, known)) if isinstance(known, list | tuple) else []


def _relabelled(part: ItemSet) -> bool:
    """Whether labels are others than the `targets` that a data set's `classes` are the names of."""
    whole: Any = part.images
    places = part.indices
    with suppress(AttributeError, TypeError, IndexError, KeyError, ValueError):  # it has none, or ways of its own
        while isinstance(whole, Subset):
            whole, places = whole.dataset, np.asarray(whole.indices)[places]
        targets = np.asarray(whole.targets)
        if targets.dtype.kind in "iu" and targets.shape == (len(whole),) and targets.max() < len(whole.classes):
            return bool((targets[places] != part.targets).any())
    return False


def _fetch(source: Any, index: int, where: str, seed: int | None = None) -> tuple[Any, int]:
    """Image and label of an item; random transforms draw from a seed, or else from the index: always the same."""
    try:
        with seeded(index if seed is None else seed):
            item = source[index]
    except OSError as error:  # of Pillow, too
        what, expected = _DAMAGED
        raise OnespikeError(f"{where}: item {index}: {what} ({reason(error)}); expected {expected}") from error
    except Exception as error:
        if isinstance(error, IndexError) and isinstance(source, Subset | TensorDataset):
            state = f"{where}: item {index}: not there ({reason(error)}); expected {len(source):,} items"
            raise OnespikeError(f"{state}; correct its length, or the indices of a subset") from error
        error.add_note(f"{where}: item {index}")  # a bug in the owner's code, which keeps its traceback
        raise
    if not isinstance(item, tuple | list) or len(item) != 2:
        found = f"{where}: item {index}: a {type(item).__name__}"
        raise OnespikeError(f"{found}; expected an image and its label, (image, label); give a data set of such pairs")
    for one in (one for one in item if isinstance(one, Tensor)):
        fits = one.dtype in _FLOATS or not one.is_floating_point()
        if one.device.type != "cpu" or one.layout is not torch.strided or not fits:
            found = f"{where}: item {index}: a tensor of {one.dtype}, {one.layout}, on {one.device.type}"
            expected = "expected a dense one of 16 to 64 bits on the CPU, from which batches go elsewhere"
            raise OnespikeError(f"{found}; {expected}; convert it")
    try:
        return item[0], int(np.int64(operator.index(item[1])))
    except (TypeError, OverflowError, RuntimeError):  # a tensor of uint64 raises the last
        state = f"{where}: item {index}: label {str(item[1])[:40]!r}"
        raise OnespikeError(f"{state}; expected a whole number of less than 2^63; convert it") from None


def _as_floats(image: Any) -> Tensor | None:
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        # In the order of bytes, and in memory, that PyTorch takes; it has no more than 64 bits.
        image = torch.from_numpy(np.ascontiguousarray(image, f"f{min(image.itemsize, 8)}"))
    return image.detach() if isinstance(image, Tensor) and image.is_floating_point() else None


def _part(source: Any, where: str) -> ItemSet:
    # Whoever holds one of its tables has imported it; a module that is just called `datasets` may be anybody's.
    table = getattr(sys.modules.get("datasets.arrow_dataset"), "Dataset", None)
    if isinstance(table, type) and isinstance(source, table):
        source = _Rows(source, where)
    # An iterable one may know its length, for a progress bar; what has `iloc` is a table of pandas.
    other = isinstance(source, IterableDataset | Mapping | type) or hasattr(source, "iloc")
    if other or not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
        expected = "a map-style data set, such as a torch.utils.data.Dataset or a datasets.Dataset"
        remedy = "; pass what it loads, its .dataset" if isinstance(source, DataLoader) else ""
        raise OnespikeError(f"{where}: a {type(source).__name__}; expected {expected}{remedy}")
    try:
        count = len(source)
    except Exception as error:  # whatever its own `__len__` raises, such as that of a TensorDataset of nothing
        raise OnespikeError(f"{where}: its length is none ({reason(error)}); expected a number of items") from error
    if not count:
        raise OnespikeError(f"{where}: empty; expected labelled images; add some")
    labels = None
    with suppress(TypeError, IndexError, RuntimeError, ValueError):  # an item will say what is wrong
        labels = _known_labels(source)
    if labels is None:
        labels = np.array([_fetch(source, index, where)[1] for index in range(len(source))], np.int64)
    first = _as_floats(_fetch(source, 0, where)[0])
    if first is None:
        _expect_fixed(source, where)
    return ItemSet(source, labels, np.arange(len(labels)), where, () if first is None else tuple(first.shape))


def _expect_fixed(source: Any, where: str) -> None:
    """Raise an `OnespikeError` where raw images differ from draw to draw: they are decoded once, with one draw."""
    # Some images are the same whatever is drawn, such as a black one that is flipped.
    places = spread(len(source), 8).tolist()
    draws = max(2, 8 // len(places))
    for number, index in enumerate(places):
        seeds = range(number * draws, (number + 1) * draws)
        try:
            drawn = (_fetch(source, index, where, seed)[0] for seed in seeds)
            first, *others = (np.asarray(image).copy() for image in drawn)  # all may come in one buffer
            if all(np.array_equal(one, first) for one in others):
                continue
        except (TypeError, ValueError, RuntimeError, OSError, SyntaxError):  # no picture: decoding it will say so
            return
        state = f"{where}: random transforms of raw images, which are decoded once, would be drawn once"
        remedy = "let them end in floats (ToDtype(torch.float32, scale=True)), or leave augmentation to data.*"
        raise OnespikeError(f"{state}; {remedy}")


def _known_labels(source: Any) -> np.ndarray | None:
    """The labels of a data set without loading its images, where the way is known for sure; else None."""
    if type(source) is Subset:  # a subclass may change labels
        known = _known_labels(source.dataset)
        return None if known is None else known[np.asarray(source.indices).astype(np.int64, casting="safe")]
    found: Any = ()
    if type(source) is TensorDataset and len(source.tensors) == 2:
        found = source.tensors[1]
    elif isinstance(source, _Rows):
        found = list(source.table.select_columns(source.label)[:][source.label])
    elif type(source).__module__.startswith("torchvision.datasets.") and not getattr(source, "target_transform", None):
        # The items of a folder have the labels of its `samples`, which somebody may have changed: `targets` is a copy.
        samples = getattr(source, "samples", None)
        found = getattr(source, "targets", ()) if samples is None else [label for _, label in samples]
    labels = np.asarray(found)
    return labels.astype(np.int64) if labels.shape == (len(source),) and labels.dtype.kind in "iu" else None


class _Rows:
    """The rows of a Hugging Face table as pairs of pixels and label; the columns are found by their features."""

    def __init__(self, table: Any, where: str) -> None:
        from datasets import ClassLabel, Image, Value

        if table.format["type"] == "custom":
            state = f"{where}: it has a transform of its own; expected plain columns"
            raise OnespikeError(f"{state}; call reset_format(), or wrap it in a torch.utils.data.Dataset of pairs")
        features = table.features
        images = [name for name, kind in features.items() if isinstance(kind, Image)]
        numbers = [name for name, kind in features.items() if isinstance(kind, Value) and "int" in kind.dtype]
        labels = [name for name, kind in features.items() if isinstance(kind, ClassLabel)] or numbers
        self.where = where
        self.image = self._only(images, ("image", "img"), "images (datasets.Image)", features)
        self.label = self._only(labels, ("label", "labels"), "labels (datasets.ClassLabel, or whole numbers)", features)
        self.table = table.with_format(None).cast_column(self.image, Image(decode=False))
        self.classes = getattr(features[self.label], "names", None)
        self.channels = {"L": 1, "RGB": 3}.get(features[self.image].mode)  # None: as each image is stored

    def _only(self, found: list[str], usual: tuple[str, ...], what: str, features: Any) -> str:
        """Choose a column: the only one, or the one with a usual name."""
        chosen = found if len(found) == 1 else [name for name in found if name in usual]
        if len(chosen) == 1:
            return chosen[0]
        state = f"the columns {', '.join(found)} of" if found else f"columns {', '.join(features)}, none of"
        names = " or ".join(usual)
        remedy = "rename or remove some" if found else "cast one by its cast_column, or text by class_encode_column"
        raise OnespikeError(f"{self.where}: {state} {what}; expected one, or one named {names}; {remedy}")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        origin = f"{self.where}: item {index}"
        with damage_named(origin, "its image cannot be read", "a file; restore it"):
            row = self.table[index]
            cell = row[self.image]
            data = read_whole(Path(cell["path"])) if cell["bytes"] is None else cell["bytes"]
        return decode(data, origin, self.channels), row[self.label]

    def files(self) -> list[str]:
        """The paths of images that are not in the table itself."""
        import pyarrow.compute as pc

        cells = self.table.data.column(self.image)
        content, path = (pc.struct_field(cells, [cells.type.get_field_index(name)]) for name in ("bytes", "path"))
        found: list[str] = path.filter(pc.is_null(content)).drop_null().to_pylist()
        return found
