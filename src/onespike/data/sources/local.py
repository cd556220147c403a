"""A local folder of images, Parquet files or .tar archives, which Hugging Face `datasets` reads.

Which files it reads is decided here, by their names. Left alone, it would follow a README out of the folder and to
other machines, and read any kind of file, importing and unpickling for it.
"""

import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from onespike.classpath import installed_only
from onespike.data.items import content_of, parts_of
from onespike.data.sources import NAMES, PARTS, Content
from onespike.data.sources.files import Files, entries, is_hidden, open_files
from onespike.data.sources.image import EXTENSIONS
from onespike.data.sources.parquet import RATIO, expect_whole, features_of, opened, weighed
from onespike.durable import is_full
from onespike.errors import OnespikeError, damage_named, listed, warn

_EXPECTED = "images, Parquet files, or plain .tar archives of images and text"
#: Readers of `datasets`, and the endings of their files; of several kinds in a folder, the first is read.
_KINDS = {"Parquet": (".parquet",), "WebDataset": (".tar",), "ImageFolder": EXTENSIONS}
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of images: their labels
_MEMBERS = (*EXTENSIONS, ".cls", ".txt", ".json")  # other members are decoded by whatever module knows their ending
_UNREAD = ("arrow", "h5", "hdf5", "lance", "vortex", "tsfile")  # tables of other kinds
_BESIDE = ("README.md", "LICENSE", "dataset_infos.json")  # files that say nothing here, left out without a warning
_NAMED = "|".join(f"(?P<{part}>{'|'.join(words)})" for part, words in NAMES.items())
#: Which part a folder or file belongs to, by a word in its name, as `datasets` has it.
_PART = re.compile(rf"(?:^|[-._ 0-9/])(?:{_NAMED})(?=[-._ 0-9/]|$)")
_PART_IN_ANY_CASE = re.compile(_PART.pattern, re.IGNORECASE)


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Switch off the progress bars of a library, of which there are several a file."""
    library: Any = import_module(name)
    shown = not library.are_progress_bars_disabled()
    library.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bars()


@installed_only()
@quiet("datasets")
def read_local(files: Files, cache: str) -> Content:
    """Read a folder with an absolute root; `cache` is where `datasets` may write. Any failure is one error."""
    kind, parts = _chosen(files)
    for paths in parts.values():
        _expect_readable(kind, paths, files.root)
    tables = [path for paths in parts.values() for path in paths if path.suffix.lower() == ".parquet"]
    if kind == "Parquet":
        features_of(tables)
    for path in tables:  # each is read twice: `datasets` writes all rows to the disk, however much that is
        with opened(path) as file:
            for _ in weighed(file, path):
                pass
    with damage_named(str(files.root), "not read by Hugging Face datasets", f"{_EXPECTED}; correct --data.root"):
        from datasets.data_files import DataFilesDict, DataFilesList
        from datasets.exceptions import DatasetGenerationError

        # Not by `load_dataset`, which takes some characters in names for patterns, and tells a server what is loaded.
        builder = getattr(import_module(f"datasets.packaged_modules.{kind.lower()}.{kind.lower()}"), kind)
        given = DataFilesDict({part: DataFilesList(list(map(str, paths)), []) for part, paths in parts.items()})
        made = builder(cache_dir=cache, data_files=given)
        try:
            made.download_and_prepare()
        except (DatasetGenerationError, OSError) as error:
            cause = error.__cause__ or error  # it says why, a DatasetGenerationError itself does not
            if isinstance(cause, OSError) and (is_full(cause) or "disk space" in str(cause)):
                raise OnespikeError(f"{files.root}: disk full: no room in {cache}; free some or set $TMPDIR") from error
            raise cause from None
        return content_within(made.as_dataset(), files.root.name, files.root)


def content_within(tables: Any, called: str, *roots: Path) -> Content:
    """Split tables of `datasets` into parts; images given by path must lie below one of the roots, each once."""
    parts, seen = parts_of(tables, called), set[Path]()
    for rows in dict.fromkeys(part.images for part in parts.values()):
        for path in (Path(one).expanduser().absolute() for one in rows.files()):
            inside = any(path.is_relative_to(root) and ".." not in path.relative_to(root).parts for root in roots)
            if path in seen or not inside:
                expected = "one that is not there twice" if path in seen else f"one below {listed(map(str, roots))}"
                raise OnespikeError(f"{rows.where}: the image {path}; expected {expected}; correct the data set")
            seen.add(path)
    return content_of(parts)


def _chosen(files: Files) -> tuple[str, dict[str, list[Path]]]:
    """The kind of the files to read, and those of each part; it warns of files left out that could be meant."""
    names = files.names()
    for name in names:
        _expect_unpacked(Path(files.where(name)))
    about = [name for name in names if name.split("/")[-1] in _METADATA]
    data = sorted(set(names).difference(about))
    by_kind = {kind: [name for name in data if name.lower().endswith(ends)] for kind, ends in _KINDS.items()}
    kind = next((kind for kind, found in by_kind.items() if found), None)
    if kind is None:
        raise OnespikeError(f"{files.root}: no images; expected {_EXPECTED}; correct --data.root")
    read = by_kind[kind] + (about if kind == "ImageFolder" else [])
    parts = _by_part(read, _PART_IN_ANY_CASE)  # or Testing/ beside Training/ would be trained on
    if not parts["train"] or not (parts["validation"] or parts["test"]):  # Train/ beside Bus/ is a class
        parts = _by_part(read, _PART)
    rest = parts.pop("")
    if not any(parts.values()):
        parts["train"] = rest
    if left := {name for name in names if name not in _BESIDE}.difference(*parts.values()):
        what = {"ImageFolder": "image", "WebDataset": "archive"}.get(kind, "Parquet file")
        warn(files.left_out(left, f"{what} of a part"))
    return kind, {part: [Path(files.where(name)) for name in chosen] for part, chosen in parts.items() if chosen}


def _by_part(names: list[str], pattern: re.Pattern[str]) -> dict[str, list[str]]:
    """Files of each part by their names, and under "" those of none."""
    parts: dict[str, list[str]] = {part: [] for part in (*PARTS, "")}
    for name in names:
        folder, _, file = name.rpartition("/")
        found = pattern.search(folder) or pattern.search(file)
        parts[found.lastgroup or "" if found else ""].append(name)
    return parts


def _expect_readable(kind: str, paths: list[Path], root: Path) -> None:
    for path in paths:
        if "::" in str(path):  # to `datasets` it is a file inside of another
            raise OnespikeError(f"{path}: '::' in its name; expected none; rename it")
    if kind == "ImageFolder":
        return
    if len(folders := {str(path.parent) for path in paths}) > 1:
        found = f"{root}: {listed(sorted(folders))} hold files of one part"
        raise OnespikeError(f"{found}; expected one data set; give one as --data.root")
    expect_whole(paths)
    for path in paths if kind == "WebDataset" else ():
        with open_files(path) as archive:
            for name in archive.members or ():  # hidden ones, too: `datasets` would read them
                if is_hidden(name) or not name.lower().endswith(_MEMBERS):
                    raise OnespikeError(f"{archive.where(name)}: expected only {' '.join(_MEMBERS)}; pack it anew")


def _expect_unpacked(path: Path) -> None:
    """Raise an OnespikeError for a packed file: it could be a bomb, and its images must not go missing."""
    from datasets.utils.extract import Extractor

    kind, size = Extractor.infer_extractor_format(path) or path.suffix.lower().removeprefix("."), path.stat().st_size
    if kind == "tar":
        with suppress(OnespikeError), damage_named(str(path), "damaged", "a whole one"):
            with tarfile.open(path, "r:") as archive:  # it takes none that is packed as well
                if sum(one.size for one in entries(archive)) <= RATIO * size:
                    return
            kind = "sparse tar"
    if kind in (*Extractor.extractors, *_UNREAD, "sparse tar"):
        raise OnespikeError(f"{path}: of the kind {kind}; expected {_EXPECTED}; unpack or convert it")
