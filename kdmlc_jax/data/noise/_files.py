"""Noise from files: a transition matrix, or the labels themselves from another tool or run."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from kdmlc_jax.arrays import check_labels
from kdmlc_jax.data.formats.files import read_bytes
from kdmlc_jax.data.provenance import UNREADABLE, fingerprint, load
from kdmlc_jax.errors import UserError, suggest

# The first of these that a table has is read, so labels.csv of a run gives what that run was given.
LABEL_COLUMNS = ("label", "given_label", "noisy_label", "corrected_label")

TOLERANCE = 1e-6  # of the sum of a row of probabilities


def read_matrix(path: str | Path, num_classes: int) -> np.ndarray:
    """T[y, ỹ] = P(given label ỹ | true label y) from a file: row y, column ỹ, both from 0.

    Args:
      path: `.npy`, or `.csv` or `.txt` with a line for each row, commas between numbers; lines that start with # are
        skipped.
      num_classes: C.

    Returns:
      f64[C, C].

    Raises:
      UserError: naming the file and the row, for a file that cannot be read, a wrong shape, an entry that is no
        probability, or a row that does not sum to 1 within 1e-6.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".npy", ".csv", ".txt"):
        raise UserError(f'{path}: "{suffix}" is not one of .npy, .csv, .txt, the files a matrix is read from')
    matrix = _load_npy(path) if suffix == ".npy" else _parse_matrix(path)
    if matrix.shape != (num_classes, num_classes) or matrix.dtype.kind not in "iuf":
        found = f"{matrix.dtype} of shape {matrix.shape}"
        raise UserError(f"{path}: {found}, expected numbers of shape ({num_classes}, {num_classes})")
    _check_matrix(path, matrix)
    return matrix.astype(np.float64)


def _parse_matrix(path: str | Path) -> np.ndarray:
    lines = [line.strip() for line in read_bytes(Path(path)).decode("utf-8-sig", "replace").splitlines()]
    rows = [line.split(",") for line in lines if line and not line.startswith("#")]
    numbers = []
    for row, cells in enumerate(rows):
        if len(cells) != len(rows[0]):
            raise UserError(f"{path} row {row}: {len(cells)} numbers, expected {len(rows[0])} as in row 0")
        try:
            numbers.append([float(cell) for cell in cells])
        except ValueError as error:
            raise UserError(f"{path} row {row}: {error}") from error
    return np.array(numbers)


def _check_matrix(path: str | Path, matrix: np.ndarray) -> None:
    # Stated so that NaN is refused too.
    bad = np.argwhere(~((matrix >= 0) & (matrix <= 1 + TOLERANCE)))
    if bad.size:
        row, column = bad[0]
        raise UserError(f"{path} row {row} column {column}: {matrix[row, column]} is not a probability in [0, 1]")
    total = matrix.sum(axis=1, dtype=np.float64)
    row = int(np.argmax(np.abs(total - 1) > TOLERANCE))
    if abs(total[row] - 1) > TOLERANCE:
        raise UserError(f"{path} row {row}: sums to {total[row]:.9g}, expected 1 within {TOLERANCE:g}")


