"""Beliefs of a logistic regression on features, calibrated and out of sample: what trusted rows alone can say.

Functions of NumPy arrays; no network. The features may be a network's, published ones, or the pixels themselves.
"""

import warnings
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from kdmlc_jax.errors import UserError

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ENOUGH = 2_000  # noisy rows that tell a mean well enough
NEVER = -1  # the fold of a row that is never held out: the only one of its class


class LinearBeliefs(NamedTuple):
    """What `linear_beliefs` returns; rows of beliefs lie on the simplex."""

    noisy: Float[np.ndarray, "N C"]
    trusted: Float[np.ndarray, "M C"]  # of the fold that did not have the row; even where fold is NEVER
    fold: Int[np.ndarray, " M"]
    some: Int[np.ndarray, " n"]  # noisy rows that each fold's fit was asked as well
    folds: Float[np.ndarray, "F n C"]  # its beliefs of them
    penalty: float
    temperature: float


def coordinates(
    features: Float[np.ndarray, "N D"], trusted_features: Float[np.ndarray, "M E"]
) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, "M d"]]:
    """Standardised features in the span of the trusted ones, d = min(M, D) [ours].

    x ← (x - mean) / deviation over all rows. A linear fit to trusted rows with an L2 penalty has its weights in their
    span, so that fits to these coordinates are the fits to all D features.

    Args:
      features: of the noisy rows.
      trusted_features: of the trusted rows; E = D, else they are refused.

    Returns:
      Both in float64.

    Raises:
      UserError: for features that are not finite, or different numbers of them.
    """
    if features.shape[1] != trusted_features.shape[1]:
        raise UserError(f"trusted features: {trusted_features.shape[1]}, expected {features.shape[1]} as of noisy rows")
    if not (np.isfinite(features).all() and np.isfinite(trusted_features).all()):
        raise UserError("features: some are NaN or infinite, expected finite numbers")
    noisy, trusted = standardised(features, trusted_features)
    if len(trusted) >= trusted.shape[1]:
        return noisy, trusted
    _, _, basis = np.linalg.svd(trusted, full_matrices=False)
    return noisy @ basis.T, trusted @ basis.T


def standardised(
    features: Float[np.ndarray, "N D"], trusted_features: Float[np.ndarray, "M D"]
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "M D"]]:
    """(x - mean) / deviation by column, over all rows, in float64; M may be 0."""
    count, more = len(features), len(trusted_features)
    mean = (features.sum(axis=0, dtype=np.float64) + trusted_features.sum(axis=0, dtype=np.float64)) / (count + more)
    square = ((features - mean) ** 2).sum(axis=0) + ((trusted_features - mean) ** 2).sum(axis=0)
    scale = 1.0 / np.sqrt(square / (count + more) + 1e-12)
    return (features - mean) * scale, (trusted_features - mean) * scale


def stratified(label: Int[np.ndarray, " M"], folds: int, seed: int) -> Int[np.ndarray, " M"]:
    """A fold for each row, each class spread over them as evenly as it goes; NEVER for a row alone in its class."""
    order = np.random.default_rng(seed).permutation(len(label))
    order = order[np.argsort(label[order], kind="stable")]
    alone = np.bincount(label)[label[order]] == 1
    fold = np.full(len(label), NEVER)
    fold[order[~alone]] = np.arange((~alone).sum()) % folds
    return fold


def fold_count(rows: int) -> int:
    """10 folds below 100 rows, where each row counts, else 5; never more than rows."""
    return max(2, min(rows, 10 if rows < 100 else 5))


