"""Tiny-ImageNet (Le and Yang 2015): 200 classes of 64x64 pixels, 500 training and 50 validation images each.

The official validation images are the test part here, because the labels of the official test images were never
published. Some images are grey; all are read as colour. Classes are numbered by their WordNet number, as on the Hub,
not in the order of wnids.txt.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from onespike.data.sources.base import Sample, Source
from onespike.data.sources.hub import HubSource
from onespike.data.sources.image import decode
from onespike.data.sources.parquet import ParquetSource, parquet_folder
from onespike.data.sources.root import not_recognised, open_root
from onespike.data.sources.tree import Tree
from onespike.errors import OnespikeError

_NAME = "tiny-imagenet"
_ANNOTATIONS = "val/val_annotations.txt"


@dataclass(frozen=True)
class TinyImageNet:
    """The official layout: wnids.txt, words.txt, train/<wnid>/images/*.JPEG, val/images/* and val_annotations.txt.

    Attributes:
        tree: The files.
    """

    tree: Tree
    name: str = _NAME

    @property
    def origin(self) -> str:
        """The folder or archive."""
        return str(self.tree.root)

    @property
    def classes(self) -> tuple[str, ...]:
        """The first word for each class in words.txt, such as "goldfish"; its WordNet number if there is none."""
        rows = (line.split("\t") for line in self._lines("words.txt"))
        words = {row[0]: row[1].split(",")[0].strip() for row in rows if len(row) == 2}
        return tuple(words.get(wnid, wnid) for wnid in self._wnids)

    def key(self) -> str:
        """Hash of the files that are used; the official test images are not among them."""
        images = [name for files in self._parts.values() for name, _ in files]
        return self.tree.key(["wnids.txt", "words.txt", _ANNOTATIONS, *images])

    def count(self, part: str) -> int:
        """Number of images listed for a part."""
        return len(self._parts.get(part, ()))

    def samples(self, part: str) -> Iterator[Sample]:
        """Decode the training images class by class, the test images in the order of their annotations."""
        for name, label in self._parts[part]:
            origin = self.tree.where(name)
            yield Sample(decode(self.tree.read(name), origin, 3), label, origin)

    @cached_property
    def _wnids(self) -> dict[str, int]:
        """WordNet number -> label."""
        return {wnid: label for label, wnid in enumerate(sorted(self._lines("wnids.txt")))}

    @cached_property
    def _parts(self) -> dict[str, list[tuple[str, int]]]:
        """File name and label of each image."""
        return {"train": self._train(), "test": self._test()}

    def _train(self) -> list[tuple[str, int]]:
        train = []
        for name in self.tree.names():
            match name.split("/"):
                case ["train", wnid, "images", file] if file.lower().endswith((".jpeg", ".jpg")):
                    train.append((name, self._label(wnid, self.tree.where(name))))
        if missing := set(self._wnids.values()) - {label for _, label in train}:
            wnid = list(self._wnids)[min(missing)]
            raise OnespikeError(
                f"{self.tree.where('train/' + wnid)}: no images; expected images/*.JPEG for each class in wnids.txt; "
                "unpack or download the data set again"
            )
        return train

    def _test(self) -> list[tuple[str, int]]:
        test = []
        for number, line in enumerate(self._lines(_ANNOTATIONS), 1):
            origin = f"{self.tree.where(_ANNOTATIONS)}: line {number}"
            file, _, rest = line.partition("\t")
            test.append((f"val/images/{file}", self._label(rest.partition("\t")[0], origin)))
        if not test:
            raise OnespikeError(f"{self.tree.where(_ANNOTATIONS)}: empty; expected a line for each image; restore it")
        return test

    def _label(self, wnid: str, origin: str) -> int:
        if wnid not in self._wnids:
            raise OnespikeError(f"{origin}: class {wnid!r}; expected one of those in wnids.txt; restore the file")
        return self._wnids[wnid]

    def _lines(self, name: str) -> list[str]:
        text = self.tree.read(name).decode("utf-8", "replace")
        return [line for line in text.splitlines() if line.strip()]


@contextmanager
def open_tiny_imagenet(root: Path | None) -> Iterator[Source]:
    """Open Tiny-ImageNet; without a root, the Hub's.

    Args:
        root: Folder or archive with the official layout, or a folder with the Hub's Parquet files; they may also lie
            in a folder of it, such as tiny-imagenet-200.

    Raises:
        OnespikeError: The root is missing, empty, damaged or none of these.
    """
    if root is None:
        yield HubSource(_NAME, "zh-plus/tiny-imagenet", "image", "label")
        return
    with open_root(root) as tree:
        if official := tree.find("wnids.txt"):
            yield TinyImageNet(official)
        elif parquet := parquet_folder(root):
            yield ParquetSource(_NAME, parquet, "image", "label")
        else:
            raise not_recognised(root, _NAME, "wnids.txt beside train/ and val/ (official)", "train*.parquet (Hub)")
