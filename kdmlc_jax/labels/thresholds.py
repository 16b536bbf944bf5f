"""A sample of numbers cut in two: Otsu's threshold, and a mixture of two Gaussians.

Functions of host arrays, for whole sets. Small figures (agreement with the given label, say) are taken for wrong
labels; of losses the upper class are the wrong ones.
"""

import warnings
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from kdmlc_jax.errors import choose
from kdmlc_jax.shapes import Scalar

CRITERIA = ("variance", "deviation")


class Split(NamedTuple):
    """A sample cut in two: the lower class is `values < threshold`; f32[] each."""

    threshold: Scalar
    lower_mean: Scalar
    upper_mean: Scalar


def otsu(values: Float[ArrayLike, " N"], criterion: str = "variance", bins: int = 1000) -> Split:
    """The threshold s/bins that best separates two classes of a histogram over [0, 1] (Otsu 1979).

    variance:  maximise n₁(μ₁-μ)² + n₂(μ₂-μ)², the variance between the classes
    deviation: maximise [n₁(μ₁-μ)² + n₂(μ₂-μ)²] / [n₁σ₁ + n₂σ₂], as Blind-KD's release does (arXiv 2211.11355)

    n, μ and σ are those of the bins' centres; of thresholds that do equally well (an empty gap) the middle one is
    taken. The class means returned are those of `values`.

    Values are in [0, 1]; where all fall into one bin there is nothing to separate: threshold and lower mean are 0.

    Raises:
      UserError: for another criterion.
    """
    choose("criterion", criterion, CRITERIA)
    values = np.asarray(values, np.float32)
    # Looked up, not multiplied: rounding must not put a value on the other side of an edge than `values < threshold`.
    edges = (np.arange(1, bins) / bins).astype(np.float32)
    count = np.bincount(np.searchsorted(edges, values, side="right"), minlength=bins)
    centre = (np.arange(bins) + 0.5) / bins
    centre -= count @ centre / len(values)
    total, first, second = (np.cumsum(count * centre**power) for power in (0, 1, 2))
    between, within = np.zeros(bins - 1), np.zeros(bins - 1)
    for n, moment, square in (
        (total[:-1], first[:-1], second[:-1]),
        (total[-1] - total[:-1], first[-1] - first[:-1], second[-1] - second[:-1]),
    ):
        mean = moment / np.maximum(n, 1)
        between += n * mean**2
        within += n * np.sqrt(np.maximum(square / np.maximum(n, 1) - mean**2, 0))
    # A class of one bin has no deviation of its own: that of a uniform bin keeps the quotient finite.
    score = between if criterion == "variance" else between / (within + len(values) / (bins * 12**0.5))
    divides = (total[:-1] > 0) & (total[:-1] < total[-1])
    if not divides.any():
        return Split(*map(jnp.float32, (0.0, 0.0, values.mean())))
    below = total[np.argmax(np.where(divides, score, -1))]
    gap = np.flatnonzero(total[:-1] == below)  # all thresholds with as many values below
    threshold = edges[(gap[0] + gap[-1]) // 2]
    lower = values < threshold
    means = (values[part].mean(dtype=np.float64) for part in (lower, ~lower))
    return Split(*map(jnp.float32, (threshold, *means)))


def upper_probability(values: Float[ArrayLike, " N"], floor: float = 1e-6) -> Float[np.ndarray, " N"]:
    """P(upper component | value) under the mixture of two Gaussians of greatest likelihood, the upper that of the
    larger mean; by scikit-learn's EM, from the halves of `otsu`'s split.

    `floor` is added to both variances, in units of the sample's variance. ½ where all values are equal.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    values = np.asarray(values, np.float64)
    span = np.ptp(values)
    if span == 0:
        return np.full(len(values), 0.5, np.float32)
    scaled = (values - values.min()) / span
    ridge = floor * scaled.var()
    lower = scaled.astype(np.float32) < otsu(scaled).threshold
    halves = scaled[lower], scaled[~lower]
    mixture = GaussianMixture(
        2,
        covariance_type="spherical",
        tol=1e-10,
        reg_covar=ridge,
        max_iter=200,
        weights_init=[len(half) / len(scaled) for half in halves],
        means_init=[[half.mean()] for half in halves],
        precisions_init=[1 / (half.var() + ridge) for half in halves],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # components that lie in each other take thousands of steps
        mixture.fit(scaled[:, None])
    shares = mixture.predict_proba(scaled[:, None])
    return shares[:, np.argmax(mixture.means_[:, 0])].astype(np.float32)
