"""The Hugging Face Hub, and its formats on the disk: any data set by its name, and Parquet files as they are."""

import errno
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from onespike.data.items import content_of, parts_of
from onespike.data.sources import Content, HubUnreachableError, Sample, Source
from onespike.data.sources.files import Files, open_files
from onespike.data.sources.image import decode
from onespike.errors import OnespikeError

_ROWS_AT_ONCE = 256
_TIMEOUT = 10  # seconds until the Hub counts as unreachable


class Hosted(NamedTuple):
    """A data set that the Hub keeps in Parquet files.

    Attributes:
        name: Its name here.
        repository: Its name on the Hub.
        image: Column of the image files.
        label: Column of the labels.
        classes: Class names if the files do not say them.
    """

    name: str
    repository: str
    image: str
    label: str
    classes: tuple[str, ...] = ()


@contextmanager
def open_hub(root: Path | None) -> Iterator[Source]:
    """Open any data set that Hugging Face `datasets` reads; splits and columns are found as in `as_dataset`.

    Args:
        root: A local folder, or a repository of the Hub, owner/name, or owner/name:configuration.

    Raises:
        OnespikeError: There is no root, or it cannot be read, or has no images or labels.
    """
    if root is None:
        raise OnespikeError("hub: no data set given; expected its name, such as owner/name; pass --data.root")
    if root.is_dir():
        files = Files(root)
        # What `datasets` writes is needed until the images are decoded, and not again.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            read = cache(lambda: _load(str(root), root.name, cache_dir=folder))
            yield Source(root.resolve().name, str(root), lambda: files.key(files.names()), read)
        return
    origin, _, configuration = root.as_posix().partition(":")
    if origin.count("/") != 1:
        raise OnespikeError(f"{root}: no such folder; expected one, or the Hub's owner/name; correct --data.root")

    def read_hub(revision: str) -> Content:
        return _load(origin, origin, name=configuration or None, revision=revision)

    yield _on_hub(root.name.replace(":", "-"), root.as_posix(), origin, read_hub)


def _load(path: str, called: str, **options: Any) -> Content:
    import datasets

    try:
        with _quiet(datasets):
            loaded = datasets.load_dataset(path, **options)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise OnespikeError(
            f"{path}: not read by Hugging Face datasets ({reason}); expected a data set of images; correct --data.root"
        ) from error
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
    """Open a data set that is known by name, in whichever form it lies at a root.

    Args:
        data: How the Hub has it.
        root: Folder or archive which holds one of the official forms, or a folder with the Hub's Parquet files; they
            may also lie in a folder of it. None is the Hub's.
        official: A file that marks an official form -> what that is called, and what reads the files beside it.

    Raises:
        OnespikeError: The root is missing, empty, damaged or none of these.
    """
    if root is None:
        yield _parquet_on_hub(data)
        return
    with open_files(root) as files:
        for marker, (_, read) in official.items():
            if found := files.find(marker):
                yield read(found)
                return
        if (folder := _parquet_folder(root)) is None:
            forms = [*(f"{marker} ({called})" for marker, (called, _) in official.items()), "train*.parquet (Hub)"]
            raise OnespikeError(
                f"{root}: not recognised as {data.name}; expected {', or '.join(forms)}, there or one folder down; "
                "correct --data.root"
            )
        yield _parquet_source(data, folder)


def _parquet_on_hub(data: Hosted) -> Source:
    """The Parquet files are read where the Hub's client puts them."""

    def read(revision: str) -> Content:
        import huggingface_hub

        options = {"revision": revision, "allow_patterns": "*.parquet", "etag_timeout": _TIMEOUT}
        folder = _parquet_folder(
            Path(huggingface_hub.snapshot_download(data.repository, repo_type="dataset", **options))
        )
        if folder is None:
            raise OnespikeError(
                f"{data.repository}: its layout has changed; expected one folder with train*.parquet; "
                "give a local folder as --data.root"
            )
        return _parquet_source(data, folder).content()

    return _on_hub(data.name, data.repository, data.repository, read)


def _on_hub(name: str, origin: str, repository: str, read: Callable[[str], Content]) -> Source:
    """A data set of the Hub at its newest revision; nothing is downloaded for its key."""
    import huggingface_hub
    from rich.console import Console

    @cache
    def revision() -> str:
        with _reached(name, repository):
            newest = huggingface_hub.HfApi().dataset_info(repository, timeout=_TIMEOUT).sha
        if newest is None:
            raise OnespikeError(f"{repository}: the Hub names no revision; give a local folder as --data.root")
        return str(newest)

    def content() -> Content:
        status = Console(stderr=True).status(f"downloading {repository} from the Hugging Face Hub")
        with _quiet(huggingface_hub.utils), _reached(name, repository), status:
            return read(revision())

    return Source(name, origin, lambda: hashlib.sha256(f"{origin}@{revision()}".encode()).hexdigest(), content)


