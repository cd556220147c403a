"""Image files in folders: your own, with one folder for each class, and Tiny-ImageNet as it is shipped."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from onespike.data.sources import Content, Sample, Source
from onespike.data.sources.files import Files, open_files
from onespike.data.sources.hub import Hosted, open_hosted
from onespike.data.sources.image import decode, is_grey
from onespike.errors import OnespikeError

_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_ANNOTATIONS = "val/val_annotations.txt"

#: Part -> name and label of each of its image files.
Listing = dict[str, list[tuple[str, int]]]


def _content(files: Files, classes: tuple[str, ...], listing: Listing, channels: int) -> Content:
    def samples(part: str) -> Iterator[Sample]:
        for name, label in listing[part]:
            yield Sample(decode(files.read(name), files.where(name), channels), label, files.where(name))

    return Content(classes, {part: len(listed) for part, listed in listing.items()}, samples)


@contextmanager
def open_folder(root: Path | None) -> Iterator[Source]:
    """Open folders train/<class>/, and val/<class>/ or test/<class>/ or both; images may lie deeper than that.

    With both, val/ is the validation part; with one, it is the test part. Classes are numbered in the order of their
    names, images sorted by name; other files and hidden ones are left out. All images are read in grey if all of them
    are stored so, else in colour.

    Args:
        root: Folder or archive which holds train/; it may also lie in a folder of it.

    Raises:
        OnespikeError: There is no root, or it is missing, empty, damaged or has no train/.
    """
    if root is None:
        raise OnespikeError("folder: no root given; expected a folder with train/ and val/ or test/; pass --data.root")
    with open_files(root) as opened:
        if (files := opened.find("train/")) is None:
            raise OnespikeError(
                f"{root}: not recognised as folder; expected train/<class>/ beside val/<class>/ or test/<class>/, "
                "there or one folder down; correct --data.root"
            )
        found = files
        parts = _parts(found)
        names = [name for listed in parts.values() for name in listed]

        def content() -> Content:
            labels = {name: label for label, name in enumerate(_classes(found, parts))}
            listing = {part: [(name, labels[_step(name, 1)]) for name in listed] for part, listed in parts.items()}
            grey = all(is_grey(found.read(name), found.where(name)) for name in names)
            return _content(found, tuple(labels), listing, 1 if grey else 3)

        yield Source("folder", str(found.root), lambda: found.key(names), content)


def _parts(files: Files) -> dict[str, list[str]]:
    """Part -> names of its images, in the order in which they enter the key."""
    folders = [part for part in ("test", "val") if "" in files.holders(f"{part}/")]
    if not folders:
        raise OnespikeError(
            f"{files.where('test')}: no such folder, nor val; expected one of them beside train; add it"
        )
    places = {"train": "train"} | ({"validation": "val"} if len(folders) == 2 else {}) | {"test": folders[0]}
    names = [name for name in files.names() if _is_image(name)]
    parts = {part: [name for name in names if _step(name, 0) == folder] for part, folder in places.items()}
    for part, found in parts.items():
        if not found:
            raise OnespikeError(
                f"{files.where(places[part])}: no images; expected <class>/<image> with one of the "
                f"endings {' '.join(_EXTENSIONS)}; add some"
            )
    return parts


def _classes(files: Files, parts: dict[str, list[str]]) -> list[str]:
    """The names of the class folders, sorted; the same in each part."""
    train = {_step(name, 1) for name in parts["train"]}
    for names in parts.values():
        for odd in sorted(train ^ {_step(name, 1) for name in names}):
            folder = _step(names[0], 0)
            has, lacks = ("train", folder) if odd in train else (folder, "train")
            raise OnespikeError(
                f"{files.where(f'{lacks}/{odd}')}: no images of class {odd!r}, which {has}/ has; expected the same "
                "classes in each part; add some, or remove the class"
            )
    return sorted(train)


def _step(name: str, number: int) -> str:
    return name.split("/")[number]


def _is_image(name: str) -> bool:
    """Whether a file lies in a class folder of a part, has an image's ending and is not hidden."""
    steps = name.split("/")
    return len(steps) > 2 and name.lower().endswith(_EXTENSIONS) and not any(step.startswith(".") for step in steps)


def open_tiny_imagenet(root: Path | None) -> AbstractContextManager[Source]:
    """Open Tiny-ImageNet (Le and Yang 2015): 200 classes of 64x64 pixels, 500 + 50 images each.

    The official layout is wnids.txt, words.txt, train/<wnid>/images/*.JPEG, val/images/* and val_annotations.txt. Its
    validation images are the test part, because the labels of its test images were never published. Some images are
    grey; all are read as colour. Classes are numbered by their WordNet number, as on the Hub, not in the order of
    wnids.txt.
    """
    hosted = Hosted("tiny-imagenet", "zh-plus/tiny-imagenet", "image", "label")
    return open_hosted(hosted, root, {"wnids.txt": ("official, beside train/ and val/", _tiny_imagenet)})


def _tiny_imagenet(files: Files) -> Source:
    labels = {wnid: label for label, wnid in enumerate(sorted(_lines(files, "wnids.txt")))}

    def label_of(wnid: str, origin: str) -> int:
        if wnid not in labels:
            raise OnespikeError(f"{origin}: class {wnid!r}; expected one of those in wnids.txt; restore the file")
        return labels[wnid]

    train = []
    for name in files.names():
        match name.split("/"):
            case ["train", wnid, "images", file] if file.lower().endswith((".jpeg", ".jpg")):
                train.append((name, label_of(wnid, files.where(name))))
    if missing := set(labels.values()) - {label for _, label in train}:
        raise OnespikeError(
            f"{files.where('train/' + list(labels)[min(missing)])}: no images; expected images/*.JPEG for each class "
            "in wnids.txt; unpack or download the data set again"
        )
    test = []
    for number, line in enumerate(_lines(files, _ANNOTATIONS), 1):
        file, wnid = [*line.split("\t"), ""][:2]
        test.append((f"val/images/{file}", label_of(wnid, f"{files.where(_ANNOTATIONS)}: line {number}")))
    if not test:
        raise OnespikeError(f"{files.where(_ANNOTATIONS)}: empty; expected a line for each image; restore it")

    def content() -> Content:
        # The first word for each class, such as "goldfish"; its WordNet number if there is none.
        rows = (line.split("\t") for line in _lines(files, "words.txt"))
        words = {row[0]: row[1].split(",")[0].strip() for row in rows if len(row) == 2}
        return _content(files, tuple(words.get(wnid, wnid) for wnid in labels), {"train": train, "test": test}, 3)

    used = ["wnids.txt", "words.txt", _ANNOTATIONS, *(name for name, _ in train + test)]
    return Source("tiny-imagenet", str(files.root), lambda: files.key(used), content)


def _lines(files: Files, name: str) -> list[str]:
    text = files.read(name).decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.strip()]
