"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 colour images of 32x32 pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onespike.data.sources.base import Sample, Source
from onespike.data.sources.hub import HubSource
from onespike.data.sources.parquet import ParquetSource, parquet_folder
from onespike.data.sources.pickles import load_pickle
from onespike.data.sources.root import not_recognised, open_root
from onespike.data.sources.tree import Tree
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
class Variant:
    """What tells CIFAR-10 and CIFAR-100 apart.

    Attributes:
        name: The data set's name.
        files: Official file names (the binary version adds .bin) and their numbers of images, for each part.
        label_bytes: Bytes before an image in the binary version; the last of them is the label.
        label: Key of the labels in the pickled version.
        label_column: Column of the labels in Parquet.
        repository: Where the Hub has it.
        classes: Class names in the official order.
    """

    name: str
    files: dict[str, dict[str, int]]
    label_bytes: int
    label: str
    label_column: str
    repository: str
    classes: tuple[str, ...]


CIFAR10 = Variant(
    name="cifar10",
    files={"train": {f"data_batch_{i}": 10_000 for i in range(1, 6)}, "test": {"test_batch": 10_000}},
    label_bytes=1,
    label="labels",
    label_column="label",
    repository="uoft-cs/cifar10",
    classes=tuple(_CLASSES.split()),
)

CIFAR100 = Variant(
    name="cifar100",
    files={"train": {"train": 50_000}, "test": {"test": 10_000}},
    label_bytes=2,
    label="fine_labels",
    label_column="fine_label",
    repository="uoft-cs/cifar100",
    classes=tuple(_FINE_CLASSES.split()),
)


@dataclass(frozen=True)
class CifarSource:
    """The official files, of the binary version or of the pickled ("python") one.

    Attributes:
        variant: CIFAR-10 or CIFAR-100.
        tree: The files.
        binary: Whether this is the binary version.
    """

    variant: Variant
    tree: Tree
    binary: bool

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.variant.name

    @property
    def origin(self) -> str:
        """The folder or archive."""
        return str(self.tree.root)

    @property
    def classes(self) -> tuple[str, ...]:
        """The official class names; of CIFAR-100 the fine ones."""
        return self.variant.classes

    def key(self) -> str:
        """Hash of the files' names and bytes."""
        return self.tree.key([self._name(file) for files in self.variant.files.values() for file in files])

    def count(self, part: str) -> int:
        """Number of images in the files of a part."""
        return sum(len(self._load(file)[1]) for file in self.variant.files.get(part, ()))

    def samples(self, part: str) -> Iterator[Sample]:
        """Go through the files in their official order."""
        for file in self.variant.files[part]:
            pixels, labels = self._load(file)
            images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            where = self.tree.where(self._name(file))
            for row, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield Sample(image, int(label), f"{where}: image {row}")

    def _name(self, file: str) -> str:
        return f"{file}.bin" if self.binary else file

    def _load(self, file: str) -> tuple[np.ndarray, np.ndarray]:
        """Read one file: pixels (N, 3072), all red ones of an image first, then green, then blue; and labels (N,)."""
        return self._load_binary(file) if self.binary else self._load_pickle(file)

    def _load_binary(self, file: str) -> tuple[np.ndarray, np.ndarray]:
        record = self.variant.label_bytes + _PIXELS
        self._check_size(file, record)
        records = np.frombuffer(self.tree.read(self._name(file)), np.uint8).reshape(-1, record)
        return records[:, self.variant.label_bytes :], records[:, self.variant.label_bytes - 1]

    def _check_size(self, file: str, record: int) -> None:
        official = {name: count * record for files in self.variant.files.values() for name, count in files.items()}
        sizes = {name: self.tree.size(self._name(name)) for name in official}
        # Half of an official file is still a whole number of records, but the files beside it give it away.
        if any(sizes[name] == official[name] for name in official):
            expected, fine = f"{official[file]:,} bytes", sizes[file] == official[file]
        else:
            expected, fine = f"whole records of {record:,} bytes each", sizes[file] > 0 and sizes[file] % record == 0
        if not fine:
            raise OnespikeError(
                f"{self.tree.where(self._name(file))}: {sizes[file]:,} bytes; expected {expected}; download it again"
            )

    def _load_pickle(self, file: str) -> tuple[np.ndarray, np.ndarray]:
        where = self.tree.where(file)
        batch = load_pickle(self.tree.read(file), where)
        pixels, labels = (_entry(batch, key) for key in ("data", self.variant.label))
        if not (
            isinstance(pixels, np.ndarray)
            and pixels.dtype == np.uint8
            and pixels.shape[1:] == (_PIXELS,)
            and isinstance(labels, list)
            and len(labels) == len(pixels) > 0
            and all(type(label) is int for label in labels)
        ):
            raise OnespikeError(
                f"{where}: not a batch of {self.name}; expected data, (N, {_PIXELS}) uint8, and {self.variant.label}, "
                "a list of N whole numbers; download it again"
            )
        return pixels, np.array(labels)


def _entry(batch: object, key: str) -> object:
    """Look up a key that Python 2 wrote, which we read as bytes, or Python 3."""
    return batch.get(key.encode(), batch.get(key)) if isinstance(batch, dict) else None


@contextmanager
def open_cifar(variant: Variant, root: Path | None) -> Iterator[Source]:
    """Find out which form of CIFAR lies at a root; without a root, take the Hub's.

    Args:
        variant: CIFAR-10 or CIFAR-100.
        root: Folder or archive which holds the official binary version, or the pickled one, or a folder with the
            Hub's Parquet files; they may also lie in a folder of it.

    Raises:
        OnespikeError: The root is missing, empty, damaged or none of these.
    """
    if root is None:
        yield HubSource(variant.name, variant.repository, "img", variant.label_column, variant.classes)
        return
    with open_root(root) as tree:
        yield _recognise(variant, tree)


def _recognise(variant: Variant, tree: Tree) -> Source:
    first = next(iter(variant.files["train"]))
    if binary := tree.find(f"{first}.bin"):
        return CifarSource(variant, binary, binary=True)
    if pickled := tree.find(first):
        return CifarSource(variant, pickled, binary=False)
    if parquet := parquet_folder(tree.root):
        return ParquetSource(variant.name, parquet, "img", variant.label_column, variant.classes)
    raise not_recognised(
        tree.root, variant.name, f"{first}.bin (binary version)", f"{first} (python version)", "train*.parquet (Hub)"
    )