def regression(
    rows: Float[np.ndarray, "M d"], label: Int[np.ndarray, " M"], penalty: float, tol: float = 1e-3
) -> tuple[Float[np.ndarray, "d c"], Float[np.ndarray, " c"]]:
    """Weights and bias of an L2-penalised logistic regression, for the c classes that some row has, in their order.

    C = `penalty` and `tol` are scikit-learn's.
    """
    classes = len(np.unique(label))
    if classes == 1:
        return np.zeros((rows.shape[1], 1)), np.zeros(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what matters is judged on held-out rows
        model = LogisticRegression(C=penalty, max_iter=200, tol=tol).fit(rows, label)
    kernel, bias = model.coef_.T, model.intercept_
    if classes == 2:  # of the second one only
        kernel, bias = np.pad(kernel, ((0, 0), (1, 0))), np.pad(bias, (1, 0))
    return kernel, bias


def log_beliefs(
    rows: Float[np.ndarray, "M d"],
    label: Int[np.ndarray, " M"],
    queries: Float[np.ndarray, "N d"],
    classes: int,
    penalty: float,
) -> Float[np.ndarray, "N C"]:
    """log p(y | x) of `regression`.

    A class without a row is believed e⁻¹² of the most likely one's.
    """
    kernel, bias = regression(rows, label, penalty)
    result = np.full((len(queries), classes), -12.0)
    result[:, np.unique(label)] = log_softmax(queries @ kernel + bias)
    return np.maximum(result, result.max(axis=1, keepdims=True) - 30.0)


def log_softmax(scores: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """log softmax over the last axis."""
    scores = scores - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def log_loss(log_p: Float[np.ndarray, "N C"], label: Int[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """-log p of the label, a row."""
    return -log_p[np.arange(len(label)), label]


def fit_temperature(scores: Float[np.ndarray, "M C"], label: Int[np.ndarray, " M"]) -> tuple[float, float]:
    """The t in [e⁻⁴, e³] for which softmax(t z) predicts best (Guo et al. 2017, arXiv 1706.04599), and its mean loss.

    A row of weight one that t = 1 predicts as well as any is added as (log t)² / 2: a handful of rows must not send t
    to an end of the range.
    """

    def loss(log_t: float) -> float:
        return float(log_loss(log_softmax(np.exp(log_t) * scores), label).sum() + 0.5 * log_t**2)

    low, high, golden = -4.0, 3.0, (5**0.5 - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(14):  # golden sections: log t to .01, in a loss with one minimum
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = loss(right)
    best = np.exp((low + high) / 2)
    return float(best), float(log_loss(log_softmax(best * scores), label).mean())


def calibrated(scores: Float[np.ndarray, "N C"], temperature: float | int, rows: int) -> Float[np.ndarray, "N C"]:
    """softmax(t z) with one more row of evenly spread label among the `rows` it was fitted to (rule of succession)."""
    p = np.exp(log_softmax(temperature * scores))
    return (rows * p + 1.0 / p.shape[1]) / (rows + 1.0)


def choose_penalty(
    trusted: Float[np.ndarray, "M d"], label: Int[np.ndarray, " M"], fold: Int[np.ndarray, " M"], classes: int
) -> tuple[Float[np.ndarray, "M C"], float, float]:
    """Out-of-fold log-beliefs, C and temperature of least out-of-fold cross-entropy, C of PENALTIES."""
    held = fold != NEVER
    if not held.any():  # nothing can be judged: hardly believe anything
        return np.zeros((len(label), classes)), PENALTIES[0], 0.1
    chosen, least = (np.zeros((len(label), classes)), PENALTIES[0], 1.0), np.inf
    for penalty in PENALTIES:
        found = np.zeros((len(label), classes))
        for k in np.unique(fold[held]):
            out = fold == k
            found[out] = log_beliefs(trusted[~out], label[~out], trusted[out], classes, penalty)
        temperature, missed = fit_temperature(found[held], label[held])
        if missed < least:
            chosen, least = (found, penalty, temperature), missed
        elif missed > 1.02 * least:
            break  # the loss has one minimum in C, and the fits beyond it are the slow ones
    return chosen


def linear_beliefs(
    noisy: Float[np.ndarray, "N d"],
    trusted: Float[np.ndarray, "M d"],
    label: Int[np.ndarray, " M"],
    classes: int,
    seed: int = 0,
) -> LinearBeliefs:
    """Calibrated p(y | x) of a logistic regression on the trusted rows, with C and temperature chosen out of fold.

    C of PENALTIES with the least out-of-fold cross-entropy at its own best temperature t;
    p = (M softmax(t z) + 1/C) / (M + 1). No row's belief comes from a fit that had the row.

    Args:
      noisy, trusted: `coordinates`.
      label: of the trusted rows.
      classes: C.
      seed: draws the folds.

    Returns:
      Beliefs of all rows; noisy ones by a fit to all trusted rows.

    Raises:
      UserError: for fewer than two trusted rows, or labels out of range.
    """
    if len(label) < 2 or label.min() < 0 or label.max() >= classes:
        raise UserError(f"trusted labels: {len(label)}, expected two or more, of 0 to {classes - 1}")
    fold = stratified(label, fold_count(len(label)), seed)
    scores, penalty, temperature = choose_penalty(trusted, label, fold, classes)
    rows = len(label)
    some = np.arange(0, len(noisy), max(1, len(noisy) // ENOUGH))
    others = [
        calibrated(log_beliefs(trusted[fold != k], label[fold != k], noisy[some], classes, penalty), temperature, rows)
        for k in range(fold.max() + 1)
    ]
    fitted = log_beliefs(trusted, label, noisy, classes, penalty)
    folds = np.stack(others) if others else np.zeros((0, len(some), classes))
    return LinearBeliefs(
        calibrated(fitted, temperature, rows),
        calibrated(scores, temperature, rows),
        fold,
        some,
        folds,
        penalty,
        temperature,
    )
