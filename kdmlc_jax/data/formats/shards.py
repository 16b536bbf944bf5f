"""A table in one file or in several: the Parquet shards of Hugging Face's `datasets`, whose names say the split.

`train-00000-of-00003.parquet` in any folder, `default/train/0000.parquet`, or `train.parquet` beside `test.parquet`.
"""

import fnmatch
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdmlc_jax.data.formats import embedded, roles
from kdmlc_jax.data.formats.roles import ROLES, Role
from kdmlc_jax.data.formats.tables import Places, Table, read_table
from kdmlc_jax.errors import UserError, reading
from kdmlc_jax.storage import files

_NUMBER = re.compile(r"(?i)[-_.]?(\d{2,})[-_]of[-_](\d{2,})")
_PIECE = re.compile(r"(?i)(part|shard|chunk|data|file)?[-_.]?\d+([-_.][\w.-]*)?")


class Shard(NamedTuple):
    """A file of several."""

    path: Path
    split: str  # the name of its part: of the file without its number, or of the folder
    number: int  # which it is, and of how many; -1 and 0 where its name does not say
    of: int


class Whole(NamedTuple):
    """A table and the images in it."""

    table: Table
    contents: np.ndarray | None  # Encoded[N]
    places: Places
    notes: tuple[str, ...] = ()


def read(path: Path, wanted: Mapping[str, Sequence[str]], required: Collection[str]) -> Whole:
    """The table of a file, or of all Parquet files in a folder or of a pattern (`data/train-*`).

    The cells of the column `split` that are empty are filled by what the files' names say.

    Raises:
      UserError: as `tables.read_table`; for a shard that is missing, and names that say only partly what is what.
    """
    if not (files.is_dir(path) and path.suffix.lower() != ".csv") and "*" not in path.name:
        table, contents = _one(path, wanted, required, 0)
        told = _NUMBER.search(path.stem)
        many = int(told[2]) if told else 1
        notes = [f"warning: {path.name} is one of {many} shards; data.manifest={path.parent.name} reads all"]
        return Whole(table, contents, Places(path, (path,), (0,), table.lines), tuple(notes if many > 1 else ()))
    shards = find(path)
    said = _roles(path, shards)
    parts, spent = [], 0
    for shard in shards:
        parts.append(_one(shard.path, wanted, required, spent))
        spent += sum(len(image.content) for image in parts[-1][1]) if parts[-1][1] is not None else 0
    starts = np.cumsum([0, *(len(table.columns["path"]) for table, _ in parts)]).tolist()
    places = Places(path, tuple(shard.path for shard in shards), tuple(starts[:-1]))
    table = _joined(places, [table for table, _ in parts])
    contents = _contents(places, table, [found for _, found in parts], shards)
    for start, end, role in zip(starts, starts[1:], said, strict=False):
        for row in range(start, end):
            table.columns["split"][row] = _split(places, row, table.columns["split"][row], role)
    counts = ", ".join(
        f"{len({*_of(shards, name)})} of {name or 'no split'}" for name in dict.fromkeys(_splits(shards))
    )
    return Whole(table, contents, places, (f"data.manifest: {len(shards)} Parquet files read as one table: {counts}",))


def _splits(shards: Sequence[Shard]) -> list[str]:
    return [shard.split for shard in shards]


def _of(shards: Sequence[Shard], split: str) -> list[Path]:
    return [shard.path for shard in shards if shard.split == split]


def find(path: Path) -> list[Shard]:
    """The Parquet files in a folder, at any depth, or of a pattern, in order.

    Raises:
      UserError: for none, a number that is missing or there twice, and files of several tables.
    """
    if "*" in path.name:
        base = path.parent
        found = [each for each in files.listed(base) if fnmatch.fnmatchcase(each.name, path.name)]
    else:
        base, found = path, files.below(path)
    shown = [each for each in found if not any(part.startswith(".") for part in each.relative_to(base).parts)]
    tables = [each for each in shown if each.suffix.lower() == ".parquet" and files.is_file(each)]
    if not tables:
        raise UserError(f"{path}: no .parquet files, expected a manifest or the shards of one")
    shards = [_named(each, base) for each in tables]
    for split in dict.fromkeys(_splits(shards)):
        numbered = [shard for shard in shards if shard.split == split and shard.of]
        for many in {shard.of for shard in numbered}:
            missing = sorted({*range(many)} - {shard.number for shard in numbered if shard.of == many})
            if missing:
                name = _NUMBER.sub(f"-{missing[0]:05d}-of-{many:05d}", numbered[0].path.name)
                raise UserError(f"{numbered[0].path.parent / name}: no such file, expected all {many} shards")
        if len({(shard.of, shard.path.parent) for shard in numbered}) > 1 or len(numbered) not in (
            0,
            len(_of(shards, split)),
        ):
            one, other = _of(shards, split)[0], _of(shards, split)[-1]
            raise UserError(f"{path}: {one.relative_to(base)} and {other.relative_to(base)} are of several tables")
    return shards


