"""What a person may rely on: which labels to correct at a promised precision, which to look at, and how sure it is.

Functions of NumPy arrays, for any model's calibrated beliefs. Trusted rows held out of everything play the noisy rows:
each is given every label that T̂ might give it (or its real given label, where known), and answered as a noisy row is.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.errors import in_range
from kdmlc_jax.labels.posterior import posterior, standard_error

KEEP, CORRECT, REVIEW = "keep", "correct", "review"
STEPS = 20  # thresholds tried, each adds as many changes

Threshold = float | int | Float[np.ndarray, " C"]  # of a posterior: for all classes, or for each suggested one


class Answers(NamedTuple):
    """Held-out trusted rows under each label that they might have been given."""

    weight: Float[np.ndarray, "M C"]  # chance that this label was given; rows on the simplex
    answer: Int[np.ndarray, "M C"]  # suggested then
    sure: Float[np.ndarray, "M C"]  # posterior of the suggestion; below 0 where no change would be made
    label: Int[np.ndarray, " M"]  # true
    p_given: Float[np.ndarray, "M C"]  # posterior of that given label
    other: Float[np.ndarray, "M C"]  # posterior of the most likely other one


def answers(
    beliefs: Float[np.ndarray, "M C"],
    label: Int[np.ndarray, " M"],
    transition: Float[np.ndarray, "C C"],
    drawn_from: Float[np.ndarray, "C C"],
    own_given: Int[np.ndarray, " M"] | None = None,
) -> Answers:
    """What is suggested to trusted rows for every given label ỹ, and how likely each ỹ is.

    weight_ỹ = D[y, ỹ], or 1 at the row's own given label; answer = argmax_y q(y | x, ỹ), q by `posterior` with T̂.

    Args:
      beliefs: out of sample, of a chain that the rows had no part in.
      label: true.
      transition: T̂ of that chain.
      drawn_from: D, the matrix that given labels are drawn from. T̂ with its rate at the lower end of its interval
        makes every promise hold for that rate too.
      own_given: -1 where not known.
    """
    rows, classes = beliefs.shape
    every = np.tile(np.arange(classes), rows)
    q = posterior(np.repeat(beliefs, classes, axis=0), transition, every).reshape(rows, classes, classes)
    weight = drawn_from[label]
    if own_given is not None:
        known = own_given >= 0
        weight = np.where(known[:, None], np.eye(classes)[np.maximum(own_given, 0)], weight)
    others = np.where(np.eye(classes, dtype=bool), -1.0, q).max(axis=2)
    return Answers(weight, q.argmax(axis=2), q.max(axis=2), label, np.einsum("icc->ic", q), others)


def join(parts: list[Answers]) -> Answers:
    """The answers of all folds."""
    return Answers(*(np.concatenate(group) for group in zip(*parts, strict=True)))


def changes(
    found: Answers, threshold: Threshold
) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """For each trusted row the chance that its label is changed; changed and then right; wrong though it was right."""
    given = np.arange(found.weight.shape[1])
    limit = np.broadcast_to(threshold, len(given))[found.answer]
    moved = found.weight * ((found.answer != given) & (found.sure >= limit))
    right = moved * (found.answer == found.label[:, None])
    harmed = moved * (given == found.label[:, None])
    return moved.sum(axis=1), right.sum(axis=1), harmed.sum(axis=1)


def evidence_against(values: Float[np.ndarray, " M"], low: float | int) -> float:
    """p-value of "the mean of values is 0 or less", exact for independent values of at least `low` < 0.

    Under it Π_i (1 + b z_i) has mean 1 or less for each bet b in (0, 1/|low|]; so has the mean E over 50 bets, and
    P(E ≥ 1/p) ≤ p (Waudby-Smith and Ramdas 2024, arXiv 2010.09686, with bets fixed beforehand: the order of rows
    does not matter).
    """
    bets = (np.arange(50) + 1) / (51 * -low)
    wealth = np.log1p(bets[:, None] * np.maximum(values, low)[None]).sum(axis=1)
    highest = wealth.max()
    return float(min(1.0, np.exp(-highest) / np.exp(wealth - highest).mean()))


class Promise(NamedTuple):
    """The suggestions with a posterior of at least `threshold` (infinity: none) are right in `precision` or more."""

    threshold: float
    precision: float  # estimate on held-out rows, NaN where there are none
    low: float  # 90 % interval
    high: float


NOTHING = Promise(np.inf, np.nan, np.nan, np.nan)


def promise(
    found: Answers,
    sure: Float[np.ndarray, " F"],
    precision: float = 0.9,
    risk: float = 0.1,
    weight: Float[np.ndarray, " M"] | None = None,
) -> Promise:
    """The largest set of suggested changes that is right in `precision` of its labels, by learn-then-test.

    For threshold τ and row i let a_i be the chance of being changed, b_i of being changed and right.
    H_τ: E[b - π a] ≤ 0, the precision is π at most. Tested by `evidence_against` at level `risk` along a fixed sequence
    (Angelopoulos et al. 2021, arXiv 2110.01052): from the threshold that the noisy rows' own posteriors speak for
    most, count · KL(mean ‖ π), to lower ones, until one is not rejected. P(precision of the result < π) ≤ risk,
    for given labels that come from the matrix of `answers`.

    Args:
      found: `answers` of all folds.
      sure: posteriors of the suggested changes of the noisy rows.
      precision: π.
      risk: a fraction.
      weight: of trusted rows, of mean 1: the promise has to hold with it and without (`posterior.balance`).

    Returns:
      The promise; its threshold is infinite where nothing can be promised.

    Raises:
      UserError: for a precision outside [0, 1].
    """
    in_range("labels.precision", precision, 0.0, 1.0)
    if not len(sure) or not len(found.label):
        return NOTHING
    weights = [np.ones(len(found.label)), *([] if weight is None else [weight])]
    ordered = np.sort(sure)[::-1]
    counts = np.unique(np.linspace(0, len(ordered), STEPS + 1)[1:].round().astype(int).clip(1))
    thresholds = ordered[counts - 1]
    mean = np.cumsum(ordered)[counts - 1] / counts
    mean = np.clip(mean, 1e-6, 1 - 1e-6)
    odds = np.clip(precision, 1e-6, 1 - 1e-6)
    evidence = counts * (mean * np.log(mean / odds) + (1 - mean) * np.log((1 - mean) / (1 - odds)))
    kept = np.inf
    for threshold in thresholds[np.argmax(np.where(mean > odds, evidence, 0.0)) :]:
        moved, right, _ = changes(found, threshold)
        value, least = right - precision * moved, min(-precision, -1e-3)
        if max(evidence_against(value * w, low=least * w.max()) for w in weights) > risk:
            break
        kept = float(threshold)
    ways = (found._replace(weight=found.weight * w[:, None]) for w in weights)
    return Promise(kept, *min(measured_precision(each, kept if np.isfinite(kept) else 0.0) for each in ways))


def measured_precision(found: Answers, threshold: float | int) -> tuple[float, float, float]:
    """Precision of the changes at `threshold` on held-out rows, with a 90 % interval (Wilson's, of the rows' worth).

    The ratio Σ b / Σ a; its variance by the delta method, never less than that of Σ a independent changes with one
    more right and one more wrong among them.
    """
    moved, right, _ = changes(found, threshold)
    total = moved.sum()
    if total <= 0:
        return np.nan, np.nan, np.nan
    ratio = right.sum() / total
    smooth = (right.sum() + 1) / (total + 2)
    spread = np.sqrt(((right - ratio * moved) ** 2).sum()) / total
    spread = max(spread, np.sqrt(smooth * (1 - smooth) / (total + 2)))
    return float(ratio), float(max(0.0, smooth - 1.645 * spread)), float(min(1.0, smooth + 1.645 * spread))


def gains(found: Answers, threshold: Threshold) -> Float[np.ndarray, " M"]:
    """Chance of each held-out trusted row that its label is put right less that it is made wrong."""
    _, right, harmed = changes(found, threshold)
    return right - harmed


def low_mean(values: Float[np.ndarray, " M"]) -> float:
    """95 % lower bound of the mean."""
    return float(values.mean() - 1.645 * standard_error(values))


def class_thresholds(found: Answers, thresholds: tuple[float, ...]) -> Float[np.ndarray, " C"]:
    """For each suggested class the threshold above which changes to it put most labels right; infinity where any makes
    more wrong."""
    given = np.arange(found.weight.shape[1])
    moved = found.weight * (found.answer != given)
    gain = moved * (found.answer == found.label[:, None]) - moved * (given == found.label[:, None])
    tried = np.array(sorted(thresholds, reverse=True))
    total = np.zeros((len(tried) + 1, len(given)))  # first: no change
    for number, at in enumerate(tried, start=1):
        np.add.at(total[number], found.answer, gain * (found.sure >= at))
    return np.concatenate([[np.inf], tried])[total.argmax(axis=0)]


def review_precision(
    found: Answers, posterior_of: Float[np.ndarray, "R C"], threshold: float | int, rows: float | int
) -> float:
    """How many of the suggestions of the labels in review are right, as far as held-out trusted rows tell; NaN where
    they do not.

    (Σ r + k m) / (Σ a + k): a the chance that a held-out row is in review, r that it is and its suggestion is right; m,
    which counts for as much as k `rows`, is the precision of all changes of held-out rows, or where there are none the
    mean posterior of the suggestions of the noisy rows in review.

    Args:
      found: of trusted rows.
      posterior_of: of the noisy rows in review.
      threshold: of `decisions`.
      rows: k.
    """
    moved = found.answer != np.arange(found.weight.shape[1])
    there = found.weight * ((found.p_given < 0.5) & ~(moved & (found.sure >= threshold)))
    right, weight = (there * (found.answer == found.label[:, None])).sum(), there.sum() + rows
    if not len(posterior_of) or weight <= 0:
        return np.nan
    expected = measured_precision(found, 0.0)[0]
    expected = posterior_of.max(axis=1).mean() if np.isnan(expected) else expected
    return float((right + rows * expected) / weight)


def ranking(found: Answers) -> str:
    """Which score ranks wrong labels first on held-out rows, by AUROC: "margin", or else "p_given"."""
    from sklearn.metrics import roc_auc_score  # slow to import

    wrong = np.arange(found.weight.shape[1]) != found.label[:, None]
    rows = found.weight > 0
    if not 0 < wrong[rows].sum() < rows.sum():
        return "p_given"
    plain, margin = (
        roc_auc_score(wrong[rows], -score[rows], sample_weight=found.weight[rows])
        for score in (found.p_given, found.p_given - found.other)
    )
    return "margin" if margin > plain else "p_given"


def decisions(
    posterior_of: Float[np.ndarray, "N C"],
    given_label: Int[np.ndarray, " N"],
    threshold: float | int,
    review: float | int = 0.5,
) -> np.ndarray:
    """str[N]: `correct` where a change is at least as sure as the promise's threshold; `review` where the given label
    is more likely wrong than right, or another change is suggested with a posterior of `review`; else `keep`."""
    rows = np.arange(len(given_label))
    sure, moved = posterior_of.max(axis=1), posterior_of.argmax(axis=1) != given_label
    doubtful = posterior_of[rows, given_label] < review
    return np.where(moved & (sure >= threshold), CORRECT, np.where(doubtful, REVIEW, KEEP))


def rows_needed(found: Answers, precision: float = 0.9, risk: float = 0.1) -> float:
    """How many trusted rows would let `promise` promise something, if more were like these; infinity: none would.

    The wealth of the best bet grows by g = max_τ max_b mean_i log(1 + b z_i) a row; some four of the bets that are
    averaged do nearly as well, so that log(50 / 4 / risk) / g rows are needed.
    """
    growth = 0.0
    bets = (np.arange(50) + 1) / (51 * max(precision, 1e-3))
    for threshold in np.unique(np.quantile(found.sure, np.linspace(0, 0.98, STEPS)).clip(0.0)):
        moved, right, _ = changes(found, threshold)
        z = right - precision * moved
        growth = max(growth, float(np.log1p(bets[:, None] * z[None]).mean(axis=1).max()))
    return float(np.log(12.5 / risk) / growth) if growth > 1e-6 else np.inf
