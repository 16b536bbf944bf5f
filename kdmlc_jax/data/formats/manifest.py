"""Manifests: a CSV or Parquet file with a row per image.

Columns, in any order and case: path (or image, file, filename), label; optional true_label, trusted, split. The config
may name others for path, label and split. Without one of paths, a column of names (image_id, name, id) is that where
these are of images (`names.paths`). What is left is not read, with a note; where it tells splits apart, it is
refused until `data.split_column` says what it is. Rows are counted from 1, the first below the header. Labels that are
all numbers must be whole, and are the classes 0 to the largest. Names are the classes themselves; a file classes.txt in
the data directory, one class a line, says which there are and in what order, and may also name the classes of whole
numbers. With it, one of label and true_label may hold numbers and the other names. Without it, that is refused, and a
name that stands in at most 2 places and looks like one in 10 or more is taken for a typing error.
"""

import functools
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax.data.formats import classes, names, roles, shards
from kdmlc_jax.data.formats.listing import Listing, check_name
from kdmlc_jax.data.formats.roles import ROLES, Role
from kdmlc_jax.data.formats.split_columns import YES_NO, find_split
from kdmlc_jax.data.formats.tables import Places, Table
from kdmlc_jax.errors import UserError, suggest
from kdmlc_jax.storage.files import exists

COLUMNS = {
    "path": ("path", "image", "file", "filename", "file_name", "filepath", "file_path", "image_path", "img_path"),
    "label": ("label", "class", "class_name", "category"),
    "true_label": ("true_label",),
    "trusted": ("trusted",),
    "split": ("split",),
}
NAMES = ("image_name", "img_name", "image_file", "img", "fname", "image_id", "img_id", "id", "name")  # of images
RARE, FREQUENT = 2, 10
# Where more names than this are rare, rareness says nothing (and difflib would take hours).
MAX_SUSPECTS = 20


def read(root: Path, data: ConfigDict) -> Listing:
    """Reads `data.manifest`, a path relative to `root` or absolute; opens no image.

    Raises:
      UserError: naming file and row of what is missing, malformed, contradictory, double, or outside `root`.
    """
    required = ["path", "label", *(["split"] if data.split_column not in ("", "none") else [])]
    found = shards.read(root / Path(data.manifest).expanduser(), _columns(data), required)
    whole, contents, path = found.table, found.contents, found.places
    table = whole.columns
    remarks = list(whole.notes)
    if contents is None:
        turned, column = [_turned(root, text) for text in table["path"]], whole.found["path"]
        table["path"], by_name = names.paths(path, root, turned, column, column in NAMES and not data.path_column)
        remarks += by_name
    notes = (*found.notes, *(f"data.manifest: {note}" for note in remarks), *find_split(path, whole, data))
    for column in ("label", "true_label", "trusted"):  # whole numbers, as pandas writes a column with gaps
        table[column] = [classes.whole(text) for text in table[column]]
    ids = _ids(path, root, table["path"], data.follow_links)
    role = np.array(_roles(path, table, whole.found.get("split", "split")), np.int8)
    listed, file = _listed(path, root, whole, table)
    class_names, labels, truth, told = _labels(path, file, table, listed)
    learnt, rows = (Role.NOISY, Role.TRUSTED, Role.VALIDATION), np.arange(len(ids))
    listing = Listing(path, root, class_names, learnt, ids, labels, truth, role, rows, contents, (*notes, *told))
    unlabelled = (role == Role.TEST) & (labels < 0) & (truth < 0)
    if unlabelled.any() and (unlabelled == (role == Role.TEST)).all():
        note = f"warning: the {unlabelled.sum()} test images have no labels and are left out"
        listing = listing._replace(notes=(*listing.notes, note)).take(~unlabelled)
    return listing.take(np.argsort(listing.ids, kind="stable"))


def _listed(path: Places, root: Path, whole: Table, table: dict[str, list[str]]) -> tuple[tuple[str, ...], Path]:
    """The classes that a file says there are, () where none does, and that file: classes.txt, or else a Parquet file
    itself, where -1 is no label."""
    file = root / "classes.txt"
    if exists(file):
        return classes.class_file(file), file
    names = shards.class_names(path, whole.found["label"])
    if names:
        table["label"] = ["" if text == "-1" else text for text in table["label"]]
    return names, path.files[0] if names else file


