"""How the noise came about, and which label is right: T̂ by EM on calibrated beliefs, and the posterior that follows.

Functions of NumPy arrays. Beliefs must be calibrated and out of sample (`linear`): those that have memorised given
labels tell T̂ that there is no noise.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm as normal
from scipy.stats import t as student

LARGEST = 20_000  # rows that T̂ is fitted to: more move it by less than the beliefs' own errors do


class Noise(NamedTuple):
    """T̂, rows true and columns given classes, and the share of each true class among the noisy rows."""

    transition: Float[np.ndarray, "C C"]
    prior: Float[np.ndarray, " C"]

    @property
    def rate(self) -> float:
        """The share of wrong labels, Σ_y π_y (1 - T[y, y])."""
        return float(self.prior @ (1.0 - np.diagonal(self.transition)))


def fit_noise(
    beliefs: Float[np.ndarray, "N C"],
    given_label: Int[np.ndarray, " N"],
    strength: float | int | None = None,
    pairs: Float[np.ndarray, "C C"] | None = None,
    steps: int = 300,
) -> Noise:
    """T̂ of greatest posterior probability, by EM (Dawid and Skene 1979 with one annotator and beliefs for a prior).

    q_i ∝ p(x_i) T[:, ỹ_i];  T[y, ỹ] ∝ Σ_i q_iy [ỹ_i = ỹ] + n[y, ỹ] + s M[y, ỹ],  M = (1 - r) I + r (1 - I) / (C - 1)
    with r the rate itself: classes of which little is known are taken to be like the others.

    Args:
      beliefs: p, calibrated and out of sample.
      given_label: ỹ.
      strength: s, in rows a class; None = √C.
      pairs: n, counts of trusted rows whose own given label is known.
      steps: of EM at most; it ends when no entry moves by 1e-5.

    Returns:
      T̂ and the mean of q.
    """
    classes = beliefs.shape[1]
    keep = slice(None, None, max(1, -(-len(given_label) // LARGEST)))
    given = np.eye(classes)[given_label[keep]]
    p = np.asarray(beliefs[keep], np.float64)
    strength = classes**0.5 if strength is None else strength
    known = np.zeros((classes, classes)) if pairs is None else pairs
    off = (1.0 - np.eye(classes)) / max(1, classes - 1)
    matrix = 0.6 * np.eye(classes) + 0.4 * off
    share = p.mean(axis=0)
    for _ in range(steps):
        q = p * (given @ matrix.T)
        q /= q.sum(axis=1, keepdims=True)
        share = q.mean(axis=0)
        count = q.T @ given + known
        rate = 1.0 - np.trace(count) / count.sum()
        count += strength * ((1.0 - rate) * np.eye(classes) + rate * off) + 1e-6
        new = count / count.sum(axis=1, keepdims=True)
        moved = np.abs(new - matrix).max()
        matrix = new
        if moved < 1e-5:
            break
    return Noise(matrix, share)


def posterior(
    beliefs: Float[np.ndarray, "N C"], transition: Float[np.ndarray, "C C"], given_label: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "N C"]:
    """q(y | x, ỹ) ∝ p(y | x) T[y, ỹ]; rows on the simplex."""
    q = beliefs * transition.T[given_label]
    return q / np.maximum(q.sum(axis=1, keepdims=True), 1e-300)


def towards_clean(transition: Float[np.ndarray, "C C"], share: float | int) -> Float[np.ndarray, "C C"]:
    """The matrix with `share` of its wrong labels: share T + (1 - share) I."""
    return share * transition + (1.0 - share) * np.eye(len(transition))


def most_noise(transition: Float[np.ndarray, "C C"]) -> float:
    """The λ of `towards_clean` that leaves .02 on the diagonal of every row: beyond it entries may turn negative."""
    return 0.98 / max(1.0 - float(np.diagonal(transition).min()), 1e-6)


class Interval(NamedTuple):
    """An estimate with its 90 % interval; NaN where it cannot be made."""

    estimate: float
    low: float
    high: float


def standard_error(values: Float[np.ndarray, "*K n"]) -> Float[np.ndarray, "*K"]:
    """s / √n of the last axis, widened for few rows: two of it are exceeded as seldom as by a normal distribution
    (Student's t with n - 1 degrees of freedom). Infinite for fewer than two rows."""
    rows = values.shape[-1]
    if rows < 2:
        return np.full(values.shape[:-1], np.inf)
    return np.asarray(student.ppf(normal.cdf(2.0), rows - 1) / 2.0 * values.std(axis=-1, ddof=1) / rows**0.5)


def balance(
    label: Int[np.ndarray, " M"], given_label: Int[np.ndarray, " N"], rows: Bool[np.ndarray, " M"]
) -> Float[np.ndarray, " M"]:
    """Weights that bring the classes among trusted `rows` towards their shares among the given labels, of mean 1 there.

    r_i = (¾ g_c / Σ g + ¼ n_c / Σ n) / (n_c / Σ n), c = y_i; g and n count given and trusted labels of the classes that
    `rows` have. Trusted rows that happen to be of one class above all would vouch for labels that are all of that
    class; of a class that is never given, on the other hand, they alone tell [ours].
    """
    trusted, given = (np.bincount(each, minlength=label.max(initial=0) + 1) for each in (label[rows], given_label))
    given = np.where(trusted > 0, given[: len(trusted)], 0)
    ratio = 0.75 * given / np.maximum(trusted, 1) * trusted.sum() / max(given.sum(), 1) + 0.25
    return ratio[label]


def oddness(beliefs: Float[np.ndarray, "N C"], transition: Float[np.ndarray, "C C"]) -> Float[np.ndarray, "N C"]:
    """w(x, ỹ) = (p_ỹ - (p T)_ỹ) / (½ p_ỹ + ½ (p T)_ỹ) in [-2, 2]: how much rather a label is right than noise.

    The derivative of the log-likelihood of given labels in λ, at λ = ½ of λ T + (1 - λ) I, with its sign turned.
    """
    noisy = beliefs @ transition
    return 2.0 * (beliefs - noisy) / (beliefs + noisy)


def share_of_noise(
    trusted: Float[np.ndarray, "M C"],
    label: Int[np.ndarray, " M"],
    fold: Int[np.ndarray, " M"],
    noisy: Float[np.ndarray, "F n C"],
    given_label: Int[np.ndarray, " n"],
    transition: Float[np.ndarray, "C C"],
    weight: Float[np.ndarray, " M"] | None = None,
) -> Interval:
    """How much of T̂'s noise there is: the λ for which λ T̂ + (1 - λ) I explains the given labels [ours].

    EM takes a classifier's own confusions for noise; trusted rows know better. With w of `oddness`, by the fit that
    had no part of row i, v_i = w(x_i, y_i), u_i = Σ_ỹ T̂[y_i, ỹ] w(x_i, ỹ), and a_i, the mean of w(x, ỹ) over noisy
    rows: mean[(1 - λ) v + λ u] = mean a, so that λ = Σ (v - a) / Σ (v - u). v and u are first freed of what
    Σ_y p_y w_y foretells of them, whose mean over the noisy rows is known (control variate). The 90 % interval is that
    of the ratio (delta method over trusted and noisy rows).

    Args:
      trusted: p of trusted rows, out of sample.
      label: true.
      fold: of trusted rows; none negative.
      noisy: p of noisy rows by each fold's fit.
      given_label: of these.
      transition: T̂.
      weight: of trusted rows, of mean 1 (`balance`); None = 1.

    Returns:
      λ in [0, λ₁], λ₁ leaving .02 on T's diagonal. The estimate is the mean of the normal distribution of λ within
      these: where beliefs tell little, neither end is taken for granted.
    """
    most = most_noise(transition)
    if not len(label):
        return Interval(1.0, 0.0, most)
    mine, theirs = oddness(trusted, transition), np.stack([oddness(p, transition) for p in noisy])
    expected = (trusted * mine).sum(axis=1) - (noisy * theirs).sum(axis=2).mean(axis=1)[fold]
    right, drawn = mine[np.arange(len(label)), label], (transition[label] * mine).sum(axis=1)
    given = theirs[:, np.arange(len(given_label)), given_label].mean(axis=1)[fold]
    weight = np.ones(len(label)) if weight is None else weight
    less, spread = (weight * (v - slope(v, expected) * expected) for v in (right - given, right - drawn))
    if spread.mean() <= 1e-6:
        return Interval(min(1.0, most), 0.0, most)
    share = less.sum() / spread.sum()
    among_noisy = theirs[:, np.arange(len(given_label)), given_label].mean(axis=0).var() / len(given_label)
    variance = ((less - share * spread) ** 2).mean() / len(label) * (1.0 + 2.0 / len(label)) + among_noisy + 1e-12
    error = variance**0.5 / spread.mean()
    grid = np.linspace(0.0, most, 201)
    weight = np.exp(-0.5 * np.minimum(((grid - share) / error) ** 2 - (((grid - share) / error) ** 2).min(), 700.0))
    low, high = (float(np.clip(share + z * error, 0.0, most)) for z in (-1.645, 1.645))
    return Interval(float(np.clip((grid * weight).sum() / weight.sum(), low, max(low, high))), low, high)


def slope(value: Float[np.ndarray, " M"], by: Float[np.ndarray, " M"]) -> float:
    """Of the least-squares line, with two rows' worth of no slope."""
    moved = by - by.mean()
    return float((moved * (value - value.mean())).sum() / ((moved**2).sum() * (1 + 2 / len(by)) + 1e-12))


def counted_rate(label: Int[np.ndarray, " M"], own_given: Int[np.ndarray, " M"]) -> Interval:
    """The share of wrong labels among trusted rows whose own given label is known, with Wilson's 90 % interval."""
    known = own_given >= 0
    rows, wrong, z = int(known.sum()), int((own_given[known] != label[known]).sum()), 1.645
    centre = (wrong + z**2 / 2) / (rows + z**2)
    away = z * (wrong * (rows - wrong) / max(rows, 1) + z**2 / 4) ** 0.5 / (rows + z**2)
    return Interval(wrong / max(rows, 1), max(0.0, centre - away), min(1.0, centre + away))
