"""Labels by image or in order, as other tools write them: tables, cleanlab's frames, JSON lists."""

import json
import posixpath
import re
from pathlib import Path
from typing import Any, NamedTuple

from kdmlc_jax.data.formats.manifest import COLUMNS
from kdmlc_jax.data.formats.tables import Table, read_table
from kdmlc_jax.errors import UserError, reading

INDEX = ("", "__index_level_0__")  # what pandas makes of a frame's index
ID_COLUMNS = ("id", *COLUMNS["path"], "image_id", *INDEX)
# The first of these that a table has is read, so labels.csv of a run gives what that run was given.
LABEL_COLUMNS = ("label", "given_label", "noisy_label", "corrected_label")
CLEANLAB = frozenset(("is_label_issue", "given_label"))  # what its frames have; rows in the order of the labels


class Frame(NamedTuple):
    """Labels as text."""

    ids: list[str] | None  # None = in the order of the images
    labels: list[str]
    own: bool = False  # a run's own table, whose labels are numbers
    notes: tuple[str, ...] = ()


def read_frame(path: Path, column: str = "") -> Frame:
    """A table's labels.

    Args:
      path: as `tables.read_table`; with one of ID_COLUMNS, in any usual spelling of a path. A frame of cleanlab's has
        none: its rows are in the order of the labels that it was given, which its index, where it was written, tells.
      column: of the labels; '' = the first of LABEL_COLUMNS.

    Raises:
      UserError: naming the file; with the columns that there are for one that is missing.
    """
    wanted = {"id": ID_COLUMNS, "label": (column.strip().lower(),) if column else LABEL_COLUMNS}
    table = read_table(path, wanted, required=())
    found = table.found
    if "label" not in found:
        read_table(path, wanted, required=("id", "label") if not like_labels(table) else ("id",))
        some = ", ".join(like_labels(table))
        wrong = f'no column "{wanted["label"][0]}"'
        raise UserError(f"{path}: {wrong}, found {', '.join(table.others)}; noise.column=<name> reads one of {some}")
    labels = table.columns["label"]
    ids: list[str] | None = [posixpath.normpath(name) if "./" in name else name for name in table.columns["id"]]
    ordered = is_cleanlab(table) and found.get("id") in (None, *INDEX)
    if "id" not in found and not ordered:
        read_table(path, wanted, required=("id",))
    if ordered and (by_index := _in_order(labels, table.columns["id"]) if "id" in found else labels):
        labels, ids = by_index, None
    own = f"{found['label'].removesuffix('_label')}_class" in table.others
    return Frame(ids, labels, own, (*(f"noise.file: {note}" for note in table.notes), *_choice(path, table)))


def is_cleanlab(table: Table) -> bool:
    """Whether a table is what cleanlab says of labels, and not that of a run."""
    names = {*table.others, *table.found.values()}
    return names >= CLEANLAB and "split" not in names


def _in_order(labels: list[str], index: list[str]) -> list[str] | None:
    """The labels by an index that is 0 to N - 1 in any order, None where it is another."""
    if sorted(index) != sorted(map(str, range(len(index)))):
        return None
    at = {name: row for row, name in enumerate(index)}
    return [labels[at[str(row)]] for row in range(len(index))]


def like_labels(table: Table) -> list[str]:
    """The columns not taken that look like labels, by their names."""
    no_labels = re.compile(r"is_.*|.*_(score|quality|issue)")
    return [
        name
        for name, texts in table.others.items()
        if texts is not None and "label" in name and not no_labels.fullmatch(name)
    ]


def _choice(path: Path, table: Table) -> list[str]:
    """Which column was taken, where others could have been."""
    taken, others = table.found["label"], like_labels(table)
    if not others:
        return []
    return [f'noise.file: column "{taken}" of {path} is read; noise.column=<name> reads {" or ".join(others)}']


def read_json(path: Path) -> Frame:
    """A list of labels in the order of the images, as DivideMix's, or {id: label}.

    Raises:
      UserError: naming the file, and the place of what is no label.
    """
    what = "a JSON list of labels"
    with reading(path, what):
        value = json.loads(path.read_bytes(), object_pairs_hook=_once)
    if isinstance(value, dict):
        return Frame([str(name) for name in value], [_label(path, name, label) for name, label in value.items()])
    if not isinstance(value, list) or not value:
        raise UserError(f"{path}: {_kind(value)}, expected a list of labels, or an object of id and label")
    return Frame(None, [_label(path, row, label) for row, label in enumerate(value)])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'"{double[:80]}" is there twice')
    return found


def _label(path: Path, place: object, label: Any) -> str:
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        raise UserError(f"{path} entry {place}: {_kind(label)}, expected a label: a whole number or a name")
    return str(label).strip()


def _kind(value: Any) -> str:
    return "empty" if value in ([], {}, "") else f"{str(value)[:40]!r} is a {type(value).__name__}"