def _turned(root: Path, text: str) -> str:
    """A path as POSIX writes it, where it is one of Windows: a name may hold a backslash, too."""
    if "\\" not in text or exists(root / text):
        return text
    turned = text.replace("\\", "/")
    return turned if "/" not in text or exists(root / turned) else text


def inside(path: Path, root: Path, real_folder: Callable[[Path], str] = os.path.realpath) -> bool:
    """Whether `path`, its links followed, lies below the resolved `root`."""
    parent = real_folder(path.parent)
    real = os.path.realpath(path) if path.is_symlink() else os.path.join(parent, path.name)
    return real.startswith(os.path.join(root, ""))


def _fail(path: Places, row: int, message: str) -> NoReturn:
    raise UserError(f"{path.at(row)}: {message}")


def _ids(path: Places, root: Path, texts: list[str], follow: bool) -> np.ndarray:
    real, first = root.resolve(), dict[str, int]()
    real_folder: Callable[[Path], str] = functools.cache(os.path.realpath)
    for row, text in enumerate(texts):
        if not text:
            _fail(path, row, f"the path is empty, expected a file below {root}")
        check_name(text, path.at(row))
        name = os.path.relpath(text, root) if os.path.isabs(text) else posixpath.normpath(text)
        if name.startswith("../") or name in ("..", "."):
            _fail(path, row, f'"{text}" is outside {root}, expected a file below it')
        if not follow and not inside(root / name, real, real_folder):
            more = "a link leads there, and data.follow_links=true would read it"
            _fail(path, row, f'"{text}" is outside {root}, expected a file below it ({more})')
        if name in first:
            there = path.at(first[name]).removeprefix(f"{path.at(row).rpartition(' row ')[0]} ")
            _fail(path, row, f'"{text}" is also in {there}, expected each image once')
        first[name] = row
    return np.array(list(first))


def _roles(path: Places, table: dict[str, list[str]], column: str) -> list[Role]:
    found, flags = [], roles.of(re.sub(r"(?i)^(is|in)(?![a-z])", "", column))
    for row, (split, text) in enumerate(zip(table["split"], table["trusted"], strict=True)):
        said = roles.of(split)
        if said is None and flags not in (None, Role.NOISY) and split.lower() in YES_NO:  # is_test: yes, no
            said = flags if YES_NO[split.lower()] else Role.NOISY
        if split and said is None:
            _fail(path, row, f'{column} "{split}" is not one of {", ".join(ROLES)}{suggest(split, ROLES)}')
        if text and text.lower() not in YES_NO:
            _fail(path, row, f'trusted "{text}" is not one of {", ".join(YES_NO)}')
        role, trusted = Role.NOISY if said is None else said, YES_NO.get(text.lower())
        if (trusted and role in (Role.VALIDATION, Role.TEST)) or (trusted is False and role is Role.TRUSTED):
            _fail(path, row, f'trusted "{text}" contradicts {column} "{split}"')
        found.append(Role.TRUSTED if trusted else role)
    return found


def _columns(data: ConfigDict) -> dict[str, tuple[str, ...]]:
    """COLUMNS and NAMES, or what the config names instead."""
    told = {name: data[f"{name}_column"].strip().lower() for name in ("path", "label", "split")}
    usual = COLUMNS | {"path": (*COLUMNS["path"], *NAMES)}
    return usual | {name: () if column == "none" else (column,) for name, column in told.items() if column}


