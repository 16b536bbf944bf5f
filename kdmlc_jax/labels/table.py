"""The label table: what is believed of every given label, and what of that is vouched for."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from kdmlc_jax.arrays import check_labels
from kdmlc_jax.errors import UserError
from kdmlc_jax.labels import decide

COLUMNS = (
    "id",
    "split",
    "given_label",
    "corrected_label",
    "suggested_label",
    "decision",
    "confidence",
    "p_given",
    "is_label_issue",
    "label_score",
    "rank",
)
SCORES = ("margin", "p_given")


class Decided(NamedTuple):
    """What is vouched for, a row each of the table."""

    corrected: Int[np.ndarray, " N"]
    decision: np.ndarray  # str[N]: keep, correct or review
    score: str = SCORES[0]  # what label_score is


def table(
    ids: Sequence[int] | Sequence[str] | np.ndarray,
    split_names: Sequence[str] | np.ndarray,
    given: np.ndarray,
    beliefs: np.ndarray,
    class_names: Sequence[str] | None = None,
    examined: Mapping[str, np.ndarray] = {},
    decided: Decided | None = None,
) -> pa.Table:
    """One row per image, in the order of `ids`, with the columns COLUMNS, and given_class,
    corrected_class and suggested_class by name.

    The columns that follow from labels and beliefs are those of `believed_columns`. corrected_label and decision are
    `decided`; where nothing is, all given labels stand, and those that the beliefs speak against are for review.
    confidence = belief of corrected_label; what label_score is stands in the table's metadata (`label_score`).
    rank = 1 for the lowest label_score, ties by id; of the noisy images only, where a method scores those itself: its
    score and the margin of the others cannot be compared.

    Args:
      ids: N stable indices or file names.
      split_names: N names: noisy, trusted, validation, held_out.
      given: i32[N], given labels.
      beliefs: f32[N, C], rows on the simplex.
      class_names: C names; None = no columns of names.
      examined: what a method says of the noisy images itself (`Report.columns`), by column, in their order.
        is_label_issue and label_score replace the table's own; other columns are added, null for the other images.
      decided: see `Decided`.

    Returns:
      The table; labels i32, confidence, p_given and label_score f32, rank i64 from 1 to N, null where there is none.

    Raises:
      UserError: for lengths that disagree, labels out of range, or beliefs that are not on the simplex.
    """
    beliefs, given = np.asarray(beliefs, np.float64), np.asarray(given)
    _check(ids, split_names, given, beliefs)
    noisy = np.asarray(split_names) == "noisy"
    if decided is None:
        decided = Decided(given, decide.decisions(beliefs, given, np.inf))
    values = believed_columns(given, beliefs, decided.score) | decided_columns(decided, beliefs)
    for name, column in examined.items():
        whole = values.get(name, np.zeros(len(given), column.dtype))
        whole[noisy] = column
        values[name] = whole
    ranked = noisy if "label_score" in examined else np.full(len(given), True)
    values |= {
        "id": np.asarray(ids),
        "split": pa.array([str(name) for name in split_names], pa.string()),
        "given_label": given.astype(np.int32),
        # Ranked after rounding to f32, so that the file agrees with itself.
        "rank": _rank(np.asarray(ids), values["label_score"], ranked),
    }
    columns = {name: values[name] for name in COLUMNS}
    if class_names is not None:
        names = np.asarray(class_names)
        columns |= {f"{kind}_class": names[values[f"{kind}_label"]] for kind in ("given", "corrected", "suggested")}
    columns |= {name: pa.array(values[name], mask=~noisy) for name in examined if name not in COLUMNS}
    score = "the method's own" if "label_score" in examined else decided.score
    return pa.table(columns).replace_schema_metadata({"label_score": score})


def decided_columns(decided: Decided, beliefs: Float[np.ndarray, "N C"]) -> dict[str, Any]:
    """corrected_label, decision, and how sure the first is."""
    check_labels(decided.corrected, beliefs.shape[1])
    return {
        "corrected_label": decided.corrected.astype(np.int32),
        "decision": pa.array([str(name) for name in decided.decision], pa.string()),
        "confidence": beliefs[np.arange(len(beliefs)), decided.corrected].astype(np.float32),
    }


def believed_columns(
    given: Int[np.ndarray, " N"], beliefs: Float[np.ndarray, "N C"], score: str = SCORES[0]
) -> dict[str, np.ndarray]:
    """What beliefs say of given labels.

    suggested_label = argmax_c b_c, the given label where it ties; p_given = b_ỹ;
    is_label_issue = suggested_label ≠ given_label;
    label_score in [0, 1], up to 1/2 for the issues, is one of two of Northcutt et al. 2021, "Confident Learning":
    "margin" (b_ỹ - max_{c≠ỹ} b_c + 1)/2 (cleanlab's `normalized_margin`), or "p_given", b_ỹ (its `self_confidence`).

    Args:
      given: in [0, C).
      beliefs: rows on the simplex.
      score: one of SCORES.

    Returns:
      Those four columns, by name.
    """
    rows = np.arange(len(given))
    p_given = beliefs[rows, given]
    others = beliefs.copy()
    others[rows, given] = -np.inf
    # A tie is no evidence against the given label.
    suggested = np.where(p_given >= others.max(axis=1), given, others.argmax(axis=1))
    ranks = p_given if score == "p_given" else np.clip((p_given - others.max(axis=1) + 1.0) / 2.0, 0.0, 1.0)
    return {
        "suggested_label": suggested.astype(np.int32),
        "p_given": p_given.astype(np.float32),
        "is_label_issue": suggested != given,
        "label_score": ranks.astype(np.float32),
    }


def _rank(ids: np.ndarray, score: Float[np.ndarray, " N"], ranked: Bool[np.ndarray, " N"]) -> pa.Array:
    """Of the rows `ranked`, null elsewhere."""
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
    check_simplex("beliefs", beliefs)


def check_simplex(place: str, beliefs: Float[np.ndarray, "N C"]) -> None:
    """Raises UserError naming `place` and the first row that is no distribution."""
    # NaN fails the comparison, so it is caught here; an infinity fails the sum.
    on_simplex = (beliefs >= 0.0).all(axis=1) & (np.abs(beliefs.sum(axis=1) - 1.0) <= 1e-3)
    if not on_simplex.all():
        row = int(np.flatnonzero(~on_simplex)[0])
        total, low = beliefs[row].sum(), beliefs[row].min()
        raise UserError(f"{place} row {row}: sum {total:g}, least {low:g}, expected finite, 0 or more, sum 1 ± 0.001")
