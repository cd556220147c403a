"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels.

The official "python version" is pickled. A pickle is a program: it may name any function of any module and call it.
The reader here knows three functions, those that numpy arrays are made of, and refuses to look up any other name.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import override

from onespike.data.sources import Content, Part, Source
from onespike.data.sources.files import Files
from onespike.data.sources.hub import open_hosted
from onespike.data.sources.parquet import Hosted
from onespike.errors import OnespikeError, damage_named

_PIXELS = 3 * 32 * 32
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FINE_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


class _Cifar(NamedTuple):
    hosted: Hosted  # with the class names in the official order
    files: dict[str, dict[str, int]]  # part -> its official file names (binary ones add .bin) and numbers of images
    label_bytes: int  # before an image in the binary version; the last of them is the label
    label: str  # key of the labels in the pickled version


_CIFAR10 = _Cifar(
    Hosted("cifar10", "uoft-cs/cifar10", "img", "label", CIFAR10_CLASSES),
    files={"train": {f"data_batch_{i}": 10_000 for i in range(1, 6)}, "test": {"test_batch": 10_000}},
    label_bytes=1,
    label="labels",
)
_CIFAR100 = _Cifar(
    Hosted("cifar100", "uoft-cs/cifar100", "img", "fine_label", tuple(_FINE_CLASSES.split())),
    files={"train": {"train": 50_000}, "test": {"test": 10_000}},
    label_bytes=2,
    label="fine_labels",
)


def _open(cifar: _Cifar, root: Path | None) -> Iterator[Source]:
    first = next(iter(cifar.files["train"]))
    binary, pickled = partial(_official, cifar, ".bin"), partial(_official, cifar, "")
    forms = {f"{first}.bin": ("binary version", binary), first: ("python version", pickled)}
    return open_hosted(cifar.hosted, root, forms)


open_cifar10, open_cifar100 = partial(_open, _CIFAR10), partial(_open, _CIFAR100)


def _official(cifar: _Cifar, ending: str, files: Files) -> Source:
    """The official files, of the binary version (ending in .bin) or of the pickled one."""
    sizes = {name: size for part in cifar.files.values() for name, size in part.items()}

    def content() -> Content:
        raw = {name: files.read(name + ending) for name in sizes}
        if ending:
            _expect_sizes(cifar, sizes, files, raw)
        read = _read_binary if ending else _read_pickle
        arrays = {name: read(cifar, raw.pop(name), files.where(name)) for name in sizes}
        return Content(cifar.hosted.classes, {name: part(arrays, names) for name, names in cifar.files.items()})

    def part(arrays: dict[str, tuple[np.ndarray, np.ndarray]], names: Iterable[str]) -> Part:
        pixels, labels = (np.concatenate(each) for each in zip(*(arrays[name] for name in names), strict=True))
        origins = [f"{files.where(name + ending)}: image {i}" for name in names for i in range(len(arrays[name][1]))]
        return Part(labels.astype(np.int64), origins, pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).__getitem__)

    return Source(cifar.hosted.name, str(files.root), lambda: files.key(name + ending for name in sizes), content)


def _expect_sizes(cifar: _Cifar, images: dict[str, int], files: Files, raw: dict[str, bytes]) -> None:
    record = cifar.label_bytes + _PIXELS
    # Half of an official file is still a whole number of records, but the files beside it give it away.
    are_official = any(len(data) == images[name] * record for name, data in raw.items())
    for name, data in raw.items():
        size, official = len(data), images[name] * record
        expected = f"{official:,} bytes" if are_official else f"whole records of {record:,} bytes each"
        if not (size == official if are_official else size > 0 and size % record == 0):
            raise OnespikeError(f"{files.where(name + '.bin')}: {size:,} bytes; expected {expected}; download it again")


def _read_binary(cifar: _Cifar, data: bytes, _: str) -> tuple[np.ndarray, np.ndarray]:
    """Read pixels (N, 3072), all red ones of an image first, then green, then blue; and labels (N,)."""
    records = np.frombuffer(data, np.uint8).reshape(-1, cifar.label_bytes + _PIXELS)
    return records[:, cifar.label_bytes :], records[:, cifar.label_bytes - 1]


def _read_pickle(cifar: _Cifar, data: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Read pixels and labels, as `_read_binary` does."""
    batch = load_pickle(data, where)
    # Python 2 wrote keys that we read as bytes.
    entries: Any = batch if isinstance(batch, dict) else {}
    pixels, labels = (entries.get(key.encode(), entries.get(key)) for key in ("data", cifar.label))
    images = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (_PIXELS,)
    numbers = isinstance(labels, list) and all(type(label) is int and abs(label) < 2**31 for label in labels)
    if not (images and numbers and len(labels) == len(pixels) > 0):
        expected = f"data, (N, {_PIXELS}) uint8, and {cifar.label}, a list of N whole numbers"
        raise OnespikeError(f"{where}: not a batch of {cifar.hosted.name}; expected {expected}; download it again")
    return np.asarray(pixels), np.array(labels)


def _latin1(text: str, encoding: str) -> bytes:
    """Python 3 writes bytes into old pickles as a call of this function, always with latin1."""
    if type(text) is not str or encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding}")
    return text.encode("latin1")


class _Bytes(np.ndarray):
    """An array of bytes, the only kind in an official file; numpy's own, in a stranger's pickle, may read anywhere."""

    def __setstate__(self, state: Any, /) -> None:
        _, shape, kind, by_columns, data = state
        sides = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
        if not (sides and type(data) is bytes and type(kind) is _Kind and math.prod(shape) == len(data)):
            raise pickle.UnpicklingError("an array that is not of bytes, or has another number of them")
        whole: Any = (1, shape, np.dtype(np.uint8), bool(by_columns), data)
        super().__setstate__(whole)


class _Kind:
    """The dtype of an array: unsigned bytes; numpy's own would take offsets from a stranger's pickle."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array of {name}, expected bytes (u1)")

    def __setstate__(self, state: Any) -> None:
        """Bytes have neither an order nor parts."""


def _reconstruct(*_: Any) -> _Bytes:
    return np.empty(0, np.uint8).view(_Bytes)


_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): None,  # an argument of the above
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _latin1,
}


def load_pickle(data: bytes, origin: str) -> Any:
    """Unpickle containers, numbers, strings (of Python 2: bytes), arrays of bytes; all else is an `OnespikeError`."""

    class Unpickler(pickle.Unpickler):
        @override
        def find_class(self, module_name: str, global_name: str) -> Any:
            if (module_name, global_name) not in _ADMITTED:
                state = f"{origin}: refused a foreign pickle, for it asks for {module_name}.{global_name}"
                expected = "expected nothing but plain containers and numpy arrays"
                raise OnespikeError(f"{state}; {expected}; download the official file again")
            return _ADMITTED[module_name, global_name]

    with damage_named(origin, "truncated or damaged pickle", "a whole one"):
        for code, place, _ in pickletools.genops(data):  # the unpickler's memo grows to the largest place
            if code.name in _PUTS and (place or 0) > len(data):
                raise pickle.UnpicklingError(f"place {place:,} in a file of {len(data):,} bytes")
        return Unpickler(io.BytesIO(data), encoding="bytes").load()
