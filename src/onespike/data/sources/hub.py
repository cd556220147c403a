"""The Hugging Face Hub, and its formats on disk: any data set by its name, and Parquet files as they are."""

import errno
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onespike.classpath import installed_only
from onespike.data.sources import Content, HubUnreachableError, Part, Source
from onespike.data.sources.files import Files, open_files
from onespike.data.sources.image import decode
from onespike.data.sources.local import content_within, read_folder
from onespike.data.sources.parquet import expect_whole, features_of, opened, weighed
from onespike.errors import OnespikeError, reason

_TIMEOUT = 10  # seconds until the Hub counts as unreachable


class Hosted(NamedTuple):
    """A data set that the Hub keeps in Parquet files."""

    name: str
    repository: str
    image: str  # column of the image files
    label: str
    classes: tuple[str, ...] = ()  # if the files do not say them


@contextmanager
def open_hub(root: Path | None) -> Iterator[Source]:
    """Open any data set that Hugging Face `datasets` reads; splits and columns are found as in `as_dataset`.

    The root is a local folder, or a repository of the Hub, owner/name, or owner/name:configuration. Of a folder only
    images, Parquet files and .tar archives are read, no README and no configuration.
    """
    if root is None:
        raise OnespikeError("hub: no data set given; expected its name, such as owner/name; pass --data.root")
    if root.is_dir():
        files = Files(root.resolve())
        # What `datasets` writes is needed only until the images are decoded.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:

            @cache
            def read() -> Content:
                import datasets

                with _quiet(datasets):
                    return read_folder(files, files.root.name, folder)

            yield Source(files.root.name, str(root), lambda: files.key(files.names()), read)
        return
    origin, _, configuration = root.as_posix().partition(":")
    if origin.count("/") != 1:
        raise OnespikeError(f"{root}: no such folder; expected one, or the Hub's owner/name; correct --data.root")
    read_hub = partial(_load, origin, configuration or None)
    yield _on_hub(root.name.replace(":", "-"), root.as_posix(), origin, read_hub)


@installed_only()
def _load(repository: str, name: str | None, revision: str) -> Content:
    import datasets
    import huggingface_hub

    try:
        with _quiet(datasets):
            loaded = datasets.load_dataset(repository, name=name, revision=revision)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        state = f"{repository}: not read by Hugging Face datasets ({reason(error)})"
        raise OnespikeError(f"{state}; correct --data.root") from error
    caches = [huggingface_hub.constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE]
    caches += [datasets.config.DOWNLOADED_DATASETS_PATH, datasets.config.EXTRACTED_DATASETS_PATH]
    return content_within(loaded, repository, *(Path(one).expanduser().absolute() for one in caches))


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Switch off progress bars, of which there are several a file."""
    shown = not library.are_progress_bars_disabled()
    library.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            library.enable_progress_bars()


@contextmanager
def open_hosted(
    data: Hosted, root: Path | None, official: Mapping[str, tuple[str, Callable[[Files], Source]]]
) -> Iterator[Source]:
    """Open a data set that is known by name: the Hub's, or any of its forms at a root or one folder down.

    The root is a folder or archive, None the Hub; a folder with the Hub's Parquet files will do, too. `official` maps
    the file that marks an official form to the name of that form and the function that reads it.
    """
    if root is None:
        yield _on_hub(data.name, data.repository, data.repository, lambda revision: _snapshot(data, revision))
        return
    with open_files(root) as files:
        for marker, (_, read) in official.items():
            if found := files.find(marker):
                yield read(found)
                return
        if (folder := _parquet_folder(root)) is None:
            forms = [f"{marker} ({called})" for marker, (called, _) in official.items()]
            raise not_recognised(root, data.name, [*forms, "train*.parquet (Hub)"])
        yield _parquet_source(data, folder)


def not_recognised(root: Path, name: str, forms: Iterable[str]) -> OnespikeError:
    """The error for a root in which none of a data set's forms was found."""
    expected = f"expected {', or '.join(forms)}, there or one folder down"
    return OnespikeError(f"{root}: not recognised as {name}; {expected}; correct --data.root")


def _on_hub(name: str, origin: str, repository: str, read: Callable[[str], Content]) -> Source:
    """A data set of the Hub at its newest revision; nothing is downloaded for its key."""
    import huggingface_hub
    from rich.console import Console
    from rich.markup import escape

    @cache
    @_reached(name, repository)
    def revision() -> str:
        return str(huggingface_hub.HfApi().dataset_info(repository, timeout=_TIMEOUT).sha)

    @_quiet(huggingface_hub.utils)
    @_reached(name, repository)
    def content() -> Content:
        with Console(stderr=True).status(f"downloading {escape(repository)} from the Hugging Face Hub"):
            return read(revision())

    return Source(name, origin, lambda: hashlib.sha256(f"{origin}@{revision()}".encode()).hexdigest(), content)


