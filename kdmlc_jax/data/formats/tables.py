"""Tables as text, from CSV, Parquet or lists of `path label`, by the names of their columns."""

import bisect
import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdmlc_jax.data.formats import columns as columns_lib
from kdmlc_jax.data.formats.dialects import LIST, as_text, split_list
from kdmlc_jax.data.formats.extensions import is_image
from kdmlc_jax.errors import UserError, is_failure, suggest, unreadable
from kdmlc_jax.storage import door
from kdmlc_jax.storage.files import unguarded

TEXTS = (".csv", ".tsv", *LIST)
Columns = list[list[str] | None]


class Table(NamedTuple):
    """A table by its columns, a text for each row: stripped, '' where nothing is said."""

    columns: dict[str, list[str]]  # those that were asked for; an absent one is all ''
    found: dict[str, str]  # the names that those have in the table
    others: dict[str, list[str] | None]  # all else; None for what is no text or number
    bytes_in: frozenset[str] = frozenset()  # those asked for that hold bytes, '' in each row
    notes: tuple[str, ...] = ()  # how it was read where that was a choice
    lines: tuple[int, ...] = ()  # see `Places`


class Places(NamedTuple):
    """Where the rows of a table stand."""

    path: Path  # the file, or the folder of several
    files: tuple[Path, ...]
    starts: tuple[int, ...]  # the first row of each
    lines: tuple[int, ...] = ()  # of a single file: the line of each row, where blank lines or long cells move it

    def __str__(self) -> str:
        return str(self.path)

    def at(self, row: int) -> str:
        """The file of row `row` (from 0), and its number there, from 1."""
        file = bisect.bisect_right(self.starts, row) - 1
        line = f" (line {self.lines[row]})" if self.lines else ""
        return f"{self.files[file]} row {row - self.starts[file] + 1}{line}"


def read_columns(path: Path, wanted: Mapping[str, Sequence[str]], required: Collection[str]) -> dict[str, list[str]]:
    """The columns of `read_table` that were asked for, all of them texts or numbers."""
    return read_table(path, wanted, required).columns


def read_table(
    path: Path,
    wanted: Mapping[str, Sequence[str]],
    required: Collection[str],
    may_be_bytes: Collection[str] = (),
    options: Mapping[str, str] = {},
) -> Table:
    """A table with the wanted columns, and the others beside them.

    Args:
      path: `.csv` or `.tsv` with a header, `.parquet`, or `.txt`, `.lst` and `.list`: a path and a label a line, where
        none of `wanted` is in the first. Text is as `dialects.as_text` has it; fields are separated by what a first
        line `sep=` names, else by the first of comma, semicolon and tab in the header.
      wanted: {column: the names it may have in the table, in any case}; the first of these that is there is read.
      required: the columns that must be there; an absent other one is all ''.
      may_be_bytes: the columns that may hold bytes, or structures of them.
      options: {column: the config's field that gives another name}, for messages.

    Returns:
      One row or more.

    Raises:
      UserError: naming the file, for one that is missing or damaged, no rows, a line of another length than the
        header, and a column that is missing or there twice.
      StorageError: where the system did not let it be read.
    """
    header, columns, notes, lines = _read(path, {name for names in wanted.values() for name in names})
    count = max((len(texts) for texts in columns if texts is not None), default=0)
    if not count and None not in columns:
        raise UserError(f"{path}: no rows, expected one per image")
    chosen = {
        column: _position(path, column, names, header, required, options.get(column, ""))
        for column, names in wanted.items()
    }
    at = {column: place for column, place in chosen.items() if place is not None}
    in_bytes = frozenset(column for column, place in at.items() if columns[place] is None)
    for column in in_bytes - {*may_be_bytes}:
        raise UserError(f'{path}: column "{header[at[column]]}" ({column}) holds no text or number')
    read = {column: columns[at[column]] if column in at else None for column in wanted}
    others = {name: columns[place] for place, name in enumerate(header) if place not in at.values()}
    texts = {column: [""] * count if cells is None else cells for column, cells in read.items()}
    return Table(texts, {column: header[place] for column, place in at.items()}, others, in_bytes, notes, lines)


