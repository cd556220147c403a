"""The Hugging Face Hub: its Parquet files are downloaded into the Hub's own cache and read from there."""

import errno
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import huggingface_hub
from rich.console import Console

from onespike.data.sources.base import HubUnreachableError, Sample
from onespike.data.sources.parquet import ParquetSource, parquet_folder
from onespike.errors import OnespikeError

_TIMEOUT = 10  # seconds until the Hub counts as unreachable


@dataclass(frozen=True)
class HubSource:
    """A data set of the Hub, at its newest revision.

    Attributes:
        name: The data set's name.
        origin: The repository, owner/name.
        image_column: Column of the image files.
        label_column: Column of the labels.
        default_classes: Class names if the files do not say them.
    """

    name: str
    origin: str
    image_column: str
    label_column: str
    default_classes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names in the files' description of their columns."""
        return self._files.classes

    def key(self) -> str:
        """Hash of the repository and its revision: nothing is downloaded for it.

        Raises:
            HubUnreachableError: The Hub does not answer.
        """
        return hashlib.sha256(f"{self.origin}@{self._revision}".encode()).hexdigest()

    def count(self, part: str) -> int:
        """The number of rows of a part."""
        return self._files.count(part)

    def samples(self, part: str) -> Iterator[Sample]:
        """Decode the rows of a part."""
        return self._files.samples(part)

    @cached_property
    def _revision(self) -> str:
        try:
            revision = huggingface_hub.HfApi().dataset_info(self.origin, timeout=_TIMEOUT).sha
        except Exception as error:  # the client's errors come from whichever HTTP library its version uses
            raise self._unreachable(error) from error
        if revision is None:
            raise OnespikeError(f"{self.origin}: the Hub names no revision; give a local folder as --data.root")
        return revision

    @cached_property
    def _files(self) -> ParquetSource:
        progress = huggingface_hub.utils.are_progress_bars_disabled()
        huggingface_hub.utils.disable_progress_bars()  # several bars a file; one line says it as well
        try:
            with Console(stderr=True).status(f"downloading {self.origin} from the Hugging Face Hub"):
                snapshot = huggingface_hub.snapshot_download(
                    self.origin,
                    repo_type="dataset",
                    revision=self._revision,
                    allow_patterns="*.parquet",
                    etag_timeout=_TIMEOUT,
                )
        except OnespikeError:
            raise
        except Exception as error:  # as above
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise OnespikeError(
                    f"{self.name}: disk full while downloading {self.origin}; expected room in the Hub's cache; "
                    "free some, or move the cache with $HF_HOME"
                ) from error
            raise self._unreachable(error) from error
        finally:
            if not progress:
                huggingface_hub.utils.enable_progress_bars()
        folder = parquet_folder(Path(snapshot))
        if folder is None:
            raise OnespikeError(
                f"{self.origin}: its layout has changed; expected one folder with train*.parquet; "
                "give a local folder as --data.root"
            )
        return ParquetSource(self.name, folder, self.image_column, self.label_column, self.default_classes)

    def _unreachable(self, error: Exception) -> HubUnreachableError:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return HubUnreachableError(
            f"{self.name}: no network, or the Hugging Face Hub could not be reached for {self.origin} ({reason}); "
            "expected to download it once; connect, or give a local folder as --data.root"
        )
