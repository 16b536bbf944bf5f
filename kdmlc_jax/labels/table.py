"""The corrected-label table: what the method believes of every given label, and how well that finds the wrong ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from kdmlc_jax.arrays import check_labels, load_array
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage.files import atomic_write

TABLE, SOFT = "labels.parquet", "soft_labels.npy"
COLUMNS = (
    "id",
    "split",
    "given_label",
    "corrected_label",
    "confidence",
    "p_given",
    "is_label_issue",
    "label_score",
    "rank",
)


def table(
    ids: Sequence[int] | Sequence[str] | np.ndarray,
    split_names: Sequence[str] | np.ndarray,
    given: np.ndarray,
    beliefs: np.ndarray,
    class_names: Sequence[str] | None = None,
    examined: Mapping[str, np.ndarray] = {},
) -> pa.Table:
    """One row per image, in the order of `ids`, with the columns COLUMNS, and given_class and corrected_class by name.

    corrected_label = argmax_c b_c, the given label where it ties; confidence = its belief; p_given = b_ỹ;
    is_label_issue = corrected_label ≠ given_label;
    label_score = (b_ỹ - max_{c≠ỹ} b_c + 1)/2 in [0, 1], up to 1/2 for the issues: the normalised margin of
    Northcutt et al. 2021, "Confident Learning" (cleanlab's `normalized_margin`);
    rank = 1 for the lowest score, ties by id; of the noisy images only, where a method scores those itself: its score
    and the margin of the others cannot be compared.

    Args:
      ids: N stable indices or file names.
      split_names: N names: noisy, trusted, validation.
      given: i32[N], given labels.
      beliefs: f32[N, C], rows on the simplex.
      class_names: C names; None = no columns of names.
      examined: what a method says of the noisy images itself (`Method.examine`), by column, in their order.
        is_label_issue and label_score replace those above; other columns are added, null for the other images.

    Returns:
      The table; labels i32, confidence, p_given and label_score f32, rank i64 from 1 to N, null where
      there is none.

    Raises:
      UserError: for lengths that disagree, labels out of range, or beliefs that are not on the simplex.
    """
    beliefs, given = np.asarray(beliefs, np.float64), np.asarray(given)
    _check(ids, split_names, given, beliefs)
    rows = np.arange(len(given))
    p_given = beliefs[rows, given]
    others = beliefs.copy()
    others[rows, given] = -np.inf
    # A tie is no evidence against the given label.
    corrected = np.where(p_given >= others.max(axis=1), given, others.argmax(axis=1))
    values = {
        "id": np.asarray(ids),
        "split": pa.array([str(name) for name in split_names], pa.string()),
        "given_label": given.astype(np.int32),
        "corrected_label": corrected.astype(np.int32),
        "confidence": beliefs[rows, corrected].astype(np.float32),
        "p_given": p_given.astype(np.float32),
        "is_label_issue": corrected != given,
        "label_score": np.clip((p_given - others.max(axis=1) + 1.0) / 2.0, 0.0, 1.0).astype(np.float32),
    }
    noisy = np.asarray(split_names) == "noisy"
    for name, column in examined.items():
        whole = values.get(name, np.zeros(len(given), column.dtype))
        whole[noisy] = column
        values[name] = whole
    # Ranked after rounding to f32, so that the file agrees with itself.
    ranked = noisy if "label_score" in examined else np.full(len(given), True)
    values["rank"] = _rank(np.asarray(ids), values["label_score"], ranked)
    columns = {name: values[name] for name in COLUMNS}
    if class_names is not None:
        names = np.asarray(class_names)
        columns |= {"given_class": names[given], "corrected_class": names[corrected]}
    columns |= {name: pa.array(values[name], mask=~noisy) for name in examined if name not in COLUMNS}
    return pa.table(columns)


def _rank(ids: np.ndarray, score: np.ndarray, ranked: np.ndarray) -> pa.Array:
    """Of the rows bool[N] `ranked`, null elsewhere."""
    rank, rows = np.empty(len(score), np.int64), np.flatnonzero(ranked)
    rank[rows[np.lexsort((ids[rows], score[rows]))]] = np.arange(1, len(rows) + 1)
    return pa.array(rank, mask=~ranked)


def _check(
    ids: Sequence[int] | Sequence[str] | np.ndarray,
    split_names: Sequence[str] | np.ndarray,
    given: np.ndarray,
    beliefs: np.ndarray,
) -> None:
    if beliefs.ndim != 2 or beliefs.shape[1] < 2:
        raise UserError(f"beliefs: shape {beliefs.shape}, expected [N, C] with 2 classes or more")
    check_labels(given, beliefs.shape[1])
    lengths = {"ids": len(ids), "split_names": len(split_names), "given": len(given)}
    for name, length in lengths.items():
        if length != len(beliefs):
            raise UserError(f"{name}: {length} entries, expected {len(beliefs)}, the rows of beliefs")
    _check_simplex("beliefs", beliefs)


def _check_simplex(place: str, beliefs: np.ndarray) -> None:
    # NaN fails the comparison, so it is caught here; an infinity fails the sum.
    on_simplex = (beliefs >= 0.0).all(axis=1) & (np.abs(beliefs.sum(axis=1) - 1.0) <= 1e-3)
    if not on_simplex.all():
        row = int(np.flatnonzero(~on_simplex)[0])
        total, low = beliefs[row].sum(), beliefs[row].min()
        raise UserError(f"{place} row {row}: sum {total:g}, least {low:g}, expected finite, 0 or more, sum 1 ± 0.001")


def write(rows: pa.Table, directory: str | Path, beliefs: np.ndarray | None = None) -> tuple[Path, Path]:
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
    for path, writer in zip(paths, (csv.write_csv, parquet.write_table), strict=True):
        with atomic_write(path) as file:
            writer(rows, file)
    return paths


def read(source: str | Path, ids: np.ndarray, given: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The corrected labels that a run has left, for the noisy images of another.

    Args:
      source: the run's folder, or the labels.parquet in it. soft_labels.npy is read beside it; without one (a table
        of one's own) corrected_label is taken as certain. The table needs the columns id, split, given_label,
        corrected_label only.
      ids: str[n] or i[n], the noisy images here; each must be among the noisy ones there.
      given: i32[n], their given labels, which must be those that were corrected there.
      num_classes: C.

    Returns:
      corrected_label i32[n], and beliefs f32[n, C], rows on the simplex.

    Raises:
      UserError: naming the file and the first image that does not fit.
    """
    path = Path(source) / TABLE if Path(source).is_dir() else Path(source)
    columns = ("id", "split", "given_label", "corrected_label")
    try:
        there = parquet.read_table(path, columns=list(columns)).to_pydict()
        values = {name: np.asarray(there[name]) for name in columns}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected the folder of a finished run") from None
    except Exception as error:  # damaged bytes raise nearly anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: cannot be read as a label table ({reason})") from None
    for name in columns[2:]:
        check_labels(values[name], num_classes, f"{path} {name}")
    soft = _soft(path.with_name(SOFT), values["corrected_label"], num_classes)
    row_of = {name: row for row, name in enumerate(values["id"].tolist()) if values["split"][row] == "noisy"}
    rows = np.array([row_of.get(name, -1) for name in np.asarray(ids).tolist()])
    if (rows < 0).any():
        absent = np.flatnonzero(rows < 0)
        raise UserError(
            f"{path}: {len(absent)} of {len(rows)} noisy images are not among the noisy ones there, the first is "
            f"{ids[absent[0]]}; take that run's splits (data.splits=…/noise.npz) or its seed"
        )
    other = np.flatnonzero(values["given_label"][rows] != given)
    if other.size:
        there_label, here = values["given_label"][rows[other[0]]], given[other[0]]
        raise UserError(
            f"{path}: image {ids[other[0]]} has the given label {there_label} there and {here} here ({other.size} such "
            "images); expected labels corrected from these"
        )
    return values["corrected_label"][rows].astype(np.int32), soft[rows]


def _soft(path: Path, corrected: np.ndarray, num_classes: int) -> np.ndarray:
    """f32[N, C] from the file beside a table, or one-hot where there is none."""
    if not path.exists():
        return np.eye(num_classes, dtype=np.float32)[corrected]
    soft = load_array(path)
    if soft.shape != (len(corrected), num_classes) or soft.dtype.kind != "f":
        want = f"floats of shape ({len(corrected)}, {num_classes}), a row for each of the table"
        raise UserError(f"{path}: {soft.dtype} of shape {soft.shape}, expected {want}")
    _check_simplex(str(path), soft.astype(np.float64))
    other = np.flatnonzero(soft[np.arange(len(corrected)), corrected] < soft.max(axis=1))
    if other.size:
        row = other[0]
        raise UserError(
            f"{path} row {row}: class {soft[row].argmax()} is believed most, but the table beside it has "
            f"corrected_label {corrected[row]}; without this file the table's labels are taken as certain"
        )
    return soft.astype(np.float32)


def detection(
    is_noisy: np.ndarray, label_score: np.ndarray, is_label_issue: np.ndarray
) -> dict[str, int | float | None]:
    """How well the table finds the wrong labels; a wrong given label is the positive class.

    precision = TP/flagged, recall = TP/noisy, f1 = 2 TP/(flagged + noisy); AUROC and average precision rank by
    -label_score.

    Args:
      is_noisy: bool[N], given label ≠ true label.
      label_score: f32[N], low = suspicious.
      is_label_issue: bool[N], the flags.

    Returns:
      flagged (a count), precision, recall, f1, auroc, average_precision (fractions); None where undefined:
      precision if nothing is flagged, auroc if all or none are noisy, everything but flagged and precision if none.

    Raises:
      UserError: for lengths that disagree or a score that is not finite.
    """
    is_noisy, flags = np.asarray(is_noisy, bool), np.asarray(is_label_issue, bool)
    score = np.asarray(label_score, np.float64)
    if not is_noisy.shape == flags.shape == score.shape or score.ndim != 1:
        shapes = f"{is_noisy.shape}, {score.shape}, {flags.shape}"
        raise UserError(f"is_noisy, label_score, is_label_issue: shapes {shapes}, expected one shape [N]")
    if not np.isfinite(score).all():
        row = int(np.flatnonzero(~np.isfinite(score))[0])
        raise UserError(f"label_score row {row}: {score[row]}, expected a finite number")
    return _scores(is_noisy, -score, flags)


def _scores(positive: np.ndarray, suspicion: np.ndarray, flags: np.ndarray) -> dict[str, int | float | None]:
    from sklearn import metrics  # slow to import

    hits, flagged, noisy = int((positive & flags).sum()), int(flags.sum()), int(positive.sum())
    return {
        "flagged": flagged,
        "precision": hits / flagged if flagged else None,
        "recall": hits / noisy if noisy else None,
        "f1": 2 * hits / (flagged + noisy) if noisy else None,
        "auroc": float(metrics.roc_auc_score(positive, suspicion)) if 0 < noisy < len(positive) else None,
        "average_precision": float(metrics.average_precision_score(positive, suspicion)) if noisy else None,
    }
