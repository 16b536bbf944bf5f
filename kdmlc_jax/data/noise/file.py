"""Given labels that another tool or run has written, in `noise.file`."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from kdmlc_jax.arrays import check_labels, load_array
from kdmlc_jax.data import provenance
from kdmlc_jax.data.formats import classes
from kdmlc_jax.data.formats.boxed import is_boxed, read_boxed
from kdmlc_jax.data.formats.label_lists import Frame, read_frame, read_json
from kdmlc_jax.data.formats.rows import rows_of
from kdmlc_jax.data.formats.tables import TEXTS
from kdmlc_jax.data.noise.base import Request
from kdmlc_jax.errors import UserError, suggest

RATED, CORRUPTS = False, False

SUFFIXES = (".npz", ".npy", *TEXTS[:1], ".parquet", ".json", *TEXTS[1:])
SURE = 20  # of fewer labels, agreement says nothing


class Read(NamedTuple):
    """The labels of a file."""

    labels: np.ndarray  # i32[N], by stable index
    by_order: bool  # rows were taken in their order, for nothing names them
    notes: tuple[str, ...] = ()


def labels(request: Request) -> Int[np.ndarray, " N"]:
    """`read_labels` of `noise.file`; says which column was read, and warns where the order of rows looks wrong."""
    path = request.path("file")
    ids, names = request.ids, request.class_names
    found = _read(path, len(request.given), request.num_classes, ids, names, request.named)
    known = np.where(request.given >= 0, request.given, request.truth)
    order = order_notes(path, found.labels, known, request.num_classes) if found.by_order else ()
    for note in (*found.notes, *order):
        request.say(note)
    return found.labels


def read_labels(
    path: Path,
    count: int,
    num_classes: int,
    ids: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    column: str = "",
) -> Int[np.ndarray, " N"]:
    """Given labels from another tool or run. Rows are counted from 0, the header not among them.

    Args:
      path: noise.npz of a run on the same images, whose labels are taken as they were before the trusted ones were
        checked; `.npy`, i[rows], see `formats.rows.rows_of`; `.json`, a list of labels in the same way, or {id: label};
        or a table with a column of ids and one of labels (`formats.label_lists.read_frame`), the rows in any order; 1.0
        is 1.
      count: N.
      num_classes: C.
      ids: str[N], the names in the column `id`; None = 0 … N-1.
      class_names: C names, which those of a noise.npz must equal. Labels of an array or table are names where all of
        them are (`formats.classes.reading`), else numbers from 0; those of a run's own table are numbers.
      column: of a table; '' = a usual one.

    Returns:
      i32[N], by stable index.

    Raises:
      UserError: naming the file, the row, the value and what is allowed: for a file that cannot be read, a missing
        column, a label other than 0 to C-1, and an id that is missing, unknown or there twice.
    """
    return _read(path, count, num_classes, ids, class_names, column).labels


def _read(
    path: Path, count: int, num_classes: int, ids: np.ndarray | None, class_names: Sequence[str], column: str
) -> Read:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f'{path}: "{suffix}" is not one of {", ".join(SUFFIXES)}, the files labels are read from')
    if column and suffix in (".npz", ".npy", ".json"):
        raise UserError(f'noise.column: "{column}", but {path} is no table and has no columns')
    names = np.arange(count) if ids is None else ids
    if suffix == ".npz":
        return Read(_checked(_of_run(path, names, class_names), count, num_classes, path), False)
    if suffix == ".npy":
        return Read(_checked(_of_array(path, count, ids, class_names), count, num_classes, path), ids is None)
    frame = read_json(path) if suffix == ".json" else read_frame(path, column)
    known = class_names or [str(label) for label in range(num_classes)]
    if frame.ids is None:
        at = rows_of(path, len(frame.labels), count, ids)
        frame = frame._replace(ids=[str(name) for name in names], labels=[frame.labels[row] for row in at])
        return Read(_joined(path, frame, names, known), ids is None, frame.notes)
    return Read(_joined(path, frame, names, known), False, frame.notes)


def order_notes(
    path: Path, labels: Int[np.ndarray, " N"], known: Int[np.ndarray, " N"], num_classes: int
) -> tuple[str, ...]:
    """A warning where labels agree with those at hand (-1 = none) hardly more often than in a random order:

    share(ỹ = y) < e + 4 √(e (1 - e) / n), e = Σ_c share(ỹ = c) share(y = c).
    """
    rows = known >= 0
    size = int(rows.sum())
    if size < SURE:
        return ()
    shares = [np.bincount(each[rows], minlength=num_classes) / size for each in (labels, known)]
    chance, agree = float(shares[0] @ shares[1]), float(np.mean(labels[rows] == known[rows]))
    if chance > 0.99 or agree >= chance + 4 * np.sqrt(chance * (1 - chance) / size):
        return ()
    return (
        f"warning: noise.file: {agree:.0%} of the labels in {path} agree with those of the data set, {chance:.0%} "
        "would in a random order; rows are taken in the order of the training images: are they of another?",
    )


def _checked(read: np.ndarray, count: int, num_classes: int, path: Path) -> np.ndarray:
    if read.shape != (count,):
        raise UserError(f"{path}: labels of shape {read.shape}, expected ({count},), one per training image")
    return np.array(check_labels(read, num_classes, path))


def _of_run(path: Path, ids: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    kept = provenance.load(path)
    if kept.images != provenance.fingerprint(ids, class_names):
        raise UserError(f"{path}: is of {len(kept.given_labels)} other images or classes, expected these {len(ids)}")
    return np.where(kept.carried_labels >= 0, kept.carried_labels, kept.given_labels)


def _of_array(path: Path, count: int, ids: np.ndarray | None, class_names: Sequence[str]) -> np.ndarray:
    found = ""
    with contextlib.suppress(UserError):  # of other objects `load_array` says what they are
        if is_boxed(path):
            found = f"a dictionary ({', '.join(read_boxed(path))[:100]}), expected an array of labels"
    if found:
        raise UserError(f"{path}: {found}; noise=human reads that of CIFAR-10N and CIFAR-100N")
    read = load_array(path)
    if read.ndim == 1:
        read = read[rows_of(path, len(read), count, ids)]
        read = _by_name(read, class_names) if read.dtype.kind in "iu" else read
    return read


def _by_name(read: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Integers as numbers of classes; where they are all names of classes, those of these."""
    values, inverse = np.unique(read, return_inverse=True)
    texts = [str(value) for value in values.tolist()]
    index = classes.reading(texts, class_names)
    return np.array([index[text] for text in texts])[inverse] if set(texts) <= index.keys() else read