def read_labels(
    path: str | Path, count: int, num_classes: int, ids: np.ndarray | None = None, class_names: Sequence[str] = ()
) -> np.ndarray:
    """Given labels from another tool or run. Rows are counted from 0, the header not among them.

    Args:
      path: noise.npz of a run on the same images, whose labels are taken as they were before the trusted ones were
        checked; `.npy`, i[N] by stable index; or `.csv` or `.parquet` with a column `id` and one of
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
    suffix = Path(path).suffix.lower()
    if suffix in (".csv", ".parquet"):
        return _keyed(path, count, num_classes, ids)
    if suffix not in (".npz", ".npy"):
        raise UserError(f'{path}: "{suffix}" is not one of .npz, .npy, .csv, .parquet, the files labels are read from')
    labels = (
        _load_npy(path) if suffix == ".npy" else _of_run(path, np.arange(count) if ids is None else ids, class_names)
    )
    if labels.shape != (count,):
        raise UserError(f"{path}: labels of shape {labels.shape}, expected ({count},), one per training image")
    if not np.issubdtype(labels.dtype, np.integer):
        _refuse_first_fraction(path, labels, num_classes)
    return check_labels(labels, num_classes, path)


def _of_run(path: str | Path, ids: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    kept = load(path)
    if kept.images != fingerprint(ids, class_names):
        raise UserError(f"{path}: is of {len(kept.given_labels)} other images or classes, expected these {len(ids)}")
    return np.where(kept.carried_labels >= 0, kept.carried_labels, kept.given_labels)


def _load_npy(path: str | Path) -> np.ndarray:
    raw = read_bytes(Path(path))
    try:
        return np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    except UNREADABLE as error:
        if "Object arrays cannot be loaded" in str(error):
            raise UserError(f"{path}: holds pickled Python objects, expected an array of numbers") from error
        raise UserError(f"{path}: cannot be read as an array of NumPy ({_first_line(error)})") from error


def _refuse_first_fraction(path: str | Path, labels: np.ndarray, num_classes: int) -> None:
    whole = labels == np.floor(labels) if labels.dtype.kind == "f" else np.zeros(labels.shape, bool)
    row = int(np.argmin(whole)) if labels.size else 0
    found = f"label {labels[row]} ({labels.dtype})" if labels.size else labels.dtype
    raise UserError(f"{path} row {row}: {found}, expected integers from 0 to {num_classes - 1}")


def _keyed(path: str | Path, count: int, num_classes: int, ids: np.ndarray | None) -> np.ndarray:
    index = {str(name): position for position, name in enumerate(range(count) if ids is None else ids)}
    labels, first = np.zeros(count, np.int32), np.full(count, -1)
    for row, (name, text) in enumerate(zip(*_columns(path), strict=True)):
        place = f'{path} row {row} (id "{name}")'
        position = index.get(name)
        if position is None:
            raise UserError(f"{place}: {_expected_ids(name, index, ids)}")
        if first[position] >= 0:
            raise UserError(f"{place}: the id is already in row {first[position]}, expected every id once")
        labels[position], first[position] = _label(text, num_classes, place), row
    missing = np.flatnonzero(first < 0)
    if missing.size:
        name = missing[0] if ids is None else ids[missing[0]]
        raise UserError(f'{path}: {missing.size} of {count} images have no label, first id "{name}"')
    return labels


def _expected_ids(name: str, index: Mapping[str, int], ids: np.ndarray | None) -> str:
    if ids is None:
        return f"the id is unknown, expected 0 to {len(index) - 1}"
    return f"the id is not that of a training image{suggest(name, index)}"


def _label(text: str, num_classes: int, place: str) -> int:
    # Ten digits and more are out of every range, and int refuses thousands of them in its own words.
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < num_classes:
        return int(text)
    raise UserError(f'{place}: label "{text}" is not a whole number from 0 to {num_classes - 1}')


def _columns(path: str | Path) -> list[list[str]]:
    """The ids and the labels of a table, as they are written."""
    raw = pa.BufferReader(read_bytes(Path(path)))
    try:
        table = parquet.read_table(raw) if Path(path).suffix.lower() == ".parquet" else _read_csv(raw)
        chosen = [name for name in LABEL_COLUMNS if name in table.column_names][:1]
        if "id" in table.column_names and chosen:
            values = [table.column(name).to_pylist() for name in ("id", *chosen)]
            return [["" if value is None else str(value).strip() for value in column] for column in values]
    except (pa.ArrowException, *UNREADABLE) as error:
        raise UserError(f"{path}: cannot be read as a table ({_first_line(error)})") from error
    found = ", ".join(table.column_names)
    raise UserError(f"{path}: columns {found}; expected id and one of {', '.join(LABEL_COLUMNS)}")


def _read_csv(raw: pa.BufferReader) -> pa.Table:
    # Left to guess, Arrow would read the id 007 as 7, and a label 3.0 as a number that is whole.
    text = dict.fromkeys(("id", *LABEL_COLUMNS), pa.string())
    return csv.read_csv(raw, convert_options=csv.ConvertOptions(column_types=text))


def _first_line(error: Any) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
