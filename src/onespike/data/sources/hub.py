"""The Hugging Face Hub, and its formats on the disk: any data set by its name, and Parquet files as they are."""

import errno
import hashlib
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onespike.configs import read_json
from onespike.data.items import content_of, parts_of
from onespike.data.sources import Content, HubUnreachableError, Part, Source
from onespike.data.sources.files import Files, open_files
from onespike.data.sources.image import decode
from onespike.errors import OnespikeError

_TIMEOUT = 10  # seconds until the Hub counts as unreachable
_UNWEIGHED = ("arrow", "h5", "hdf5", "lance", "vortex", "tsfile")  # what `datasets` reads and could be a bomb
_RATIO = 100  # a Parquet file may hold so many times its own size


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

    The root is a local folder, or a repository of the Hub, owner/name, or owner/name:configuration.
    """
    if root is None:
        raise OnespikeError("hub: no data set given; expected its name, such as owner/name; pass --data.root")
    if root.is_dir():
        files = Files(root)
        # What `datasets` writes is needed until the images are decoded, and not again.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:

            @cache
            def read() -> Content:
                for name in files.names():
                    _expect_no_bomb(Path(files.where(name)))
                return _load(str(root), root.name, cache_dir=folder)

            yield Source(root.resolve().name, str(root), lambda: files.key(files.names()), read)
        return
    origin, _, configuration = root.as_posix().partition(":")
    if origin.count("/") != 1:
        raise OnespikeError(f"{root}: no such folder; expected one, or the Hub's owner/name; correct --data.root")
    read_hub = partial(_load, origin, origin, configuration or None)
    yield _on_hub(root.name.replace(":", "-"), root.as_posix(), origin, read_hub)


def _expect_no_bomb(path: Path) -> None:
    """`datasets` unpacks what is packed, and writes all rows of a table to the disk, however much that is.

    So a Parquet file is read twice: once to weigh it.
    """
    from datasets.utils.extract import Extractor

    kind, size = Extractor.infer_extractor_format(path) or path.suffix.lower().removeprefix("."), path.stat().st_size
    if kind == "tar":
        with suppress(tarfile.TarError), tarfile.open(path, "r:") as archive:  # it takes none that is packed as well
            kind = "tar" if sum(one.size for one in archive) <= _RATIO * size else "sparse tar"
            if kind == "tar":
                return
    if kind in (*Extractor.extractors, *_UNWEIGHED, "sparse tar"):
        expected = "images, Parquet or text, as they are or in a plain .tar"
        raise OnespikeError(f"{path}: of the kind {kind}; expected {expected}; unpack or convert it")
    if kind in ("parquet", "geoparquet", "gpq"):
        with _parquet(path) as file:
            for _ in _weighed(file, path):
                pass


def _load(path: str, called: str, name: str | None = None, revision: str | None = None, **options: Any) -> Content:
    import datasets

    try:
        with _quiet(datasets):
            loaded = datasets.load_dataset(path, name=name, revision=revision, **options)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise OnespikeError(f"{path}: not read by Hugging Face datasets ({reason}); correct --data.root") from error
    return content_of(parts_of(loaded, called))


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
    """Open a data set that is known by name: the Hub's, or in whichever form it lies at a root or one folder down.

    The root is a folder or archive, None the Hub; a folder with the Hub's Parquet files will do, too. `official`: a
    file that marks an official form -> what that is called, and what reads the files beside it.
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
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        state = f"{name}: no network, or the Hugging Face Hub could not be reached for {repository} ({reason})"
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
    """Files of one row an image, read without the copy that `datasets` would make."""

    def key() -> str:
        return Files(folder).key(path.name for paths in _shards(folder).values() for path in paths)

    def content() -> Content:
        tables = {part: {path: _table(path, data) for path in paths} for part, paths in _shards(folder).items()}
        first = next(iter(tables["train"].values()))
        found = (first.schema.metadata or {}).get(b"huggingface", b"{}")
        names: Any = ()
        with suppress(OnespikeError, KeyError, TypeError):  # what others write there is theirs
            names = read_json(found, "")["info"]["features"][data.label]["names"]
        known = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return Content(tuple(names if known and names else data.classes), {name: part(tables[name]) for name in tables})

    def part(tables: Mapping[Path, Any]) -> Part:
        origins = [f"{path}: row {row}" for path, table in tables.items() for row in range(len(table))]
        images = [image for table in tables.values() for image in table.flatten()[f"{data.image}.bytes"]]
        labels = [label for table in tables.values() for label in table[data.label].to_pylist()]
        for origin, image, label in zip(origins, images, labels, strict=True):
            if label is None or not image.is_valid:
                raise OnespikeError(f"{origin}: no image or no label; expected both; restore the file")
        return Part(np.array(labels, np.int64), origins, lambda i: decode(images[i].as_py(), origins[i]))

    return Source(data.name, str(folder), key, content)


def _shards(folder: Path) -> dict[str, list[Path]]:
    """Part -> its files; a part that was cut in several says in each name how many there are."""
    starts = {"train": "train", "validation": "val", "test": "test"}
    found = {part: sorted(folder.glob(f"{start}*.parquet")) for part, start in starts.items()}
    for files in found.values():
        for path in files:
            if (announced := re.search(r"-of-(\d+)", path.name)) and int(announced[1]) != len(files):
                raise OnespikeError(f"{path}: one of {len(files)} files; expected {int(announced[1])}; add the others")
    if not found["test"]:
        found["test"] = found.pop("validation")
    if not found["test"]:
        raise OnespikeError(f"{folder}: no test*.parquet or val*.parquet; expected one of them; add it")
    return found


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise OnespikeError(f"{path}: truncated or damaged Parquet ({reason}); download it again") from error


def _table(path: Path, data: Hosted) -> Any:
    import pyarrow as pa

    with _parquet(path) as file:
        table = pa.Table.from_batches(_weighed(file, path), file.schema_arrow)
    kinds = dict(zip(table.schema.names, table.schema.types, strict=True))
    image, label = kinds.get(data.image, pa.null()), kinds.get(data.label, pa.null())
    if not (pa.types.is_struct(image) and image.get_field_index("bytes") >= 0 and pa.types.is_integer(label)):
        found = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        expected = f"{data.image}: a struct with bytes, and {data.label}: whole numbers"
        remedy = f"give the Parquet files of {data.name} as --data.root"
        raise OnespikeError(f"{path}: columns {found}; expected {expected}; {remedy}")
    return table


def _weighed(file: Any, path: Path) -> Iterator[Any]:
    """The rows in batches, weighed as they come: a value that is stored once may be that of every row."""
    size = path.stat().st_size
    room, most = _RATIO * size, f"one row, and {_RATIO} bytes inside, for each byte of the file"
    too_large = OnespikeError(f"{path}: far larger inside than its {size:,} bytes; expected at most {most}; not read")
    inside = sum(file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
    if file.metadata.num_rows > size or inside > room:
        raise too_large
    for batch in file.iter_batches(max(1, min(64, room // max(1, inside)))):
        room -= batch.nbytes
        if room < 0:
            raise too_large
        yield batch
