"""Images in Parquet files, as the Hugging Face Hub keeps them: one row an image, its file in a column."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from onespike.data.sources.base import Sample
from onespike.data.sources.image import decode
from onespike.data.sources.tree import digest
from onespike.errors import OnespikeError

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class ParquetSource:
    """A folder of files train-*.parquet, test-*.parquet and perhaps validation-*.parquet.

    If there is no test file, the validation files are the test part.

    Attributes:
        name: The data set's name.
        folder: Where the files lie.
        image_column: Column of the image files.
        label_column: Column of the labels.
        default_classes: Class names if the files do not say them.
    """

    name: str
    folder: Path
    image_column: str
    label_column: str
    default_classes: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names in the first training file's description of its columns."""
        from datasets import ClassLabel, Features  # slow to import, and rarely needed

        with self._open(self._files("train")[0]) as file:
            label = Features.from_arrow_schema(file.schema_arrow)[self.label_column]
        return tuple(label.names) if isinstance(label, ClassLabel) else self.default_classes

    def key(self) -> str:
        """Hash of the files' names and bytes."""
        files = [path for part in ("train", "validation", "test") for path in self._files(part)]
        return hashlib.sha256("".join(f"{path.name}\0{digest(path)}\n" for path in files).encode()).hexdigest()

    def count(self, part: str) -> int:
        """The number of rows that the files announce."""
        total = 0
        for path in self._files(part):
            with self._open(path) as file:
                total += file.metadata.num_rows
        return total

    def samples(self, part: str) -> Iterator[Sample]:
        """Decode the rows of a part, file after file."""
        for path in self._files(part):
            with self._open(path) as file:
                for row, (image, label) in enumerate(self._rows(path, file)):
                    origin = f"{path}: row {row}"
                    data = image["bytes"] if image else None
                    if data is None or label is None:
                        raise OnespikeError(f"{origin}: no image or no label; expected both; restore the file")
                    yield Sample(decode(data, origin, 3), label, origin)

    def _files(self, part: str) -> list[Path]:
        held_out, test = self._shards("val"), self._shards("test")
        if not test:
            held_out, test = [], held_out
        if part == "test" and not test:
            raise OnespikeError(f"{self.folder}: no test*.parquet or val*.parquet; expected one of them; add it")
        return {"train": self._shards("train"), "validation": held_out, "test": test}[part]

    def _shards(self, start: str) -> list[Path]:
        """The files of a split; one that was cut in several says in each name how many there are."""
        files = sorted(self.folder.glob(f"{start}*.parquet"))
        for path in files:
            announced = re.search(r"-of-(\d+)", path.name)
            if announced and int(announced[1]) != len(files):
                raise OnespikeError(f"{path}: one of {len(files)} files; expected {int(announced[1])}; add the others")
        return files

    @contextmanager
    def _open(self, path: Path) -> Iterator[pq.ParquetFile]:
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error
        with file:
            schema = file.schema_arrow
            if not {self.image_column, self.label_column} <= set(schema.names):
                raise OnespikeError(
                    f"{path}: columns {', '.join(schema.names)}; expected {self.image_column} and "
                    f"{self.label_column}; give the Parquet files of {self.name} as --data.root"
                )
            image, label = schema.field(self.image_column).type, schema.field(self.label_column).type
            if not (pa.types.is_struct(image) and image.get_field_index("bytes") >= 0 and pa.types.is_integer(label)):
                raise OnespikeError(
                    f"{path}: {self.image_column} is {image} and {self.label_column} is {label}; expected a struct "
                    f"with bytes, and whole numbers; give the Hub's Parquet files of {self.name} as --data.root"
                )
            yield file

    def _rows(self, path: Path, file: pq.ParquetFile) -> Iterator[tuple[dict[str, bytes | None] | None, int | None]]:
        try:
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[self.image_column, self.label_column]):
                columns = (batch.column(name).to_pylist() for name in (self.image_column, self.label_column))
                yield from zip(*columns, strict=True)
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error


def parquet_folder(root: Path) -> Path | None:
    """Find the folder that holds the train*.parquet: this one, or the only one below it that does."""
    if any(root.glob("train*.parquet")):
        return root
    folders = {path.parent for path in root.glob("*/train*.parquet")}
    return folders.pop() if len(folders) == 1 else None


def _damaged(path: Path, error: Exception) -> OnespikeError:
    reason = str(error).partition("\n")[0]
    return OnespikeError(f"{path}: truncated or damaged Parquet ({reason}); expected a whole file; download it again")