@contextmanager
def _reached(name: str, repository: str) -> Iterator[None]:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        yield
    except OnespikeError:
        raise
    except RepositoryNotFoundError as error:
        where = f"{repository}: not on the Hugging Face Hub, or not open to you"
        raise OnespikeError(f"{where}; correct the name, or log in with `hf auth login`") from error
    except Exception as error:  # the client's errors come from whichever HTTP library its version uses
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            state = f"{name}: disk full while downloading {repository}"
            raise OnespikeError(f"{state}; free some, or move the Hub's cache with $HF_HOME") from error
        found = f"{type(error).__name__}: {error}".partition("\n")[0]
        state = f"{name}: no network, or the Hugging Face Hub could not be reached for {repository} ({found})"
        raise HubUnreachableError(f"{state}; connect, or give a local folder as --data.root") from error


def _snapshot(data: Hosted, revision: str) -> Content:
    """The Parquet files of the Hub, read where its client puts them."""
    import huggingface_hub

    options = {"revision": revision, "allow_patterns": "*.parquet", "etag_timeout": _TIMEOUT}
    folder = huggingface_hub.snapshot_download(data.repository, repo_type="dataset", **options)
    if found := _parquet_folder(Path(folder)):
        return _parquet_source(data, found).content()
    raise OnespikeError(f"{data.repository}: no longer one folder with train*.parquet; give a local one as --data.root")


def _parquet_folder(root: Path) -> Path | None:
    """The folder that holds the train*.parquet: this one, or the only one below it that does."""
    if any(root.glob("train*.parquet")):
        return root
    folders = {path.parent for path in root.glob("*/train*.parquet")}
    return folders.pop() if len(folders) == 1 else None


def _parquet_source(data: Hosted, folder: Path) -> Source:
    """Parquet files with a row for each image, read without the copy that `datasets` would make."""

    def key() -> str:
        return Files(folder).key(path.name for paths in _shards(folder).values() for path in paths)

    def content() -> Content:
        tables = {part: {path: _table(path, data) for path in paths} for part, paths in _shards(folder).items()}
        features = features_of(path for paths in tables.values() for path in paths)
        names: Any = ()
        with suppress(KeyError, TypeError):
            names = features[data.label]["names"]
        known = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return Content(tuple(names if known and names else data.classes), {name: rows(tables[name]) for name in tables})

    def rows(tables: Mapping[Path, Any]) -> Part:
        origins = [f"{path}: row {row}" for path, table in tables.items() for row in range(len(table))]
        images = [image for table in tables.values() for image in table["image"]]
        labels = [label for table in tables.values() for label in table["label"].to_pylist()]
        for origin, image, label in zip(origins, images, labels, strict=True):
            if label is None or not image.is_valid:
                raise OnespikeError(f"{origin}: no image or no label; expected both; restore the file")
        return Part(np.array(labels, np.int64), origins, lambda i: decode(images[i].as_py(), origins[i]))

    return Source(data.name, str(folder), key, content)


def _shards(folder: Path) -> dict[str, list[Path]]:
    """The files of each part."""
    starts = {"train": "train", "validation": "val", "test": "test"}
    found = {part: sorted(folder.glob(f"{start}*.parquet")) for part, start in starts.items()}
    for files in found.values():
        expect_whole(files)
    if not found["test"]:
        found["test"] = found.pop("validation")
    if not found["test"]:
        raise OnespikeError(f"{folder}: no test*.parquet or val*.parquet; expected one of them; add it")
    return found


def _table(path: Path, data: Hosted) -> Any:
    """Two columns of a file, `image`, its bytes, and `label`, int64."""
    import pyarrow as pa
    import pyarrow.compute as pc

    with opened(path) as file:
        table = pa.Table.from_batches(weighed(file, path), file.schema_arrow)
        names, kinds = table.schema.names, table.schema.types
        once = {name: kind for name, kind in zip(names, kinds, strict=True) if names.count(name) == 1}
        image, label = once.get(data.image, pa.null()), once.get(data.label, pa.null())
        number = image.get_field_index("bytes") if pa.types.is_struct(image) else -1
        stored = image.field(number).type if number >= 0 else pa.null()
        is_bytes = pa.types.is_binary(stored) or pa.types.is_large_binary(stored)
        if not (is_bytes and pa.types.is_integer(label)):
            found = ", ".join(f"{name}: {kind}" for name, kind in zip(names, kinds, strict=True))
            expected = f"{data.image}: a struct with bytes (binary), and {data.label}: whole numbers, each once"
            remedy = f"give the Parquet files of {data.name} as --data.root"
            raise OnespikeError(f"{path}: columns {found}; expected {expected}; {remedy}")
        columns = {"image": pc.struct_field(table[data.image], [number]), "label": table[data.label].cast(pa.int64())}
        return pa.table(columns)
