"""Two ways to know a row: by trusted labels alone, and by what the given labels of all the others teach.

Trusted rows are few and right, noisy ones many and wrong in part. A classifier taught given labels predicts those,
p(ỹ | x), not the truth; but no trusted label has any part in it, so that trusted rows may calibrate it to the truth.
"""

from typing import NamedTuple

import joblib
import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.labels.linear import NEVER, LinearBeliefs, coordinates, fit_temperature, linear_beliefs, log_softmax
from kdmlc_jax.labels.referee import RIDGES, head_coordinates, heads

PARTS = 5  # of the noisy rows, each predicted by heads that had the others
REMEMBERED, REMEMBERED_SIZE = 16, 1 << 20  # answers of `stacked_beliefs`, of so many rows times classes each
_remembered: dict[str, LinearBeliefs] = {}


class View(NamedTuple):
    """Coordinates of the same rows, in which they are told apart."""

    noisy: Float[np.ndarray, "N d"]
    trusted: Float[np.ndarray, "M d"]


def taught_by_given(
    features: Float[np.ndarray, "N D"],
    given_label: Int[np.ndarray, " N"],
    trusted_features: Float[np.ndarray, "M D"],
    classes: int,
    seed: int = 0,
) -> View:
    """log p(ỹ | x), centred, of ridge regression on the given labels of other noisy rows [ours].

    Each part of the noisy rows is predicted by a head on the rest; trusted rows by the mean of all PARTS heads. Ridge
    and temperature are those that predict given labels best, out of part.

    Args:
      features, trusted_features: of equal width.
      given_label: ỹ.
      classes: C.
      seed: draws the parts.
    """
    x, t = head_coordinates(features, trusted_features, seed)
    part = np.random.default_rng(seed).permutation(len(x)) % PARTS
    eye = np.eye(classes, dtype=np.float32)[given_label]
    sums = [((x[part == k].T @ x[part == k]).astype(np.float64), x[part == k].T @ eye[part == k]) for k in range(PARTS)]
    gram, moment = (sum(each) for each in zip(*sums, strict=True))
    best, least = (np.zeros((len(x), classes)), np.zeros((len(t), classes))), np.inf
    for ridge in RIDGES:
        weights = [heads(gram - own, moment - taught, ridge) for own, taught in sums]
        noisy = np.zeros((len(x), classes))
        for k in range(PARTS):
            noisy[part == k] = x[part == k] @ weights[k]
        scale, missed = fit_temperature(noisy, given_label)
        if missed < least:
            least = missed
            best = log_softmax(scale * noisy), np.mean([log_softmax(scale * (t @ w)) for w in weights], axis=0)
    return View(*(scores - scores.mean(axis=1, keepdims=True) for scores in best))


def stacked_beliefs(views: list[View], label: Int[np.ndarray, " M"], classes: int, seed: int = 0) -> LinearBeliefs:
    """`linear_beliefs` of each view and of all of them stacked, whichever predicts trusted rows best out of fold.

    What is asked twice in a process is found once: a run and its baselines ask alike.
    The stack is `linear_beliefs` on each view's own log-beliefs, those of trusted rows out of fold (Wolpert 1992).

    Args:
      views: coordinates of the same noisy and trusted rows.
      label: of the trusted rows.
      classes: C.
      seed: draws the folds.

    Raises:
      UserError: as `linear_beliefs`.
    """
    if sum(len(rows) for rows in views[0]) * classes > REMEMBERED_SIZE:
        return _stacked(views, label, classes, seed)
    asked = joblib.hash((views, label, classes, seed))
    if asked not in _remembered:
        _remembered[asked] = _stacked(views, label, classes, seed)
        for old in list(_remembered)[:-REMEMBERED]:
            del _remembered[old]
    return _remembered[asked]


def _stacked(views: list[View], label: Int[np.ndarray, " M"], classes: int, seed: int) -> LinearBeliefs:
    found = [linear_beliefs(*view, label, classes, seed) for view in views]
    if len(found) > 1 and (found[0].fold != NEVER).any():
        logs = [
            np.concatenate([np.log(getattr(each, rows)) for each in found], axis=1) for rows in ("noisy", "trusted")
        ]
        found.append(linear_beliefs(*coordinates(*logs), label, classes, seed))
    return min(found, key=lambda each: out_of_fold_loss(each, label))


def out_of_fold_loss(beliefs: LinearBeliefs, label: Int[np.ndarray, " M"]) -> float:
    """Mean of -log p of trusted rows that are held out of some fold."""
    rows = np.flatnonzero(beliefs.fold != NEVER)
    return float(-np.log(beliefs.trusted[rows, label[rows]]).mean()) if len(rows) else 0.0
