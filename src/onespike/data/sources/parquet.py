"""Parquet files from outside: opened, checked for size before their rows are kept, complete, and alike."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from onespike.configs import read_json
from onespike.errors import OnespikeError, damage_named

RATIO = 100  # a file may expand to this many times its size
_SAID = 1 << 22  # most bytes that describe its columns


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
