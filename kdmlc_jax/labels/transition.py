"""How many labels are wrong, and which: thresholds of a sample, a mixture of two, the transition matrix.

Pure functions on arrays; methods, the report and users call them. Small figures (agreement with the given label, say)
are taken for wrong labels throughout; give losses with their sign turned, or read the upper class.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax
from jax.scipy.special import logsumexp
from jax.typing import ArrayLike

from kdmlc_jax.errors import UserError, choose

CRITERIA = ("variance", "deviation")


class Split(NamedTuple):
    """A sample cut in two: the lower class is `values < threshold`; f32[] each."""

    threshold: jax.Array
    lower_mean: jax.Array
    upper_mean: jax.Array


class Mixture(NamedTuple):
    """Two Gaussians, that with the lower mean first; f32[2] each."""

    weights: jax.Array
    means: jax.Array
    variances: jax.Array


def otsu(values: jax.Array, criterion: str = "variance", bins: int = 1000) -> Split:
    """The threshold s/bins that best separates two classes of a histogram over [0, 1] (Otsu 1979).

    variance:  maximise n₁(μ₁-μ)² + n₂(μ₂-μ)², the variance between the classes
    deviation: maximise [n₁(μ₁-μ)² + n₂(μ₂-μ)²] / [n₁σ₁ + n₂σ₂], as Blind-KD's release does (arXiv 2211.11355)

    n, μ and σ are those of the bins' centres; of thresholds that do equally well (an empty gap) the middle one is
    taken. The class means returned are those of `values`.

    Args:
      values: f32[N] in [0, 1].
      criterion: "variance" | "deviation".
      bins: number of bins, 2 or more.

    Returns:
      The split. Where all values fall into one bin there is nothing to separate: threshold and lower mean are 0.

    Raises:
      UserError: for another criterion.
    """
    choose("criterion", criterion, CRITERIA)
    values = jnp.asarray(values, jnp.float32)
    # Looked up, not multiplied: rounding must not put a value on the other side of an edge than `values < threshold`.
    # Divided by NumPy: XLA multiplies by 1/bins, and many an edge would not be the nearest number to s/bins.
    edges = jnp.asarray(np.arange(1, bins) / bins, jnp.float32)
    bin_of = jnp.searchsorted(edges, values, side="right")
    count = jnp.zeros(bins).at[bin_of].add(1.0)
    # Centred first: with sums of squares around 0 a narrow class would lose its deviation to rounding.
    centre = (jnp.arange(bins) + 0.5) / bins
    centre = centre - jnp.sum(count * centre) / len(values)
    total, first, second = (jnp.cumsum(count * centre**power) for power in (0, 1, 2))
    between, within = jnp.zeros(bins - 1), jnp.zeros(bins - 1)
    for n, moment, square in (
        (total[:-1], first[:-1], second[:-1]),
        (total[-1] - total[:-1], first[-1] - first[:-1], second[-1] - second[:-1]),
    ):
        mean = moment / jnp.maximum(n, 1.0)
        between += n * mean**2
        within += n * jnp.sqrt(jnp.maximum(square / jnp.maximum(n, 1.0) - mean**2, 0.0))
    # A class of one bin has no deviation of its own: that of a uniform bin keeps the quotient finite.
    score = between if criterion == "variance" else between / (within + len(values) / (bins * 12**0.5))
    divides = (total[:-1] > 0) & (total[:-1] < total[-1])
    score = jnp.where(divides, score, -1.0)
    best = total[:-1] == total[jnp.argmax(score)]  # the whole gap: as many values below
    chosen = (jnp.argmax(best) + (bins - 2 - jnp.argmax(best[::-1]))) // 2
    threshold = jnp.where(jnp.any(divides), edges[chosen], 0.0)
    lower = values < threshold
    low, high = (jnp.sum(values * part) / jnp.maximum(jnp.sum(part), 1) for part in (lower, ~lower))
    return Split(*(jnp.asarray(part, jnp.float32) for part in (threshold, low, high)))


@partial(jax.jit, static_argnames=("steps", "floor"))
def gaussian_mixture(values: jax.Array, steps: int = 200, floor: float = 1e-6) -> Mixture:
    """The mixture w₁N(μ₁, v₁) + w₂N(μ₂, v₂) of greatest likelihood, by EM from the halves of `otsu`'s split.

    Args:
      values: f32[N], any finite numbers.
      steps: EM iterations.
      floor: added to both variances, in units of the sample's variance.

    Returns:
      The mixture; where all values are equal, two of the same component.
    """
    values = jnp.asarray(values, jnp.float32)
    low, span = jnp.min(values), jnp.max(values) - jnp.min(values)
    span = jnp.where(span > 1e-15, span, 1.0)  # the square of less is 0, and so were the variances
    scaled = (values - low) / span
    ridge = floor * jnp.var(scaled) + 1e-12
    upper = (scaled >= otsu(scaled).threshold).astype(jnp.float32)

    def maximise(share: jax.Array) -> Mixture:  # share f32[N, 2], rows on the simplex
        n = jnp.sum(share, axis=0) + 1e-6
        means = jnp.sum(share * scaled[:, None], axis=0) / n
        variances = jnp.sum(share * (scaled[:, None] - means[None]) ** 2, axis=0) / n + ridge
        return Mixture(n / jnp.sum(n), means, variances)

    start = jnp.stack([1.0 - upper, upper], axis=1)
    start = jnp.where(jnp.min(jnp.sum(start, axis=0)) > 0, start, 0.5)
    fitted = jax.lax.fori_loop(0, steps, lambda _, m: maximise(posterior(m, scaled)), maximise(start))
    order = jnp.argsort(fitted.means)
    weights, means, variances = (part[order] for part in fitted)
    return Mixture(weights, low + span * means, span**2 * variances)


@jax.jit
def posterior(mixture: Mixture, values: jax.Array) -> jax.Array:
    """f32[N, 2]: the probability of each component, given values f32[N]."""
    away = (values[:, None] - mixture.means[None]) ** 2 / mixture.variances[None]
    joint = jnp.log(mixture.weights)[None] - 0.5 * (away + jnp.log(mixture.variances)[None])
    return jnp.exp(joint - logsumexp(joint, axis=1, keepdims=True))


def counted_transition(beliefs: ArrayLike, given_label: ArrayLike) -> jax.Array:
    """T̂[y, ỹ] = (1 + n(y, ỹ)) / Σ_ỹ' (1 + n(y, ỹ')), n counting the noisy images believed to be y and labelled ỹ.

    Needs no trusted label; what the beliefs get wrong is counted as noise.

    Args:
      beliefs: f32[N, C].
      given_label: i32[N].

    Returns:
      f32[C, C], rows on the simplex.
    """
    beliefs = jnp.asarray(beliefs)
    count = jnp.ones((beliefs.shape[1],) * 2).at[jnp.argmax(beliefs, axis=1), jnp.asarray(given_label)].add(1.0)
    return count / jnp.sum(count, axis=1, keepdims=True)


def fitted_transition(beliefs: ArrayLike, given_label: ArrayLike, steps: int = 50) -> jax.Array:
    """T̂ under which the given labels are most likely: argmax Π_i Σ_y p_y(x_i) T[y, ỹ_i], by EM.

    One step: q_i ∝ p(x_i) T[:, ỹ_i], then T[y, ỹ] ∝ 1 + Σ_i q_iy [ỹ_i = ỹ]. The likelihood is concave in T, and with
    calibrated beliefs (`temperature`) uncertain ones do not blur T̂, which counts (`counted_transition`) they do.

    Args:
      beliefs: p f32[N, C], rows on the simplex.
      given_label: i32[N].
      steps: of EM, from a T halfway between the identity and the even one.

    Returns:
      f32[C, C], rows on the simplex, true y, columns given ỹ.
    """
    p, given = jnp.asarray(beliefs), jnp.asarray(given_label)
    classes = p.shape[1]

    def step(_: int, matrix: jax.Array) -> jax.Array:
        joint = p * matrix.T[given]
        q = joint / jnp.maximum(jnp.sum(joint, axis=1, keepdims=True), 1e-30)
        count = 1.0 + jnp.zeros_like(matrix).at[given].add(q).T
        return count / jnp.sum(count, axis=1, keepdims=True)

    return jax.lax.fori_loop(0, steps, step, 0.5 * jnp.eye(classes) + 0.5 / classes)


def temperature(logits: ArrayLike, label: ArrayLike) -> jax.Array:
    """The t for which softmax(t z) predicts the labels best, in cross-entropy (Guo et al. 2017, arXiv 1706.04599).

    Args:
      logits: z f32[M, C] on rows that the network has not learned from.
      label: i32[M], their true labels.

    Returns:
      f32[], one of 200 values from .02 to 5, evenly spaced in their logarithm; the inverse of Guo's T.
    """
    z, at = jnp.asarray(logits), jnp.asarray(label)[:, None]
    candidates = jnp.geomspace(0.02, 5.0, 200)
    missed = jax.lax.map(lambda t: -jnp.mean(jnp.take_along_axis(log_softmax(t * z), at, axis=1)), candidates)
    return candidates[jnp.argmin(missed)]


def label_right(beliefs: ArrayLike, given_label: ArrayLike, transition: jax.Array, steps: int = 10) -> jax.Array:
    """P(the given label is the true one | image) = q_ỹ T[ỹ, ỹ] / (q T)_ỹ, where q T ≈ p [ours].

    p is a belief about the label that an image carries, as networks trained on noisy labels have it; q, about its true
    class, is the distribution for which KL(p ‖ q T) is least: `steps` steps of EM from the even one,
    q_y ← q_y Σ_c T[y, c] p_c / (q T)_c. How often classes are mistaken for each other then counts beside what the
    networks see in the image.

    Args:
      beliefs: p f32[N, C], rows on the simplex.
      given_label: i32[N].
      transition: T f32[C, C], rows true, columns given, all entries above 0.
      steps: few leave q smoother.

    Returns:
      f32[N] in [0, 1].
    """
    p = jnp.asarray(beliefs)
    even = jnp.full_like(p, 1.0 / p.shape[1])
    q = jax.lax.fori_loop(0, steps, lambda _, q: q * ((p / (q @ transition)) @ transition.T), even)
    label = jnp.asarray(given_label)[:, None]
    kept = jnp.take_along_axis(q, label, axis=1)[:, 0] * jnp.diagonal(transition)[label[:, 0]]
    return jnp.clip(kept / jnp.take_along_axis(q @ transition, label, axis=1)[:, 0], 0.0, 1.0)


def transition(beliefs: np.ndarray, label: np.ndarray) -> np.ndarray:
    """T̂[y, ỹ] = mean of p(ỹ | x) over the trusted images of class y (GLC, Hendrycks et al. 2018, equation 1).

    Args:
      beliefs: f32[M, C] of a network trained on the noisy labels, which has not seen these images.
      label: i32[M], their trusted labels.

    Returns:
      f32[C, C], rows on the simplex; a class without a trusted image has an even row.

    Raises:
      UserError: for lengths that disagree.
    """
    beliefs, label = np.asarray(beliefs, np.float64), np.asarray(label)
    if beliefs.ndim != 2 or len(beliefs) != len(label):
        raise UserError(f"beliefs: shape {beliefs.shape}, expected [{len(label)}, C], a row for each trusted label")
    classes = beliefs.shape[1]
    total = np.zeros((classes, classes))
    np.add.at(total, label, beliefs)
    total[total.sum(axis=1) == 0] = 1.0
    return (total / total.sum(axis=1, keepdims=True)).astype(np.float32)
