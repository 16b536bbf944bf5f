"""Reading columns of a Parquet file, which a few bytes may claim to be gigabytes."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdmlc_jax.errors import UserError
from kdmlc_jax.storage import door

CELL = 8  # bytes that a cell takes in memory whatever it holds


@contextlib.contextmanager
def opened(path: Path, once: bool = True) -> Iterator[Any]:
    """The open `pyarrow.parquet.ParquetFile`; with `once` a text that stands in all rows is in memory once.

    Raises:
      UserError: naming the file, where it claims to unpack to far more than files of its size do (`door.unpacked`).
    """
    from pyarrow import parquet  # slow to import

    with door.opened(path, door.MAX_ARRAY) as raw:
        size = door.refuse_odd(path)
        with parquet.ParquetFile(raw) as file:
            schema = file.schema_arrow
            texts = [name for name, kind in zip(schema.names, schema.types, strict=True) if once and is_text(kind)]
        raw.seek(0)
        with parquet.ParquetFile(raw, read_dictionary=texts) as file:
            about = file.metadata
            groups = [about.row_group(number) for number in range(about.num_row_groups)]
            claimed = max((group.total_byte_size for group in groups), default=0)
            if claimed > door.unpacked(size):
                raise UserError(
                    f"{path}: {size} bytes that unpack to {claimed}, expected at most {door.unpacked(size)}"
                )
            yield file


def read(path: Path, file: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    """The cells of columns that hold no structures; raises UserError as `opened`, now for what has come out."""
    left = most = door.unpacked(door.refuse_odd(path))
    if CELL * file.metadata.num_rows * max(len(names), 1) > most:
        raise UserError(f"{path}: {file.metadata.num_rows} rows in a file of its size, expected no such claim")
    found: dict[str, list[Any]] = {name: [] for name in names}
    for number in range(file.metadata.num_row_groups):
        group = file.read_row_group(number, columns=list(names))
        left -= group.nbytes
        if left < 0:
            raise UserError(f"{path}: unpacks to more than {most} bytes, expected a table of images")
        for name in names:
            for chunk in group.column(name).chunks:
                found[name] += _cells(chunk)
    return found


def _cells(chunk: Any) -> list[Any]:
    """As Python has them; a text that several rows share is one object."""
    import pyarrow as pa

    if not pa.types.is_dictionary(chunk.type):
        cells: list[Any] = chunk.to_pylist()
        return cells
    values = chunk.dictionary.to_pylist()
    return [None if code is None else values[code] for code in chunk.indices.to_pylist()]


def is_text(kind: Any) -> bool:
    """Whether a column is of texts or bytes."""
    import pyarrow as pa

    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary))
