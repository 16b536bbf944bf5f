"""Given labels that another tool or run has written, in `noise.file`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from kdmlc_jax.arrays import check_labels, load_array
from kdmlc_jax.data import provenance
from kdmlc_jax.data.formats.rows import rows_of
from kdmlc_jax.data.formats.tables import read_columns
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
        LABEL_COLUMNS, the rows in any order.
      count: N.
      num_classes: C.
      ids: str[N], the names in the column `id`; None = 0 … N-1.
      class_names: C names, which those of a noise.npz must equal.

    Returns:
      i32[N], by stable index.

    Raises:
      UserError: naming the file, the row, the value and what is allowed: for a file that cannot be read, a missing
        column, a label other than 0 to C-1, and an id that is missing, unknown or there twice.
    """
    suffix = path.suffix.lower()
    names = np.arange(count) if ids is None else ids
    if suffix in (".csv", ".parquet"):
        return _joined(path, names, num_classes)
    if suffix not in (".npz", ".npy"):
        raise UserError(f'{path}: "{suffix}" is not one of .npz, .npy, .csv, .parquet, the files labels are read from')
    if suffix == ".npy":
        read = load_array(path)
        if read.ndim == 1:
            read = read[rows_of(path, len(read), count, ids)]
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


def _joined(path: Path, ids: np.ndarray, num_classes: int) -> np.ndarray:
    """i32[N], a table's labels joined by id."""
    table = read_columns(path, {"id": ("id",), "label": LABEL_COLUMNS}, required=("id", "label"))
    index = {str(name): position for position, name in enumerate(ids)}
    given, first = np.full(len(ids), -1, np.int32), np.full(len(ids), -1)
    for row, (name, text) in enumerate(zip(table["id"], table["label"], strict=True)):
        place, position = f'{path} row {row} (id "{name}")', index.get(name)
        if position is None:
            raise UserError(f"{place}: the id is not that of a training image{suggest(name, index)}")
        if first[position] >= 0:
            raise UserError(f"{place}: the id is already in row {first[position]}, expected every id once")
        # Ten digits and more are out of every range, and int refuses thousands of them in its own words.
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < num_classes):
            raise UserError(f'{place}: label "{text}" is not a whole number from 0 to {num_classes - 1}')
        given[position], first[position] = int(text), row
    missing = np.flatnonzero(first < 0)
    if missing.size:
        raise UserError(f'{path}: {missing.size} of {len(ids)} images have no label, first id "{ids[missing[0]]}"')
    return given