def _read(path: Path, known: Collection[str]) -> tuple[list[str], Columns, tuple[str, ...], tuple[int, ...]]:
    """Header, columns and notes; `known` names of columns tell a header."""
    suffix = path.suffix.lower()
    if suffix not in (*TEXTS, ".parquet"):
        raise UserError(f"{path}: ends in neither .csv nor .parquet, nor in {', '.join(TEXTS[1:])}")
    try:
        return _parquet(path) if suffix == ".parquet" else _text_table(path, known)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except UnicodeDecodeError as error:
        known_as = error.encoding.removesuffix("-sig")
        raise UserError(
            f"{path}: byte {error.start} is not {known_as} text, expected UTF-8 ({error.reason})"
        ) from error
    except Exception as error:  # a damaged file makes pyarrow raise nearly anything
        if isinstance(error, OSError) and is_failure(error):
            raise unreadable(error, path) from error
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({reason})") from error


def _position(
    path: Path, column: str, names: Sequence[str], header: list[str], required: Collection[str], option: str
) -> int | None:
    present = [name for name in names if name in header]
    if not present and column in required:
        some = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
        first = names[0] if names else column
        found = f"found {', '.join(header)}{suggest(first, header)}"
        more = f"; {option}=<name> reads another" if option else ""
        raise UserError(f'{path}: no column "{first}"{some}, {found}{more}')
    if present and header.count(present[0]) > 1:
        raise UserError(f'{path}: {header.count(present[0])} columns "{present[0]}", expected one')
    return header.index(present[0]) if present else None


def _text_table(path: Path, known: Collection[str]) -> tuple[list[str], Columns, tuple[str, ...], tuple[int, ...]]:
    """Header, columns and notes; a list has no header unless one of its first line's fields is `known`."""
    text, notes = as_text(door.read(path, door.MAX_TEXT))
    file = io.StringIO(text, newline="")
    first = file.readline()
    if told := re.fullmatch(r'"?sep=(\\t|.)"?[\s,;]*', first, re.IGNORECASE):
        separator = told[1].replace("\\t", "\t")
    else:
        separator = next((each for each in ",;\t" if each in first), ",")
        file.seek(0)
        if path.suffix.lower() in LIST and not {*_lower(first.replace('"', "").split(separator))} & {*known}:
            return ["path", "label"], split_list(path, text), notes, ()
    reader = csv.reader(file, strict=True, delimiter=separator)
    header = next((line for line in reader if line), [])
    rows, lines, below = [], [], reader.line_num
    if is_image(header[0].strip() if header else "") and not {*_lower(header)} & {*known}:
        if len(header) != 2:
            found = f'the first line is "{", ".join(header)}"'
            raise UserError(f"{path}: {found}, expected the names of the columns, such as path and label")
        notes = (*notes, "has no line of names: read as path and label")
        rows, lines, header, below = [header], [below], ["path", "label"], below - 1
    for line in reader:
        if not any(map(str.strip, line)):  # an empty line, or what Excel leaves at the end
            continue
        if len(line) != len(header):
            found = f"{len(line)} fields, expected {len(header)} as in the header"
            raise UserError(f"{path} line {reader.line_num}: {found}")
        rows.append(line)
        lines.append(reader.line_num + (1 if told else 0))
    moved = lines != list(range(below + 1, below + 1 + len(rows)))
    return (
        _lower(header),
        [[unguarded(cell.strip()) for cell in cells] for cells in zip(*rows, strict=True)],
        notes,
        tuple(lines if moved else ()),
    )


def _parquet(path: Path) -> tuple[list[str], Columns, tuple[str, ...], tuple[int, ...]]:
    import pyarrow as pa  # slow to import

    with columns_lib.opened(path) as file:
        names = file.schema_arrow.names
        kinds = zip(names, file.schema_arrow.types, strict=True)
        cells = [name for name, kind in kinds if not pa.types.is_nested(kind) and not _holds_bytes(file, name, kind)]
        columns = columns_lib.read(path, file, cells)
    read = [[_text(cell).strip() for cell in columns[name]] if name in columns else None for name in names]
    return _lower(names), read, (), ()


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
