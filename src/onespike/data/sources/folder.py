"""Your own images: one folder for each part, and in it one folder for each class."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from onespike.data.sources.base import Sample, Source
from onespike.data.sources.image import decode, is_grey
from onespike.data.sources.root import not_recognised, open_root
from onespike.data.sources.tree import Tree
from onespike.errors import OnespikeError

_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFolder:
    """Folders train/<class>/, and val/<class>/ or test/<class>/ or both; images may lie deeper than that.

    With both, val/ is the validation part; with one, it is the test part. Other files and hidden ones are left out.
    All images are read in grey if all of them are stored so, else in colour.

    Attributes:
        tree: The files.
    """

    tree: Tree
    name: str = "folder"

    @property
    def origin(self) -> str:
        """The folder or archive."""
        return str(self.tree.root)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the class folders, sorted."""
        train = {_class_of(name) for name in self._parts["train"]}
        for part, names in self._parts.items():
            for odd in sorted(train ^ {_class_of(name) for name in names}):
                has, lacks = ("train", part) if odd in train else (part, "train")
                where = self.tree.where(f"{self._folders[lacks]}/{odd}")
                raise OnespikeError(
                    f"{where}: no images of class {odd!r}, which {self._folders[has]}/ has; expected the same classes "
                    "in each part; add some, or remove the class"
                )
        return tuple(sorted(train))

    def key(self) -> str:
        """Hash of all images' names and bytes."""
        return self.tree.key([name for names in self._parts.values() for name in names])

    def count(self, part: str) -> int:
        """Number of images found."""
        return len(self._parts.get(part, ()))

    def samples(self, part: str) -> Iterator[Sample]:
        """Decode the images of a part, sorted by name."""
        labels = {name: label for label, name in enumerate(self.classes)}
        for name in self._parts[part]:
            origin = self.tree.where(name)
            yield Sample(decode(self.tree.read(name), origin, self._channels), labels[_class_of(name)], origin)

    @cached_property
    def _folders(self) -> dict[str, str]:
        """Part -> its folder."""
        folders = {part for part in ("val", "test") if self.tree.holders(f"{part}/") >= {""}}
        if not folders:
            raise OnespikeError(
                f"{self.tree.where('test')}: no such folder, nor val; expected one of them beside train; add it"
            )
        if len(folders) == 2:
            return {"train": "train", "validation": "val", "test": "test"}
        return {"train": "train", "test": folders.pop()}

    @cached_property
    def _parts(self) -> dict[str, list[str]]:
        """Part -> names of its images."""
        names = [name for name in self.tree.names() if _is_image(name)]
        parts = {part: [n for n in names if n.startswith(f"{folder}/")] for part, folder in self._folders.items()}
        for part, found in parts.items():
            if not found:
                raise OnespikeError(
                    f"{self.tree.where(self._folders[part])}: no images; expected <class>/<image> with one of the "
                    f"endings {' '.join(_EXTENSIONS)}; add some"
                )
        return parts

    @cached_property
    def _channels(self) -> int:
        names = (name for names in self._parts.values() for name in names)
        return 1 if all(is_grey(self.tree.read(name), self.tree.where(name)) for name in names) else 3


def _class_of(name: str) -> str:
    return name.split("/")[1]


def _is_image(name: str) -> bool:
    """Whether a file lies in a class folder of a part, has an image's ending and is not hidden."""
    steps = name.split("/")
    return len(steps) > 2 and name.lower().endswith(_EXTENSIONS) and not any(step.startswith(".") for step in steps)


@contextmanager
def open_folder(root: Path | None) -> Iterator[Source]:
    """Open a folder of images.

    Args:
        root: Folder or archive which holds train/; it may also lie in a folder of it.

    Raises:
        OnespikeError: There is no root, or it is missing, empty, damaged or has no train/.
    """
    if root is None:
        raise OnespikeError("folder: no root given; expected a folder with train/ and val/ or test/; pass --data.root")
    with open_root(root) as tree:
        if (images := tree.find("train/")) is None:
            raise not_recognised(root, "folder", "train/<class>/ beside val/<class>/ or test/<class>/")
        yield ImageFolder(images)
