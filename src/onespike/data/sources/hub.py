"""The Hugging Face Hub: any data set by its name, and those that are known here, which need not come from it."""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from onespike.classpath import REFUSALS, installed_only
from onespike.data.sources import Content, HubUnreachableError, Source
from onespike.data.sources.files import Files, not_recognised, open_files
from onespike.data.sources.local import content_within, quiet, read_local
from onespike.data.sources.parquet import Hosted, parquet_folder, parquet_source
from onespike.durable import is_full
from onespike.errors import OnespikeError, lacks_memory, reason

_TIMEOUT = 10  # seconds until the Hub counts as unreachable


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
            read = partial(read_local, files, folder)
            yield Source(files.root.name, str(root), lambda: files.key(files.names()), read)
        return
    if root.exists():
        raise OnespikeError(f"{root}: a file; expected a folder, or the Hub's owner/name; unpack it or give its folder")
    origin, _, configuration = root.as_posix().partition(":")
    if origin.count("/") != 1:
        raise OnespikeError(f"{root}: no such folder; expected one, or the Hub's owner/name; correct --data.root")
    read_hub = partial(_load, origin, configuration or None)
    yield _on_hub(root.name.replace(":", "-"), root.as_posix(), origin, read_hub)


@installed_only()
@quiet("datasets")
def _load(repository: str, name: str | None, revision: str) -> Content:
    import datasets
    import huggingface_hub

    try:
        loaded = datasets.load_dataset(repository, name=name, revision=revision)
    except (*REFUSALS, ImportError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
        if lacks_memory(error) or (type(error) is RuntimeError and "script" not in str(error)):  # a download broke off
            raise
        state = f"{repository}: not read by Hugging Face datasets ({reason(error)})"
        raise OnespikeError(f"{state}; correct --data.root") from error
    caches = [huggingface_hub.constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE]
    caches += [datasets.config.DOWNLOADED_DATASETS_PATH, datasets.config.EXTRACTED_DATASETS_PATH]
    return content_within(loaded, repository, *(Path(one).expanduser().absolute() for one in caches))


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
        if (folder := parquet_folder(root)) is None:
            forms = [f"{marker} ({called})" for marker, (called, _) in official.items()]
            raise not_recognised(root, data.name, [*forms, "train*.parquet (Hub)"])
        yield parquet_source(data, folder)


def _on_hub(name: str, origin: str, repository: str, read: Callable[[str], Content]) -> Source:
    """A data set of the Hub at its newest revision; nothing is downloaded for its key."""
    import huggingface_hub
    from rich.console import Console
    from rich.markup import escape

    @cache
    @_reached(name, repository)
    def revision() -> str:
        return str(huggingface_hub.HfApi().dataset_info(repository, timeout=_TIMEOUT).sha)

    @quiet("huggingface_hub.utils")
    @_reached(name, repository)
    def content() -> Content:
        with Console(stderr=True).status(f"downloading {escape(repository)} from the Hugging Face Hub"):
            return read(revision())

    return Source(name, origin, lambda: hashlib.sha256(f"{origin}@{revision()}".encode()).hexdigest(), content)


@contextmanager
def _reached(name: str, repository: str) -> Iterator[None]:
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        yield
    except OnespikeError:
        raise
    except RepositoryNotFoundError as error:
        where = f"{repository}: not on the Hugging Face Hub, or not open to you"
        raise OnespikeError(f"{where}; correct the name, or log in with `hf auth login`") from error
    except HFValidationError as error:
        state = f"{repository}: no such folder, and no name that the Hugging Face Hub takes"
        raise OnespikeError(f"{state} ({reason(error)}); correct --data.root") from error
    except Exception as error:  # the client's errors come from whichever HTTP library its version uses
        if lacks_memory(error):
            raise
        if is_full(error):
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
    if found := parquet_folder(Path(folder)):
        return parquet_source(data, found).content()
    raise OnespikeError(f"{data.repository}: no longer one folder with train*.parquet; give a local one as --data.root")
