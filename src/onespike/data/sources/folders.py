"""Files in folders, each of one image or recording: your own, by class, and Tiny-ImageNet as it is shipped."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from onespike.data.sources import NAMES, PARTS, Content, Part, Source
from onespike.data.sources.files import Files, not_recognised, open_files
from onespike.data.sources.hub import open_hosted
from onespike.data.sources.image import EXTENSIONS, decode
from onespike.data.sources.parquet import Hosted
from onespike.errors import OnespikeError, warn

_ANNOTATIONS = "val/val_annotations.txt"
_HOSTED = Hosted("tiny-imagenet", "zh-plus/tiny-imagenet", "image", "label")

Listing = Sequence[tuple[str, Hashable]]  # the name of each file, and its class


def open_folder(root: Path | None) -> Iterator[Source]:
    """Open folders train/<class>/, and val/<class>/ or test/<class>/ or both; images may lie deeper than that.

    They may lie in a folder or archive, or one folder down. With both, val/ is the validation part; with one, it is the
    test part. val/ may be called validation/, valid/ or dev/, and test/ testing/, eval/ or evaluation/. Classes are
    numbered in the order of their names, images sorted by name; other files in folders are left out, with a warning
    unless they are hidden.
    """
    if root is None:
        raise OnespikeError("folder: no root given; expected a folder with train/ and val/ or test/; pass --data.root")
    with open_files(root) as opened:
        files = opened.find("train/")
        if files is None:
            alone = "<class>/ alone with --data.name hub"  # which splits them
            raise not_recognised(root, "folder", ["train/<class>/ beside val/<class>/ or test/<class>/", alone])
        names, content = in_class_folders(files, EXTENSIONS, "image", _decoder(files))
        yield Source("folder", str(files.root), lambda: files.key(names), content)


def in_class_folders(
    files: Files, endings: tuple[str, ...], what: str, read: Callable[[str], np.ndarray]
) -> tuple[list[str], Callable[[], Content]]:
    """Find the files of train/<class>/, and of val/<class>/ or test/<class>/ or both; `what` they are, such as "image".

    Returns their names, and the function that gives the content, which warns of other files.
    """
    places = []
    for part, names in NAMES.items():
        there = [one for one in names if "" in files.holders(f"{one}/")]
        if len(there) > 1:
            state = f"{files.where(there[0])} and {files.where(there[1])}: each is the {part} part by its name"
            raise OnespikeError(f"{state}; expected one; move the images of one into the other")
        places.append(there[0] if there else "")
    if not any(places[1:]):
        raise OnespikeError(f"{files.where('test')}: no such folder, nor val; expected one beside train; add it")
    every = files.names()
    found = {folder: below(files, every, folder, endings, what) for folder in filter(None, places)}
    listings = {folder: [(name, name.split("/")[1]) for name in names] for folder, names in found.items()}
    classes = _classes_of(files, listings, f"{what}s")  # now: what is decoded already is not decoded again
    others = {one for one in every if "/" in one}.difference(*found.values())
    parts = dict(zip(PARTS if all(places) else ("train", "test"), listings.values(), strict=True))

    def content() -> Content:
        if others:
            warn(files.left_out(others, f"{what} of a class"))
        return Content(tuple(classes), parts_of_files(files, classes, parts, read))

    return [name for names in found.values() for name in names], content


def below(
    files: Files, names: Sequence[str], folder: str, endings: tuple[str, ...], what: str, depth: int = 2
) -> list[str]:
    """List the images or recordings below a folder by their endings; an OnespikeError if there is none.

    `depth` is how many folders each has above it: 2 for <part>/<class>/<image>.
    """
    inside = (name for name in names if name.startswith(f"{folder}/"))
    found = [name for name in inside if name.lower().endswith(endings) and name.count("/") >= depth]
    if not found:
        expected = f"{'<class>/' * (depth - 1)}<{what}>, ending in {' or '.join(endings)}"
        raise OnespikeError(f"{files.where(folder)}: no {what}s; expected {expected}; restore them")
    return found


def _classes_of(files: Files, listings: Mapping[str, list[tuple[str, str]]], what: str) -> list[str]:
    """The names of the class folders, sorted; the same in each part, and none may lack `what`, such as "images"."""
    train = {name for _, name in listings["train"]}
    for folder, listing in listings.items():
        for odd in sorted(train ^ {name for _, name in listing}):
            has, lacks = ("train", folder) if odd in train else (folder, "train")
            where = files.where(f"{lacks}/{odd}")
            raise OnespikeError(f"{where}: no {what} of class {odd!r}, which {has}/ has; expected the same classes")
        for empty in sorted(files.folders(folder) - train):
            where = files.where(f"{folder}/{empty}")
            raise OnespikeError(f"{where}: no {what} of class {empty!r}; expected some; add them, or remove the folder")
    return sorted(train)


def parts_of_files(
    files: Files, classes: Iterable[Hashable], listings: Mapping[str, Listing], read: Callable[[str], np.ndarray]
) -> dict[str, Part]:
    """Make parts of files, each of one image or recording, which is read by its name; classes are numbered in order."""
    numbers = {name: number for number, name in enumerate(classes)}

    def part(listing: Listing) -> Part:
        labels = np.array([numbers[one] for _, one in listing], np.int64)
        return Part(labels, [files.where(name) for name, _ in listing], lambda i: read(listing[i][0]))

    return {name: part(listing) for name, listing in listings.items()}


def _decoder(files: Files) -> Callable[[str], np.ndarray]:
    return lambda name: decode(files.read(name), files.where(name))


def open_tiny_imagenet(root: Path | None) -> Iterator[Source]:
    """Open Tiny-ImageNet (Le and Yang 2015): 200 classes of 64x64 pixels, 500 + 50 images each.

    The official layout is wnids.txt, words.txt, train/<wnid>/images/*.JPEG, val/images/* and val_annotations.txt. Its
    validation images are the test part, because the labels of its test images were never published. Classes are
    numbered by their WordNet number, as on the Hub, not in the order of wnids.txt.
    """
    return open_hosted(_HOSTED, root, {"wnids.txt": ("official, beside train/ and val/", _tiny_imagenet)})


def _tiny_imagenet(files: Files) -> Source:
    wnids = dict.fromkeys(sorted(_lines(files, "wnids.txt")))
    names = files.names()
    train = [(name, name.split("/")[1]) for name in below(files, names, "train", EXTENSIONS, "image")]
    rows = [[*line.split("\t"), ""][:2] for line in _lines(files, _ANNOTATIONS)]
    test = [(f"val/images/{file}", wnid) for file, wnid in rows]
    origins = [files.where(name) for name, _ in train]
    origins += [f"{files.where(_ANNOTATIONS)}: line {number}" for number in range(1, len(test) + 1)]
    for origin, (_, wnid) in zip(origins, train + test, strict=True):
        if wnid not in wnids:
            raise OnespikeError(f"{origin}: class {wnid!r}; expected one of those in wnids.txt; restore the file")
    if missing := wnids.keys() - {wnid for _, wnid in train}:
        where = files.where(f"train/{min(missing)}")
        raise OnespikeError(f"{where}: no images; expected some for each class in wnids.txt; download it again")
    if not test:
        raise OnespikeError(f"{files.where(_ANNOTATIONS)}: empty; expected a line for each image; restore it")

    files.expect_listed((name for name, _ in test), names)

    def content() -> Content:
        # The first word for each class, such as "goldfish"; its WordNet number if there is none.
        rows = (line.split("\t") for line in _lines(files, "words.txt"))
        words = {row[0]: row[1].split(",")[0].strip() for row in rows if len(row) == 2}
        classes = tuple(words.get(wnid, wnid) for wnid in wnids)
        return Content(classes, parts_of_files(files, wnids, {"train": train, "test": test}, _decoder(files)))

    used = ["wnids.txt", "words.txt", _ANNOTATIONS, *(name for name, _ in train + test)]
    return Source(_HOSTED.name, str(files.root), lambda: files.key(used), content)


def _lines(files: Files, name: str) -> list[str]:
    return [line for line in files.lines(name) if line.strip()]