def _labels(
    path: Places, file: Path, table: dict[str, list[str]], listed: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, list[str]]:
    """Class names, the labels of the columns label and true_label, i32[N] each, -1 where empty, and notes."""
    columns = _without_nan({name: table[name] for name in ("label", "true_label")}, listed)
    named = [
        name
        for name, column in columns.items()
        if (file.name == "classes.txt" and any(map(_is_number, listed))) or _first_name(column) >= 0
    ]
    if listed:
        codes = {
            name: _whole(path, name, columns[name], len(listed), file.name) for name in columns if name not in named
        }
        codes |= {name: _named(path, name, columns[name], listed, file.name) for name in named}
        return listed, codes["label"], codes["true_label"], []
    _check_alike(path, columns)
    if named:
        _check_names(path, columns)
    else:
        for name, column in columns.items():
            _whole(path, name, column)
    names = classes.ordered(text for column in columns.values() for text in column if text)
    classes.check_number(path, len(names), len(table["label"]))
    # An image counts once, by the label that it has.
    counts = Counter(text or true for text, true in zip(columns["label"], columns["true_label"], strict=True))
    notes = classes.spelling(path, {name: counts[name] for name in names}, file)
    codes = {name: _named(path, name, columns[name], names) for name in columns}
    return names, codes["label"], codes["true_label"], notes


def _without_nan(columns: dict[str, list[str]], listed: tuple[str, ...]) -> dict[str, list[str]]:
    """The columns with '' for nan, but where nan is a class: listed, or a label beside other names."""
    first = [text for text in columns["label"] if text and text.lower() != "nan"]
    is_class = _first_name(first) >= 0 and not listed
    kept = {*listed, *(columns["label"] if is_class else ())}
    return {
        name: ["" if text.lower() == "nan" and text not in kept else text for text in column]
        for name, column in columns.items()
    }


def _check_alike(path: Places, columns: dict[str, list[str]]) -> None:
    """Refuses numbers in one column and names in the other: "0" and "cat" would be two classes."""
    for column, other in (("label", "true_label"), ("true_label", "label")):
        row, numbers = _first_name(columns[column]), [text for text in columns[other] if text]
        if row >= 0 and numbers and _first_name(numbers) < 0:
            message = f'is a name, but every {other} is a number (first "{numbers[0]}")'
            allowed = "expected names in both columns or whole numbers in both; or write classes.txt"
            _fail(path, row, f'{column} "{columns[column][row]}" {message}, {allowed}')


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_name(texts: list[str]) -> int:
    """The row of the first text that is no number, -1 where there is none."""
    return next((row for row, text in enumerate(texts) if text and not _is_number(text)), -1)


def _whole(path: Places, column: str, texts: list[str], listed: int = 0, by: str = "") -> np.ndarray:
    """i32[N], whole numbers as the classes of a list, -1 where empty."""
    codes = np.full(len(texts), -1, np.int32)
    for row, text in enumerate(texts):
        if text and not classes.is_whole(text):
            _fail(path, row, f'{column} "{text[:40]}" is not a whole number of 0 or more')
        if text and listed:
            if len(text) > 9 or int(text) >= listed:
                _fail(path, row, f"{column} {text[:40]} is out of range, expected 0 to {listed - 1} ({by})")
            codes[row] = int(text)
    return codes


def _named(path: Places, column: str, texts: list[str], names: tuple[str, ...], by: str = "") -> np.ndarray:
    index = {"": -1} | {name: label for label, name in enumerate(names)}
    for row, text in enumerate(texts):
        if text not in index:
            message = f"is not one of the {len(names)} classes of {by}"
            _fail(path, row, f'{column} "{text}" {message}{suggest(text, names)}')
    return np.array([index[text] for text in texts], np.int32)


def _check_names(path: Places, columns: dict[str, list[str]]) -> None:
    """Refuses a lone word among numbers, and likely typing errors."""
    counts = Counter(text for column in columns.values() for text in column if text)
    mostly_numbers = 2 * sum(counts[text] for text in counts if _is_number(text)) > counts.total()
    frequent = [name for name, count in counts.items() if count >= FREQUENT]
    suspects = [name for name, count in counts.items() if count <= RARE]
    rare = {name: suggest(name, frequent) for name in suspects if len(suspects) <= MAX_SUSPECTS}
    for column, texts in columns.items():
        for row, text in enumerate(texts):
            if text and mostly_numbers and not _is_number(text):
                _fail(path, row, f'{column} "{text}" is not a whole number, as most labels are; or write classes.txt')
            if near := rare.get(text):
                seen = "once" if counts[text] == 1 else "twice"
                _fail(path, row, f'{column} "{text}" is there only {seen}{near}; if it is a class, write classes.txt')