def _joined(path: Path, frame: Frame, ids: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """i32[N], a table's labels joined by id."""
    labels = [classes.whole(text) for text in frame.labels]
    # The label columns of a run's own table are numbers; it has names beside them.
    index = classes.reading(labels, [str(label) for label in range(len(class_names))] if frame.own else class_names)
    position_of = {str(name): position for position, name in enumerate(ids)}
    given, first = np.full(len(ids), -1, np.int32), np.full(len(ids), -1)
    for row, (name, text) in enumerate(zip(frame.ids or (), labels, strict=True)):
        place, position = f'{path} row {row} (id "{name}")', position_of.get(name)
        if position is None:
            raise UserError(f"{place}: the id is not that of a training image{suggest(name, position_of)}")
        if first[position] >= 0:
            raise UserError(f"{place}: the id is already in row {first[position]}, expected every id once")
        if text not in index:
            wanted = f"a whole number from 0 to {len(class_names) - 1}"
            if not all(map(classes.is_whole, index)):
                wanted = f"one of the {len(class_names)} classes{suggest(text, class_names)}"
            raise UserError(f'{place}: label "{text[:40]}" is not {wanted}')
        given[position], first[position] = index[text], row
    missing = np.flatnonzero(first < 0)
    if missing.size:
        raise UserError(f'{path}: {missing.size} of {len(ids)} images have no label, first id "{ids[missing[0]]}"')
    return given