def _named(path: Path, base: Path) -> Shard:
    told = _NUMBER.search(path.stem)
    name = _NUMBER.sub("", path.stem) if told else path.stem
    inner = path.parent.relative_to(base).name
    if not name or _PIECE.fullmatch(name) or (not roles.read(name).split and roles.read(inner).split):
        name = inner if roles.read(inner).split else ""
    return Shard(path, name, int(told[1]) if told else -1, int(told[2]) if told else 0)


def _roles(path: Path, shards: Sequence[Shard]) -> list[Role | None]:
    """What each file's name says; refuses names of which only some say it, or not clearly."""
    names = list(dict.fromkeys(_splits(shards)))
    said = dict(zip(names, roles.read_all(names), strict=True))
    if any(told.split for told in said.values()):
        for shard in shards:
            if said[shard.split].role is None:
                only = f"does not say which split it is, others do; expected names of {', '.join(ROLES)}"
                raise UserError(f"{shard.path}: {only}, or a pattern of files, such as {path}/train-*")
    return [said[shard.split].role for shard in shards]


def _one(
    path: Path, wanted: Mapping[str, Sequence[str]], required: Collection[str], spent: int
) -> tuple[Table, np.ndarray | None]:
    """A file's table and the images in it."""
    table = read_table(path, wanted, required, may_be_bytes=("path",), options=OPTIONS)
    if not table.bytes_in:
        return table, None
    with reading(path, "a table with images"):
        contents, table.columns["path"] = embedded.read(path, table.found["path"], spent)
    if not any(image.content for image in contents):  # what only names its files
        return table, None
    return table, contents


OPTIONS = {name: f"data.{name}_column" for name in ("path", "label", "split")}


def _joined(places: Places, tables: Sequence[Table]) -> Table:
    """One table below the other; a column that one lacks is empty there."""
    sizes = [len(table.columns["path"]) for table in tables]
    found = {column: name for table in tables for column, name in table.found.items()}
    for column, name in found.items():
        for file, table in zip(places.files, tables, strict=True):
            if table.found.get(column, name) != name or (column == "path" and table.bytes_in != tables[0].bytes_in):
                raise UserError(f"{file}: other columns than {places.files[0].name}, expected shards of one table")
    columns = {name: [cell for table in tables for cell in table.columns[name]] for name in tables[0].columns}
    others: dict[str, list[str] | None] = {}
    for name in dict.fromkeys(name for table in tables for name in table.others):
        cells = [table.others.get(name, [""] * size) for table, size in zip(tables, sizes, strict=True)]
        others[name] = None if None in cells else [cell for part in cells if part for cell in part]
    return Table(columns, found, others, tables[0].bytes_in)


def _contents(
    places: Places, table: Table, contents: Sequence[np.ndarray | None], shards: Sequence[Shard]
) -> np.ndarray | None:
    """All images; their names are `<file>/<row>` where the column's own do not tell them apart."""
    if all(part is None for part in contents):
        return None
    if any(part is None for part in contents):
        raise UserError(f"{places.path}: images lie in some shards and not in others, expected them in all")
    base = places.path.parent if "*" in places.path.name else places.path
    if len({*table.columns["path"]}) < len(table.columns["path"]):
        table.columns["path"][:] = [
            f"{shard.path.relative_to(base).with_suffix('')}/{row:06d}"
            for shard, part in zip(shards, contents, strict=True)
            for row in range(1, len(part) + 1)  # type: ignore[arg-type]
        ]
    whole: np.ndarray = np.concatenate(contents)  # type: ignore[arg-type]
    return whole


def _split(places: Places, row: int, cell: str, role: Role | None) -> str:
    if role is None or not cell:
        return cell if role is None else role.name.lower()
    if roles.of(cell) not in (role, None):
        raise UserError(f'{places.at(row)}: split "{cell}" contradicts the name of the file')
    return cell


def class_names(places: Places, column: str) -> tuple[str, ...]:
    """`embedded.class_names` of all files, which must be the same."""

    def named(path: Path) -> tuple[str, ...]:
        return embedded.class_names(path, column) if path.suffix.lower() == ".parquet" else ()

    first = named(places.files[0])
    for path in places.files[1:]:
        if named(path) != first:
            raise UserError(f"{path}: other class names than {places.files[0].name}, expected shards of one table")
    return first
