"""The Hugging Face Hub, and its formats on the disk: any data set by its name, and Parquet files as they are."""

import errno
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from onespike.data.items import content_of, parts_of
from onespike.data.sources.base import Content, HubUnreachableError, Sample, Source
from onespike.data.sources.files import Files, digest
from onespike.data.sources.image import decode
from onespike.errors import OnespikeError

_ROWS_AT_ONCE = 256
_TIMEOUT = 10  # seconds until the Hub counts as unreachable


class Columns(NamedTuple):
    """The columns of a Parquet file that are read.

    Attributes:
        image: Column of the image files.
        label: Column of the labels.
        classes: Class names if the files do not say them.
    """

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

    quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(path, **options)
    except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise OnespikeError(
            f"{path}: not read by Hugging Face datasets ({reason}); expected a data set of images; correct --data.root"
        ) from error
    finally:
        if not quiet:
            datasets.enable_progress_bars()
    return content_of(parts_of(loaded, called))


def hub_parquet(name: str, repository: str, columns: Columns) -> Source:
    """A data set of the Hub that is kept there in Parquet files, which are read where the Hub's client puts them."""

    def read(revision: str) -> Content:
        import huggingface_hub

        options = {"revision": revision, "allow_patterns": "*.parquet", "etag_timeout": _TIMEOUT}
        folder = parquet_folder(Path(huggingface_hub.snapshot_download(repository, repo_type="dataset", **options)))
        if folder is None:
            raise OnespikeError(
                f"{repository}: its layout has changed; expected one folder with train*.parquet; "
                "give a local folder as --data.root"
            )
        return parquet_source(name, folder, columns).content()

    return _on_hub(name, repository, repository, read)


def _on_hub(name: str, origin: str, repository: str, read: Callable[[str], Content]) -> Source:
    """A data set of the Hub at its newest revision; nothing is downloaded for its key."""
    import huggingface_hub
    from rich.console import Console

    @contextmanager
    def reached() -> Iterator[None]:
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

    @cache
    def revision() -> str:
        with reached():
            newest = huggingface_hub.HfApi().dataset_info(repository, timeout=_TIMEOUT).sha
        if newest is None:
            raise OnespikeError(f"{repository}: the Hub names no revision; give a local folder as --data.root")
        return str(newest)

    def content() -> Content:
        bars = not huggingface_hub.utils.are_progress_bars_disabled()
        huggingface_hub.utils.disable_progress_bars()  # several bars a file; one line says it as well
        try:
            with reached(), Console(stderr=True).status(f"downloading {repository} from the Hugging Face Hub"):
                return read(revision())
        finally:
            if bars:
                huggingface_hub.utils.enable_progress_bars()

    return Source(name, origin, lambda: hashlib.sha256(f"{origin}@{revision()}".encode()).hexdigest(), content)


def parquet_folder(root: Path) -> Path | None:
    """Find the folder that holds the train*.parquet: this one, or the only one below it that does."""
    if any(root.glob("train*.parquet")):
        return root
    folders = {path.parent for path in root.glob("*/train*.parquet")}
    return folders.pop() if len(folders) == 1 else None


def parquet_source(name: str, folder: Path, columns: Columns) -> Source:
    """A folder of files train-*.parquet, test-*.parquet and perhaps validation-*.parquet: one row an image.

    If there is no test file, the validation files are the test part. The files are read in batches of rows, in constant
    memory and without the copy that `datasets` would make.
    """

    def key() -> str:
        paths = [path for found in _shards(folder).values() for path in found]
        return hashlib.sha256("".join(f"{path.name}\0{digest(path)}\n" for path in paths).encode()).hexdigest()

    def content() -> Content:
        shards, counts = _shards(folder), {}
        for part, paths in shards.items():
            counts[part] = 0
            for path in paths:
                with _parquet(path, columns, name) as file:
                    counts[part] += file.metadata.num_rows
        with _parquet(shards["train"][0], columns, name) as file:
            metadata = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        described = metadata.get("info", {}).get("features", {}).get(columns.label, {})
        classes = tuple(described.get("names") or columns.classes)
        return Content(classes, counts, lambda part: samples(shards[part]))

    def samples(paths: list[Path]) -> Iterator[Sample]:
        for path in paths:
            with _parquet(path, columns, name) as file:
                batches = file.iter_batches(_ROWS_AT_ONCE, columns=[columns.image, columns.label])
                rows = (row for batch in batches for row in batch.to_pylist())
                for number, row in enumerate(rows):
                    origin = f"{path}: row {number}"
                    data, label = (row[columns.image] or {}).get("bytes"), row[columns.label]
                    if data is None or label is None:
                        raise OnespikeError(f"{origin}: no image or no label; expected both; restore the file")
                    yield Sample(decode(data, origin, 3), label, origin)

    return Source(name, str(folder), key, content)


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
def _parquet(path: Path, columns: Columns, name: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            if not {columns.image, columns.label} <= set(schema.names):
                raise OnespikeError(
                    f"{path}: columns {', '.join(schema.names)}; expected {columns.image} and "
                    f"{columns.label}; give the Parquet files of {name} as --data.root"
                )
            image, label = schema.field(columns.image).type, schema.field(columns.label).type
            if not (pa.types.is_struct(image) and image.get_field_index("bytes") >= 0 and pa.types.is_integer(label)):
                raise OnespikeError(
                    f"{path}: {columns.image} is {image} and {columns.label} is {label}; expected a struct "
                    f"with bytes, and whole numbers; give the Hub's Parquet files of {name} as --data.root"
                )
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise OnespikeError(
            f"{path}: truncated or damaged Parquet ({reason}); expected a whole file; download it again"
        ) from error
