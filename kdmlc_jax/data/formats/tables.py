"""Tables as text, from CSV or Parquet, by the names of their columns."""

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdmlc_jax.data.formats import columns as columns_lib
from kdmlc_jax.errors import UserError, suggest
from kdmlc_jax.storage import door
from kdmlc_jax.storage.files import unguarded


class Table(NamedTuple):
    """A table by its columns, a text for each row: stripped, '' where nothing is said."""

    columns: dict[str, list[str]]  # those that were asked for; an absent one is all ''
    found: dict[str, str]  # the names that those have in the table
    others: dict[str, list[str] | None]  # all else; None for what is no text or number
    bytes_in: frozenset[str] = frozenset()  # those asked for that hold bytes, '' in each row


def read_columns(path: Path, wanted: Mapping[str, Sequence[str]], required: Collection[str]) -> dict[str, list[str]]:
    """The columns of `read_table` that were asked for, all of them texts or numbers."""
    return read_table(path, wanted, required).columns


def read_table(
    path: Path, wanted: Mapping[str, Sequence[str]], required: Collection[str], may_be_bytes: Collection[str] = ()
) -> Table:
    """A table with the wanted columns, and the others beside them.

    Args:
      path: `.csv` with a header, in UTF-8, or in UTF-16 that says so in its first bytes, or `.parquet`. Fields are
        separated by what a first line `sep=` names, else by the first of comma, semicolon and tab in the header.
      wanted: {column: the names it may have in the table, in any case}; the first of these that is there is read.
      required: the columns that must be there; an absent other one is all ''.
      may_be_bytes: the columns that may hold bytes, or structures of them.

    Returns:
      One row or more.

    Raises:
      UserError: naming the file, for one that is missing or cannot be read, no rows, a line of another length than the
        header, and a column that is missing or there twice.
    """
    readers = {".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: ends in neither .csv nor .parquet")
    try:
        header, columns = readers[path.suffix.lower()](path)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not {error.encoding} text, expected UTF-8") from error
    except Exception as error:  # a damaged file makes pyarrow raise nearly anything
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason})") from error
    count = max((len(texts) for texts in columns if texts is not None), default=0)
    if not count and None not in columns:
        raise UserError(f"{path}: no rows, expected one per image")
    chosen = {column: _position(path, column, names, header, required) for column, names in wanted.items()}
    at = {column: place for column, place in chosen.items() if place is not None}
    in_bytes = frozenset(column for column, place in at.items() if columns[place] is None)
    for column in in_bytes - {*may_be_bytes}:
        raise UserError(f'{path}: column "{header[at[column]]}" ({column}) holds no text or number')
    read = {column: columns[at[column]] if column in at else None for column in wanted}
    others = {name: columns[place] for place, name in enumerate(header) if place not in at.values()}
    texts = {column: [""] * count if cells is None else cells for column, cells in read.items()}
    return Table(texts, {column: header[place] for column, place in at.items()}, others, in_bytes)


def _position(
    path: Path, column: str, names: Sequence[str], header: list[str], required: Collection[str]
) -> int | None:
    present = [name for name in names if name in header]
    if not present and column in required:
        some = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
        first = names[0] if names else column
        raise UserError(f'{path}: no column "{first}"{some}, found {", ".join(header)}{suggest(first, header)}')
    if present and header.count(present[0]) > 1:
        raise UserError(f'{path}: {header.count(present[0])} columns "{present[0]}", expected one')
    return header.index(present[0]) if present else None


def _csv(path: Path) -> tuple[list[str], list[list[str] | None]]:
    raw = door.read(path, door.MAX_TEXT)
    text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    file = io.StringIO(text, newline="")
    first = file.readline()
    if told := re.fullmatch(r"sep=(.)\s*", first):
        separator = told[1]
    else:
        separator = next((each for each in ",;\t" if each in first), ",")
        file.seek(0)
    reader = csv.reader(file, strict=True, delimiter=separator)
    header = next((line for line in reader if line), [])
    rows = []
    for line in reader:
        if not any(line):  # an empty line, or what Excel leaves at the end
            continue
        if len(line) != len(header):
            found = f"{len(line)} fields, expected {len(header)} as in the header"
            raise UserError(f"{path} line {reader.line_num}: {found}")
        rows.append(line)
    return _lower(header), [[unguarded(cell.strip()) for cell in cells] for cells in zip(*rows, strict=True)]


def _parquet(path: Path) -> tuple[list[str], list[list[str] | None]]:
    import pyarrow as pa  # slow to import

    with columns_lib.opened(path) as file:
        names = file.schema_arrow.names
        kinds = zip(names, file.schema_arrow.types, strict=True)
        cells = [name for name, kind in kinds if not pa.types.is_nested(kind) and not _holds_bytes(file, name, kind)]
        columns = columns_lib.read(path, file, cells)
    return _lower(names), [
        [_text(cell).strip() for cell in columns[name]] if name in columns else None for name in names
    ]


def _holds_bytes(file: Any, name: str, kind: Any) -> bool:
    """Whether a column holds what is no text, such as images: of a binary one the first cells say so."""
    if "binary" not in str(kind):
        return False
    for batch in file.iter_batches(batch_size=64, columns=[name]):
        try:
            b"".join(cell or b"" for cell in batch.to_pydict()[name]).decode()
        except UnicodeDecodeError:
            return True
        break
    return False


def _lower(names: Iterable[str]) -> list[str]:
    return [name.strip().lower() for name in names]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return "" if value is None or value != value else str(value)