@contextmanager
def _reached(name: str, repository: str) -> Iterator[None]:
    import huggingface_hub

    try:
        yield
    except OnespikeError:
        raise
    except huggingface_hub.utils.RepositoryNotFoundError as error:
        raise OnespikeError(
            f"{repository}: not on the Hugging Face Hub, or not open to you; expected owner/name of a data set; "
            "correct the name, or log in with `hf auth login`"
        ) from error
    except Exception as error:  # the client's errors come from whichever HTTP library its version uses
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OnespikeError(
                f"{name}: disk full while downloading {repository}; expected room in the Hub's cache; "
                "free some, or move the cache with $HF_HOME"
            ) from error
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise HubUnreachableError(
            f"{name}: no network, or the Hugging Face Hub could not be reached for {repository} ({reason}); "
            "expected to download it once; connect, or give a local folder as --data.root"
        ) from error


def _parquet_folder(root: Path) -> Path | None:
    """The folder that holds the train*.parquet: this one, or the only one below it that does."""
    if any(root.glob("train*.parquet")):
        return root
    folders = {path.parent for path in root.glob("*/train*.parquet")}
    return folders.pop() if len(folders) == 1 else None


def _parquet_source(data: Hosted, folder: Path) -> Source:
    """Files of one row an image, read in constant memory and without the copy that `datasets` would make."""

    def key() -> str:
        return Files(folder).key(path.name for paths in _shards(folder).values() for path in paths)

    def content() -> Content:
        shards, counts = _shards(folder), {}
        for part, paths in shards.items():
            counts[part] = 0
            for path in paths:
                with _parquet(path, data) as file:
                    counts[part] += file.metadata.num_rows
        with _parquet(shards["train"][0], data) as file:
            metadata = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        described = metadata.get("info", {}).get("features", {}).get(data.label, {})
        classes = tuple(described.get("names") or data.classes)
        return Content(classes, counts, lambda part: samples(shards[part]))

    def samples(paths: list[Path]) -> Iterator[Sample]:
        for path in paths:
            with _parquet(path, data) as file:
                batches = file.iter_batches(_ROWS_AT_ONCE, columns=[data.image, data.label])
                for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
                    origin = f"{path}: row {number}"
                    image, label = (row[data.image] or {}).get("bytes"), row[data.label]
                    if image is None or label is None:
                        raise OnespikeError(f"{origin}: no image or no label; expected both; restore the file")
                    yield Sample(decode(image, origin, 3), label, origin)

    return Source(data.name, str(folder), key, content)


def _shards(folder: Path) -> dict[str, list[Path]]:
    """Part -> its files; a part that was cut in several says in each name how many there are."""
    found = {start: sorted(folder.glob(f"{start}*.parquet")) for start in ("train", "val", "test")}
    for files in found.values():
        for path in files:
            announced = re.search(r"-of-(\d+)", path.name)
            if announced and int(announced[1]) != len(files):
                raise OnespikeError(f"{path}: one of {len(files)} files; expected {int(announced[1])}; add the others")
    if not (found["test"] or found["val"]):
        raise OnespikeError(f"{folder}: no test*.parquet or val*.parquet; expected one of them; add it")
    if not found["test"]:
        return {"train": found["train"], "test": found["val"]}
    return {"train": found["train"], "validation": found["val"], "test": found["test"]}


@contextmanager
def _parquet(path: Path, data: Hosted) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if not {data.image, data.label} <= set(schema.names):
                raise OnespikeError(
                    f"{path}: columns {', '.join(schema.names)}; expected {data.image} and {data.label}; give the "
                    f"Parquet files of {data.name} as --data.root"
                )
            image, label = schema.field(data.image).type, schema.field(data.label).type
            if not (pa.types.is_struct(image) and image.get_field_index("bytes") >= 0 and pa.types.is_integer(label)):
                raise OnespikeError(
                    f"{path}: {data.image} is {image} and {data.label} is {label}; expected a struct with bytes, and "
                    f"whole numbers; give the Hub's Parquet files of {data.name} as --data.root"
                )
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise OnespikeError(
            f"{path}: truncated or damaged Parquet ({reason}); expected a whole file; download it again"
        ) from error
