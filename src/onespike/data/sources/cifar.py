"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels.

The official "python version" is pickled. A pickle is a program: it may name any function of any module and call it.
The reader here knows three functions, those that numpy arrays are made of, and refuses to look up any other name.
"""

import io
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from onespike.data.sources.base import Content, Sample, Source
from onespike.data.sources.files import Files, not_recognised, open_files
from onespike.data.sources.hub import Columns, hub_parquet, parquet_folder, parquet_source
from onespike.errors import OnespikeError

_PIXELS = 3 * 32 * 32

_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
_FINE_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class _Variant:
    """What tells CIFAR-10 and CIFAR-100 apart.

    Attributes:
        name: The data set's name.
        files: Official file names (the binary version adds .bin) and their numbers of images, for each part.
        label_bytes: Bytes before an image in the binary version; the last of them is the label.
        label: Key of the labels in the pickled version.
        repository: Where the Hub has it.
        columns: Columns of its Parquet files, with the class names in the official order.
    """

    name: str
    files: dict[str, dict[str, int]]
    label_bytes: int
    label: str
    repository: str
    columns: Columns


_CIFAR10 = _Variant(
    name="cifar10",
    files={"train": {f"data_batch_{i}": 10_000 for i in range(1, 6)}, "test": {"test_batch": 10_000}},
    label_bytes=1,
    label="labels",
    repository="uoft-cs/cifar10",
    columns=Columns("img", "label", tuple(_CLASSES.split())),
)
_CIFAR100 = _Variant(
    name="cifar100",
    files={"train": {"train": 50_000}, "test": {"test": 10_000}},
    label_bytes=2,
    label="fine_labels",
    repository="uoft-cs/cifar100",
    columns=Columns("img", "fine_label", tuple(_FINE_CLASSES.split())),
)


@contextmanager
def _open_cifar(variant: _Variant, root: Path | None) -> Iterator[Source]:
    """Find out which form of CIFAR lies at a root; without a root, take the Hub's.

    Args:
        variant: CIFAR-10 or CIFAR-100.
        root: Folder or archive which holds the official binary version, or the pickled one, or a folder with the
            Hub's Parquet files; they may also lie in a folder of it.

    Raises:
        OnespikeError: The root is missing, empty, damaged or none of these.
    """
    if root is None:
        yield hub_parquet(variant.name, variant.repository, variant.columns)
        return
    first = next(iter(variant.files["train"]))
    with open_files(root) as files:
        if binary := files.find(f"{first}.bin"):
            yield _official(variant, binary, ".bin")
        elif pickled := files.find(first):
            yield _official(variant, pickled, "")
        elif folder := parquet_folder(root):
            yield parquet_source(variant.name, folder, variant.columns)
        else:
            forms = (f"{first}.bin (binary version)", f"{first} (python version)", "train*.parquet (Hub)")
            raise not_recognised(root, variant.name, *forms)


open_cifar10, open_cifar100 = partial(_open_cifar, _CIFAR10), partial(_open_cifar, _CIFAR100)


def _official(variant: _Variant, files: Files, ending: str) -> Source:
    """The official files, of the binary version (ending in .bin) or of the pickled one."""
    names = [name for part in variant.files.values() for name in part]

    def content() -> Content:
        raw = {name: files.read(name + ending) for name in names}
        if ending:
            _expect_sizes(variant, files, {name: len(data) for name, data in raw.items()})
        read = _read_binary if ending else _read_pickle
        loaded = {
            part: {name: read(variant, raw.pop(name), files.where(name)) for name in counts}
            for part, counts in variant.files.items()
        }
        counts = {part: sum(len(labels) for _, labels in found.values()) for part, found in loaded.items()}
        return Content(variant.columns.classes, counts, lambda part: samples(loaded[part]))

    def samples(loaded: dict[str, tuple[np.ndarray, np.ndarray]]) -> Iterator[Sample]:
        for name, (pixels, labels) in loaded.items():
            images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            for row, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield Sample(image, int(label), f"{files.where(name + ending)}: image {row}")

    return Source(variant.name, str(files.root), lambda: files.key([name + ending for name in names]), content)


def _expect_sizes(variant: _Variant, files: Files, sizes: dict[str, int]) -> None:
    record = variant.label_bytes + _PIXELS
    official = {name: count * record for part in variant.files.values() for name, count in part.items()}
    # Half of an official file is still a whole number of records, but the files beside it give it away.
    are_official = any(sizes[name] == official[name] for name in official)
    for name, size in sizes.items():
        expected = f"{official[name]:,} bytes" if are_official else f"whole records of {record:,} bytes each"
        if not (size == official[name] if are_official else size > 0 and size % record == 0):
            raise OnespikeError(f"{files.where(name + '.bin')}: {size:,} bytes; expected {expected}; download it again")


def _read_binary(variant: _Variant, data: bytes, _: str) -> tuple[np.ndarray, np.ndarray]:
    """Read pixels (N, 3072), all red ones of an image first, then green, then blue; and labels (N,)."""
    records = np.frombuffer(data, np.uint8).reshape(-1, variant.label_bytes + _PIXELS)
    return records[:, variant.label_bytes :], records[:, variant.label_bytes - 1]


def _read_pickle(variant: _Variant, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Read pixels and labels, as `_read_binary` does."""
    batch = load_pickle(data, where)
    # Python 2 wrote keys that we read as bytes.
    entries = batch if isinstance(batch, dict) else {}
    pixels, labels = (entries.get(key.encode(), entries.get(key)) for key in ("data", variant.label))
    if not (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and pixels.shape[1:] == (_PIXELS,)
        and isinstance(labels, list)
        and len(labels) == len(pixels) > 0
        and all(type(label) is int for label in labels)
    ):
        raise OnespikeError(
            f"{where}: not a batch of {variant.name}; expected data, (N, {_PIXELS}) uint8, and {variant.label}, "
            "a list of N whole numbers; download it again"
        )
    return pixels, np.array(labels)


def _latin1(text: str, encoding: str) -> bytes:
    """Python 3 writes bytes into old pickles as a call of this function, always with latin1."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return text.encode("latin1")


_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class _Refused(Exception):  # noqa: N818 - the name that the pickle asked for, on its way out of the unpickler
    pass


class _Unpickler(pickle.Unpickler):
    @override
    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) not in _ADMITTED:
            raise _Refused(f"{module_name}.{global_name}")
        return _ADMITTED[module_name, global_name]


def load_pickle(data: bytes, origin: str) -> Any:
    """Unpickle plain containers, numbers, strings and numpy arrays; strings of Python 2 become bytes.

    Args:
        data: The pickle.
        origin: Where it lies, for the error.

    Raises:
        OnespikeError: It names anything else, or is truncated or damaged.
    """
    try:
        return _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except _Refused as refused:
        raise OnespikeError(
            f"{origin}: refused a foreign pickle, for it asks for {refused}; expected nothing but plain containers and "
            "numpy arrays; download the official file again"
        ) from None
    except Exception as error:  # a damaged pickle fails in as many ways as there are instructions
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise OnespikeError(
            f"{origin}: truncated or damaged pickle ({reason}); expected a whole one; download it again"
        ) from error
