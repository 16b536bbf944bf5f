"""The corrected-label table: what the method believes of every given label, and how well that finds the wrong ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from kdmlc_jax.data.splits import check_labels
from kdmlc_jax.errors import UserError
from kdmlc_jax.files import atomic_write

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
    rank = 1 for the lowest score, ties by id.

    Args:
      ids: N stable indices or file names.
      split_names: N names: noisy, trusted, validation.
      given: i32[N], given labels.
      beliefs: f32[N, C], rows on the simplex.
      class_names: C names; None = no columns of names.
      examined: what a method says of the noisy images itself (`Method.examine`), by column, in their order.
        is_label_issue and label_score replace those above; other columns are added, null for the other images.

    Returns:
      The table; labels i32, confidence, p_given and label_score f32, rank i64 from 1 to N.

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
    values["rank"] = _rank(np.asarray(ids), values["label_score"])
    columns = {name: values[name] for name in COLUMNS}
    if class_names is not None:
        names = np.asarray(class_names)
        columns |= {"given_class": names[given], "corrected_class": names[corrected]}
    columns |= {name: pa.array(values[name], mask=~noisy) for name in examined if name not in COLUMNS}
    return pa.table(columns)


def _rank(ids: np.ndarray, score: np.ndarray) -> np.ndarray:
    rank = np.empty(len(score), np.int64)
    rank[np.lexsort((ids, score))] = np.arange(1, len(score) + 1)
    return rank


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
    # NaN fails the comparison, so it is caught here; an infinity fails the sum.
    on_simplex = (beliefs >= 0.0).all(axis=1) & (np.abs(beliefs.sum(axis=1) - 1.0) <= 1e-3)
    if not on_simplex.all():
        row = int(np.flatnonzero(~on_simplex)[0])
        total, low = beliefs[row].sum(), beliefs[row].min()
        raise UserError(f"beliefs row {row}: sum {total:g}, least {low:g}, expected finite, 0 or more, sum 1 ± 0.001")


def write(rows: pa.Table, directory: str | Path) -> tuple[Path, Path]:
    """Writes labels.csv and labels.parquet, each whole or not at all.

    Args:
      rows: from `table`.
      directory: an existing directory.

    Returns:
      The paths of the CSV and the Parquet file.

    Raises:
      UserError: where a file cannot be written.
    """
    paths = Path(directory) / "labels.csv", Path(directory) / "labels.parquet"
    for path, writer in zip(paths, (csv.write_csv, parquet.write_table), strict=True):
        with atomic_write(path) as file:
            writer(rows, file)
    return paths


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
