"""Image files in folders: your own, with one folder for each class, and Tiny-ImageNet as it is shipped."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np

from onespike.data.sources import NAMES, PARTS, Content, Part, Source
from onespike.data.sources.files import Files, is_hidden, open_files
from onespike.data.sources.hub import Hosted, not_recognised, open_hosted
from onespike.data.sources.image import EXTENSIONS, decode
from onespike.errors import OnespikeError, warn

_ANNOTATIONS = "val/val_annotations.txt"
_HOSTED = Hosted("tiny-imagenet", "zh-plus/tiny-imagenet", "image", "label")

Listing = list[tuple[str, str]]  # name and class of each image file


@contextmanager
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
            raise not_recognised(root, "folder", ["train/<class>/ beside val/<class>/ or test/<class>/"])
        classes, parts, others = in_class_folders(files, EXTENSIONS, "image")

        def content() -> Content:
            if others:
                warn(others)
            return _content(files, classes, classes, parts)

        names = [name for listing in parts.values() for name, _ in listing]
        yield Source("folder", str(files.root), lambda: files.key(names), content)


def in_class_folders(files: Files, endings: tuple[str, ...], what: str) -> tuple[list[str], dict[str, Listing], str]:
    """The classes of train/<class>/, and val/<class>/ or test/<class>/ or both; each part's files, such as "image".

    The third is what to warn of once they are read: files in other folders, or of other names; empty if there are none.
    """
    places = [next((one for one in names if "" in files.holders(f"{one}/")), "") for names in NAMES.values()]
    if not any(places[1:]):
        raise OnespikeError(f"{files.where('test')}: no such folder, nor val; expected one beside train; add it")
    every = files.names()
    listings = {folder: _listed(every, folder, endings) for folder in filter(None, places)}
    for folder, listing in listings.items():
        if not listing:
            expected = f"<class>/<{what}>, ending in one of {' '.join(endings)}"
            raise OnespikeError(f"{files.where(folder)}: no {what}s; expected {expected}; restore them")
    classes = _classes_of(files, listings, f"{what}s")  # now: what is decoded already is not decoded again
    used = {name for listing in listings.values() for name, _ in listing}
    others = {one for one in every if "/" in one and not is_hidden(one)} - used
    left = f"{len(others)} such file{'s are' if len(others) > 1 else ' is'} left out"
    state = f"{files.where(min(others))}: no {what} of a class by its name; {left}" if others else ""
    return classes, dict(zip(PARTS if all(places) else ("train", "test"), listings.values(), strict=True)), state


def _listed(names: Sequence[str], part: str, endings: tuple[str, ...]) -> Listing:
    """The files in class folders of a part that end so and are not hidden."""
    shown = (name for name in names if name.lower().endswith(endings) and not is_hidden(name))
    split = ((name, name.split("/")) for name in shown)
    return [(name, steps[1]) for name, steps in split if len(steps) > 2 and steps[0] == part]


def _classes_of(files: Files, listings: Mapping[str, Listing], what: str) -> list[str]:
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


def _content(files: Files, folders: Sequence[str], classes: Sequence[str], parts: Mapping[str, Listing]) -> Content:
    numbers = {name: number for number, name in enumerate(folders)}

    def part(listing: Listing) -> Part:
        origins = [files.where(name) for name, _ in listing]
        labels = np.array([numbers[folder] for _, folder in listing], np.int64)
        return Part(labels, origins, lambda i: decode(files.read(listing[i][0]), origins[i]))

    return Content(tuple(classes), {name: part(listing) for name, listing in parts.items()})


def open_tiny_imagenet(root: Path | None) -> AbstractContextManager[Source]:
    """Open Tiny-ImageNet (Le and Yang 2015): 200 classes of 64x64 pixels, 500 + 50 images each.

    The official layout is wnids.txt, words.txt, train/<wnid>/images/*.JPEG, val/images/* and val_annotations.txt. Its
    validation images are the test part, because the labels of its test images were never published. Classes are
    numbered by their WordNet number, as on the Hub, not in the order of wnids.txt.
    """
    return open_hosted(_HOSTED, root, {"wnids.txt": ("official, beside train/ and val/", _tiny_imagenet)})


def _tiny_imagenet(files: Files) -> Source:
    wnids = dict.fromkeys(sorted(_lines(files, "wnids.txt")))
    names = files.names()
    train = _listed(names, "train", EXTENSIONS)
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
        classes = [words.get(wnid, wnid) for wnid in wnids]
        return _content(files, list(wnids), classes, {"train": train, "test": test})

    used = ["wnids.txt", "words.txt", _ANNOTATIONS, *(name for name, _ in train + test)]
    return Source(_HOSTED.name, str(files.root), lambda: files.key(used), content)


def _lines(files: Files, name: str) -> list[str]:
    return [line for line in files.read(name).decode("utf-8", "replace").splitlines() if line.strip()]
