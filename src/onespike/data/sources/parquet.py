"""Parquet files from outside: opened, checked for size before their rows are kept, complete, and alike.

A data set in such files, with a row for each image, is read as it is, without the copy that `datasets` would make.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onespike.configs import read_json
from onespike.data.sources import Content, Part, Source
from onespike.data.sources.files import Files
from onespike.data.sources.image import decode
from onespike.errors import OnespikeError, damage_named

RATIO = 100  # a file may expand to this many times its size
_SAID = 1 << 22  # most bytes that describe its columns


class Hosted(NamedTuple):
    """A data set that the Hub keeps in Parquet files."""

    name: str
    repository: str
    image: str  # column of the image files
    label: str
    classes: tuple[str, ...] = ()  # if the files do not say them


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file as pyarrow does; any error, also inside of `with`, is an OnespikeError that names the file."""
    import pyarrow.parquet as pq

    damage = damage_named(str(path), "truncated or damaged Parquet", "a whole one; download it again")
    with damage, pq.ParquetFile(path) as file:
        yield file


def weighed(file: Any, path: Path) -> Iterator[Any]:
    """The rows in batches, their size checked as they come: a value that is stored once may be that of every row."""
    size = path.stat().st_size
    room, most = RATIO * size, f"one row, and {RATIO} bytes inside, for each byte of the file"
    too_large = OnespikeError(f"{path}: far larger inside than its {size:,} bytes; expected at most {most}; not read")
    inside = sum(file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
    if file.metadata.num_rows > size or inside > room:
        raise too_large
    for batch in file.iter_batches(max(1, min(64, room // max(1, inside)))):
        room -= batch.nbytes
        if room < 0:
            raise too_large
        yield batch


def features_of(paths: Iterable[Path]) -> Any:
    """The description of the columns, with class names; None if there is none, or if it makes no sense.

    Labels are numbers: if another file had other names, or the same in another order, they would be other classes. So
    files whose columns differ are an OnespikeError.
    """
    first: Any = None
    for path in paths:
        with opened(path) as file:
            said = (file.schema_arrow.metadata or {}).get(b"huggingface", b"")
            if len(said) > _SAID:
                expected = f"expected at most {_SAID:,}, in its metadata"
                raise OnespikeError(f"{path}: {len(said):,} bytes say what its columns are; {expected}; write it anew")
            features = None
            with suppress(OnespikeError, KeyError, TypeError):  # others may write anything there
                features = read_json(said, path)["info"]["features"]
            first = first or (path, file.schema_arrow, features)
            if (file.schema_arrow, features) != first[1:]:
                other = "columns" if file.schema_arrow != first[1] else "class names, or the same in another order,"
                raise OnespikeError(f"{path}: other {other} than in {first[0]}; write all files alike")
    return first and first[2]


def expect_whole(paths: Sequence[Path]) -> None:
    """Raise an OnespikeError unless all shards of a part are there: their names have number and count."""
    cut = {path: (int(found[1]), int(found[2])) for path in paths if (found := re.search(r"(\d+)-of-(\d+)", path.name))}
    first = min(cut.values(), default=(0, 0))[0]
    if cut and (first > 1 or sorted(cut.values()) != [(first + number, len(paths)) for number in range(len(paths))]):
        path, (_, count) = next(iter(cut.items()))
        expected = f"expected {count:,}, numbered from 0 or 1, each once"
        raise OnespikeError(f"{path}: one of {len(paths)} files; {expected}; restore them")


def parquet_folder(root: Path) -> Path | None:
    """The folder that holds the train*.parquet: this one, or the only one below it that does."""
    if any(root.glob("train*.parquet")):
        return root
    folders = {path.parent for path in root.glob("*/train*.parquet")}
    return folders.pop() if len(folders) == 1 else None


def parquet_source(data: Hosted, folder: Path) -> Source:
    """A data set in the Parquet files of a folder."""

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
        schema, stored, label = table.schema, pa.null(), pa.null()
        with suppress(KeyError, AttributeError):  # a column that is missing or there twice, or holds no struct
            label, image = schema.field(data.label).type, schema.field(data.image).type
            if (index := image.get_field_index("bytes")) >= 0:  # else there is none, or there are two
                stored = image.field(index).type
        is_bytes = pa.types.is_binary(stored) or pa.types.is_large_binary(stored)
        if not (is_bytes and pa.types.is_integer(label)):
            found = ", ".join(f"{column.name}: {column.type}" for column in schema)
            expected = f"{data.image}: a struct with bytes (binary), and {data.label}: whole numbers, each once"
            remedy = f"give the Parquet files of {data.name} as --data.root"
            raise OnespikeError(f"{path}: columns {found}; expected {expected}; {remedy}")
        columns = {"image": pc.struct_field(table[data.image], "bytes"), "label": table[data.label].cast(pa.int64())}
        return pa.table(columns)
