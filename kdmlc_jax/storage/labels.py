"""A label table on disk: written when a run ends, read where another learns from its labels."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, Shaped
from pyarrow import compute, csv, parquet

from kdmlc_jax.arrays import check_labels, load_array
from kdmlc_jax.errors import UserError, is_failure, unreadable
from kdmlc_jax.labels.table import check_simplex
from kdmlc_jax.storage import door, files
from kdmlc_jax.storage.files import GUARDED, NUMBER, atomic_write, exists

TABLE, SOFT = "labels.parquet", "soft_labels.npy"


def write(rows: pa.Table, directory: str | Path, beliefs: Float[np.ndarray, "N C"] | None = None) -> tuple[Path, Path]:
    """Writes labels.csv and labels.parquet, and soft_labels.npy beside them, each whole or not at all.

    Args:
      rows: from `table`.
      directory: an existing directory.
      beliefs: f32[N, C] of the same rows; None = no soft_labels.npy.

    Returns:
      The paths of the CSV and the Parquet file.

    Raises:
      UserError: where a file cannot be written.
    """
    paths = Path(directory) / "labels.csv", Path(directory) / TABLE
    if beliefs is not None:
        with atomic_write(Path(directory) / SOFT) as file:
            np.save(file, np.asarray(beliefs, np.float32))
    else:  # one of another table would be read with this one
        (Path(directory) / SOFT).unlink(missing_ok=True)
    for path, writer, table in zip(paths, (csv.write_csv, parquet.write_table), (_guarded(rows), rows), strict=True):
        with atomic_write(path) as file:
            writer(table, file)
    return paths


def _guarded(rows: pa.Table) -> pa.Table:
    """The texts as `files.guarded` has them."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_string(field.type):
            texts = rows[place]
            changed = compute.and_not(
                compute.match_substring_regex(texts, GUARDED), compute.match_substring_regex(texts, NUMBER)
            )
            whole = compute.if_else(changed, compute.binary_join_element_wise("'", texts, ""), texts)
            rows = rows.set_column(place, field, whole)
    return rows


def read(
    source: str | Path,
    ids: Shaped[np.ndarray, " n"],
    given: Int[np.ndarray, " n"],
    num_classes: int,
    column: str = "corrected",
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n C"]]:
    """The corrected labels that a run has left, for the noisy images of another.

    Where the most likely class is not the label taken, that label is certain: nothing vouched for the class.

    Args:
      source: the run's folder, or the labels.parquet in it. soft_labels.npy is read beside it; without one (a table
        of one's own) corrected_label is taken as certain. The table needs the columns id, split, given_label,
        corrected_label (suggested_label) only.
      ids: str[n] or i[n], the noisy images here; each must be among the noisy ones there.
      given: i32[n], their given labels, which must be those that were corrected there.
      num_classes: C.
      column: "corrected", or "suggested" for what is believed, vouched for or not.

    Returns:
      The labels i32[n], and beliefs f32[n, C], rows on the simplex.

    Raises:
      UserError: naming the file and the first image that does not fit.
    """
    path = Path(source) / TABLE if files.is_dir(source) else Path(source)
    there = _columns(path, num_classes, f"{column}_label")
    label = there[f"{column}_label"]
    soft = _soft(path.with_name(SOFT), label, there["given_label"], num_classes)
    row_of = {name: row for row, name in enumerate(there["id"].tolist()) if there["split"][row] == "noisy"}
    rows = np.array([row_of.get(name, -1) for name in np.asarray(ids).tolist()])
    if (rows < 0).any():
        absent = np.flatnonzero(rows < 0)
        raise UserError(
            f"{path}: {len(absent)} of {len(rows)} noisy images are not among the noisy ones there, the first is "
            f"{ids[absent[0]]}; take that run's splits (data.splits=…/noise.npz) or its seed"
        )
    other = np.flatnonzero(there["given_label"][rows] != given)
    if other.size:
        was, here = there["given_label"][rows[other[0]]], given[other[0]]
        raise UserError(
            f"{path}: image {ids[other[0]]} has the given label {was} there and {here} here ({other.size} such "
            "images); expected labels corrected from these"
        )
    return label[rows].astype(np.int32), soft[rows]


def _table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A table of our own; raises ValueError where it claims far more than a file of its size holds."""
    with door.opened(path) as raw, parquet.ParquetFile(raw) as file:
        size, about = raw.seek(0, io.SEEK_END), file.metadata
        claimed = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
        if max(claimed, 8 * about.num_rows * about.num_columns) > door.unpacked(size):
            raise ValueError(f"its {size} bytes claim {claimed} in {about.num_rows} rows")
        return file.read(columns=None if columns is None else list(columns))


def whole(source: str | Path) -> tuple[dict[str, np.ndarray], Float[np.ndarray, "N C"]]:
    """The label table that a run has left in the folder `source`, by column, and the beliefs beside it.

    Raises:
      UserError: where it is not there or cannot be read.
    """
    path = Path(source) / TABLE
    try:
        table = _table(path)
        columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected the folder of a finished run") from None
    except Exception as error:  # damaged bytes raise nearly anything
        if isinstance(error, OSError) and is_failure(error):
            raise unreadable(error, path) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: cannot be read as a label table ({reason})") from None
    beliefs = load_array(path.with_name(SOFT))
    if len(beliefs) != len(columns["id"]):
        raise UserError(f"{path.with_name(SOFT)}: {len(beliefs)} rows, expected {len(columns['id'])} as in {TABLE}")
    return columns, beliefs


def _columns(path: Path, num_classes: int, label: str) -> dict[str, np.ndarray]:
    """The columns that `read` needs, with labels in range."""
    columns = ("id", "split", "given_label", label)
    try:
        table = _table(path, columns).to_pydict()
        values = {name: np.asarray(table[name]) for name in columns}
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected the folder of a finished run") from None
    except Exception as error:  # damaged bytes raise nearly anything
        if isinstance(error, OSError) and is_failure(error):
            raise unreadable(error, path) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: cannot be read as a label table ({reason})") from None
    for name in columns[2:]:
        check_labels(values[name], num_classes, f"{path} {name}")
    return values


def _soft(
    path: Path, label: Int[np.ndarray, " N"], given: Int[np.ndarray, " N"], num_classes: int
) -> Float[np.ndarray, "N C"]:
    """From the file beside a table, or one-hot where there is none or a given label stands against it."""
    certain = np.eye(num_classes, dtype=np.float32)[label]
    if not exists(path):
        return certain
    soft = load_array(path)
    if soft.shape != (len(label), num_classes) or soft.dtype.kind != "f":
        want = f"floats of shape ({len(label)}, {num_classes}), a row for each of the table"
        raise UserError(f"{path}: {soft.dtype} of shape {soft.shape}, expected {want}")
    check_simplex(str(path), soft.astype(np.float64))
    against = soft[np.arange(len(label)), label] < soft.max(axis=1)
    other = np.flatnonzero(against & (label != given))
    if other.size:
        row = other[0]
        raise UserError(
            f"{path} row {row}: class {soft[row].argmax()} is believed most, but the table beside it changes the label "
            f"to {label[row]}; without this file the table's labels are taken as certain"
        )
    return np.where(against[:, None], certain, soft).astype(np.float32)
