"""Tables as text, from CSV or Parquet, by the names of their columns."""

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdmlc_jax.errors import UserError, suggest


def read_columns(path: Path, wanted: Mapping[str, Sequence[str]], required: Collection[str]) -> dict[str, list[str]]:
    """The wanted columns, stripped, '' where nothing is said; others are ignored.

    Args:
      path: `.csv` with a header, in UTF-8, or in UTF-16 that says so in its first bytes, or `.parquet`. Fields are
        separated by what a first line `sep=` names, else by the first of comma, semicolon and tab in the header.
      wanted: {column: the names it may have in the table, in any case}; the first of these that is there is read.
      required: the columns that must be there; an absent other one is all ''.

    Returns:
      {column: a text for each row}, one row or more.

    Raises:
      UserError: naming the file, for one that is missing or cannot be read, no rows, a line of another length than the
        header, and a column that is missing or there twice.
    """
    readers = {".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: ends in neither .csv nor .parquet")
    try:
        header, rows = readers[path.suffix.lower()](path, {name for names in wanted.values() for name in names})
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not {error.encoding} text, expected UTF-8") from error
    except Exception as error:  # a damaged file makes pyarrow raise nearly anything
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason})") from error
    if not rows:
        raise UserError(f"{path}: no rows, expected one per image")
    chosen = {column: _position(path, column, names, header, required) for column, names in wanted.items()}
    return {column: ["" if at is None else row[at].strip() for row in rows] for column, at in chosen.items()}


def _position(
    path: Path, column: str, names: Sequence[str], header: list[str], required: Collection[str]
) -> int | None:
    present = [name for name in names if name in header]
    if not present and column in required:
        some = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
        raise UserError(f'{path}: no column "{column}"{some}, found {", ".join(header)}{suggest(column, header)}')
    if present and header.count(present[0]) > 1:
        raise UserError(f'{path}: {header.count(present[0])} columns "{present[0]}", expected one')
    return header.index(present[0]) if present else None


def _csv(path: Path, _: set[str]) -> tuple[list[str], list[list[str]]]:
    raw = path.read_bytes()
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
    return _lower(header), rows


def _parquet(path: Path, known: set[str]) -> tuple[list[str], list[list[str]]]:
    from pyarrow import parquet  # slow to import

    with parquet.ParquetFile(path) as file:
        header = file.schema_arrow.names
        columns = file.read(columns=[name for name in header if name.strip().lower() in known]).to_pydict()
        count = file.metadata.num_rows
    # An unused column stays in the header, for the message about a missing one.
    cells = [columns.get(name, [""] * count) for name in header]
    return _lower(header), [[_text(value) for value in row] for row in zip(*cells, strict=True)]


def _lower(names: Iterable[str]) -> list[str]:
    return [name.strip().lower() for name in names]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return "" if value is None else str(value)
