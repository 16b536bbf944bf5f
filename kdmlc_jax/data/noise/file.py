"""Given labels that another tool or run has written, in `noise.file`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from kdmlc_jax.arrays import check_labels, load_array
from kdmlc_jax.data import provenance
from kdmlc_jax.data.formats import classes
from kdmlc_jax.data.formats.rows import rows_of
from kdmlc_jax.data.formats.tables import read_table
from kdmlc_jax.data.noise.base import Request
from kdmlc_jax.errors import UserError, suggest

RATED, CORRUPTS = False, False

# The first of these that a table has is read, so labels.csv of a run gives what that run was given.
LABEL_COLUMNS = ("label", "given_label", "noisy_label", "corrected_label")


def labels(request: Request) -> Int[np.ndarray, " N"]:
    """`read_labels` of `noise.file`."""
    path = request.path("file")
    return read_labels(path, len(request.given), request.num_classes, request.ids, request.class_names)


def read_labels(
    path: Path, count: int, num_classes: int, ids: np.ndarray | None = None, class_names: Sequence[str] = ()
) -> Int[np.ndarray, " N"]:
    """Given labels from another tool or run. Rows are counted from 0, the header not among them.

    Args:
      path: noise.npz of a run on the same images, whose labels are taken as they were before the trusted ones were
        checked; `.npy`, i[rows], see `formats.rows.rows_of`; or `.csv` or `.parquet` with a column `id` and one of
        LABEL_COLUMNS, the rows in any order; 1.0 is 1.
      count: N.
      num_classes: C.
      ids: str[N], the names in the column `id`; None = 0 … N-1.
      class_names: C names, which those of a noise.npz must equal. Labels of an array or table are names where all of
        them are (`formats.classes.reading`), else numbers from 0; those of a run's own table are numbers.

    Returns:
      i32[N], by stable index.

    Raises:
      UserError: naming the file, the row, the value and what is allowed: for a file that cannot be read, a missing
        column, a label other than 0 to C-1, and an id that is missing, unknown or there twice.
    """
    suffix = path.suffix.lower()
    names = np.arange(count) if ids is None else ids
    if suffix in (".csv", ".parquet"):
        return _joined(path, names, class_names or [str(label) for label in range(num_classes)])
    if suffix not in (".npz", ".npy"):
        raise UserError(f'{path}: "{suffix}" is not one of .npz, .npy, .csv, .parquet, the files labels are read from')
    if suffix == ".npy":
        read = load_array(path)
        if read.ndim == 1:
            read = read[rows_of(path, len(read), count, ids)]
            read = _by_name(read, class_names) if read.dtype.kind in "iu" else read
    else:
        read = _of_run(path, names, class_names)
    if read.shape != (count,):
        raise UserError(f"{path}: labels of shape {read.shape}, expected ({count},), one per training image")
    return np.array(check_labels(read, num_classes, path))


def _of_run(path: Path, ids: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    kept = provenance.load(path)
    if kept.images != provenance.fingerprint(ids, class_names):
        raise UserError(f"{path}: is of {len(kept.given_labels)} other images or classes, expected these {len(ids)}")
    return np.where(kept.carried_labels >= 0, kept.carried_labels, kept.given_labels)


def _by_name(read: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Integers as numbers of classes; where they are all names of classes, those of these."""
    values, inverse = np.unique(read, return_inverse=True)
    texts = [str(value) for value in values.tolist()]
    index = classes.reading(texts, class_names)
    return np.array([index[text] for text in texts])[inverse] if set(texts) <= index.keys() else read


def _joined(path: Path, ids: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """i32[N], a table's labels joined by id."""
    table = read_table(path, {"id": ("id",), "label": LABEL_COLUMNS}, required=("id", "label"))
    labels = [classes.whole(text) for text in table.columns["label"]]
    # The label columns of a run's own table are numbers; it has names beside them.
    own = f"{table.found['label'].removesuffix('_label')}_class" in table.others
    index = classes.reading(labels, [str(label) for label in range(len(class_names))] if own else class_names)
    position_of = {str(name): position for position, name in enumerate(ids)}
    given, first = np.full(len(ids), -1, np.int32), np.full(len(ids), -1)
    for row, (name, text) in enumerate(zip(table.columns["id"], labels, strict=True)):
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
