"""How well a label table finds the wrong labels, where the true ones are known."""

import numpy as np

from kdmlc_jax.errors import UserError


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
    from sklearn import metrics  # slow to import

    hits, flagged, noisy = int((is_noisy & flags).sum()), int(flags.sum()), int(is_noisy.sum())
    return {
        "flagged": flagged,
        "precision": hits / flagged if flagged else None,
        "recall": hits / noisy if noisy else None,
        "f1": 2 * hits / (flagged + noisy) if noisy else None,
        "auroc": float(metrics.roc_auc_score(is_noisy, -score)) if 0 < noisy < len(is_noisy) else None,
        "average_precision": float(metrics.average_precision_score(is_noisy, -score)) if noisy else None,
    }
